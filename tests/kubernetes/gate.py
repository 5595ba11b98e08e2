"""A TCP gate before the API server: lets bytes through, holds them, or cuts every connection."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path


class Gate:
    """Listens on a port of its own. Open at first."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def start(self) -> int:
        """The port to connect to."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        await self.cut()

    def hold(self) -> None:
        """Nothing goes through; connections stay open and seem alive."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    async def cut(self) -> None:
        """End every connection there is; new ones are as open as the gate."""
        pipes = tuple(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        self.connections += 1
        there: asyncio.StreamWriter | None = None
        try:
            back, there = await asyncio.open_connection("127.0.0.1", self._target)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pipe(reader, there))
                both.create_task(self._pipe(back, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass  # a connection that ends, from either side or by us
        finally:
            self._pipes.discard(task)
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await self._open.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # the other half ends too


def through(kubeconfig: str, port: int) -> str:
    """A copy of a kubeconfig of the test cluster that goes to another port of this machine."""
    config = json.loads(Path(kubeconfig).read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    path = Path(kubeconfig).with_suffix(f".{port}")
    path.write_text(json.dumps(config))
    return str(path)
