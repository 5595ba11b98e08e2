"""`reconciler xds serve`, put together: files → core → gRPC, with CSDS, health and reflection.

It listens for clients once the files have been read, or resources were handed over, and for whoever
asks how it is before that. Files that are wrong then end the process, later the last good state
stays. A stop says so to health checks, ends the streams one after the other
(`--drain`), and serves them until then.

CSDS shows what others are served. So where clients come over TLS, it is not on their port but on
`--admin`, which is for this machine only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import structlog

from reconciler import local, starting, tls
from reconciler.config import DiscoveryConfig, parse_address
from reconciler.core.discovery.requests import MAX_REQUEST
from reconciler.server.discovery.parts import Parts
from reconciler.server.discovery.status import Status
from reconciler.server.rotation import watch_certificate
from reconciler.server.transport import TRANSPORTS
from reconciler.signals import stop_on_signals

_GRACE_SECONDS: Final = 5.0
"""For the last streams to end at a stop."""


async def run(config: DiscoveryConfig, *, ready: Callable[[int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is told the port (0 for a Unix socket).

    Raises ConfigError (also: what is wrong with the files) and UnavailableError.
    """
    log = structlog.get_logger("xds")
    stop = asyncio.Event()
    keys = None
    if not config.insecure:
        keys = tls.KeyFiles(config.tls_cert, config.tls_key, config.tls_ca)
    async with AsyncExitStack() as stack:
        stop_on_signals(stack, stop)
        parts = await Parts.prepare(
            parse_address(config.push) if config.push else config.resources,
            stop,
            stack,
            log,
            open=keys is None,
            cluster=config.cluster_name,
            response_bytes=config.response_bytes,
            initial_rate=config.initial_rate or None,
        )
        driver, more = parts.driver, parts.more
        service = TRANSPORTS[config.transport](
            driver,
            parse_address(config.listen),
            keys,
            methods=driver.methods(),
            named=(),
            drained=driver.drained,
            options=_options(config),
            add=parts.register,
            cluster=config.cluster_name,
            max_stream_age=config.max_stream_age,
            max_streams=config.max_streams,
            refused=lambda peer, status, reason: log.warning(
                "stream refused", peer=peer, status=status, reason=reason
            ),
        )
        driver.serve(service)

        def unready() -> str:
            if stop.is_set():
                return "the server is shutting down"
            return "" if parts.files.good else "waiting for resources"

        status = Status(
            driver,
            parts.files,
            parts.polls.answered,
            service.traffic,
            service.refused,
            keys.expires if keys is not None else lambda: 0.0,
            unready,
        )
        for where, routes in ((config.status, status.routes), (config.metrics, status.public)):
            if where:
                served = local.serve(routes(), parse_address(where))
                await stack.enter_async_context(served)
        await parts.begin()
        starting.settle(stack)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        if config.admin:
            await more.admin(parse_address(config.admin), stack)
        if keys is not None:
            tasks.create_task(watch_certificate(keys, _alarm(log), log, stop), name="certificate")
        if config.rest:
            served = local.serve(
                parts.polls.routes(), parse_address(config.rest), max_body=MAX_REQUEST
            )
            await stack.enter_async_context(served)
        await service.start()
        # From here on everything goes on, health checks too, until the last stream has ended.
        stack.push_async_callback(service.stop, _GRACE_SECONDS, config.drain)
        watching = tasks.create_task(parts.follow(), name="files")
        await more.serving(True)
        log.info("serving", listen=config.listen, port=service.port,
                 resources=driver.state.count)  # fmt: skip
        if ready is not None:
            ready(service.port)

        await stop.wait()
        log.info("stopping", streams=sum(each.streams for each in service.traffic.values()))
        await more.serving(False)
        watching.cancel()


def _options(config: DiscoveryConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.keepalive_time_ms", int(config.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout * 1000)),
    ]


def _alarm(log: Any) -> Callable[[str, str, str], None]:
    return lambda kind, object, text: log.warning("alarm", kind=kind, object=object, text=text)
