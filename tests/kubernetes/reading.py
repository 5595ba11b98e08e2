"""A reader of a source for tests: holds what batches told, and checks what every batch promises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, cast

from reconciler.core.objects import Delete, KubeObject, ObjectKey, Upsert
from reconciler.errors import Rejected
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.kinds import Kind
from reconciler.server.kubernetes.reflector import Timing
from reconciler.server.kubernetes.source import CORE, Batch, Source

WAIT: Final = 60.0
FAST: Final = Timing(first=0.05, limit=0.5)


async def wait_until(condition: Callable[[], bool]) -> None:
    """For what nobody tells: looked at often, TimeoutError after WAIT."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)


class Reading:
    """What was told so far. history: every change that was told of a key, "put" or "gone"."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.objects: dict[ObjectKey, KubeObject] = {}
        self.others: dict[str, dict[ObjectKey, Any]] = {}
        self.problems: tuple[Rejected, ...] = ()
        self.positions: dict[str, int] = {}
        self.history: dict[ObjectKey, list[str]] = {}
        self.batches = 0
        self._batches = cast(Any, source.batches())

    async def next(self) -> Batch:
        async with asyncio.timeout(WAIT):
            batch: Batch = await anext(self._batches)
        self.batches += 1
        for change in batch.changes:
            self._take(change)
        for resource, changed in batch.others.items():
            held = self.others.setdefault(resource, {})
            for key, object in changed.items():
                if object is None:
                    del held[key]
                else:
                    held[key] = object
        self.problems = batch.problems
        for resource, position in batch.positions.items():
            assert position >= self.positions.get(resource, -1), "a position went back"
            self.positions[resource] = position
        return batch

    def _take(self, change: Upsert | Delete) -> None:
        if isinstance(change, Upsert):
            assert self.objects.get(change.key) != change.object, "told twice"
            self.objects[change.key] = change.object
            self.history.setdefault(change.key, []).append("put")
        else:
            self.objects.pop(change.key, None)
            self.history.setdefault(change.key, []).append("gone")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Read batches until this holds; TimeoutError after WAIT."""
        async with asyncio.timeout(WAIT):
            while not condition():
                await self.next()

    async def caught_up(self, resource: str, version: str | int) -> None:
        await self.until(lambda: self.positions.get(resource, -1) >= int(version))

    def of(self, kind: str, namespace: str) -> dict[str, Any]:
        """Objects of a kind in a namespace, by name; by a prefix of names for "<prefix>*"."""
        return {
            key.name: object
            for key, object in self.objects.items()
            if key.kind == kind
            and (
                key.name.startswith(namespace[:-1])
                if namespace.endswith("*")
                else key.namespace == namespace
            )
        }


@contextlib.asynccontextmanager
async def reading(
    client: ApiClient,
    kinds: Sequence[Kind[Any]] = CORE,
    timing: Timing = FAST,
) -> AsyncIterator[Reading]:
    """The first batch is read already."""
    reader = Reading(Source(client, kinds, random=lambda: 0.5, timing=timing))
    try:
        await reader.next()
        yield reader
    finally:
        await reader._batches.aclose()
