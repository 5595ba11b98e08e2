"""The cluster's objects from the API server: batches of changes, as `manifests` gives of files.

    source = Source(client, random=random.random)
    async for batch in source.batches(): ...      # the first is the whole initial state

Every kind has a reflector of its own. What they tell is collected until the reader takes it, one
change an object, so a reader that is slow gets larger batches and never a queue without a bound.

Across kinds the API has no order; a batch says by `positions` what it is of. Only the first lists
are made one after the other, in the order of the kinds: each is of a state not older than those
before it. So a journal that comes before the objects that were written after it is never ahead of
what it is compared with.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from reconciler.core.objects import (
    Change,
    Delete,
    EndpointSlice,
    Namespace,
    NetworkPolicy,
    Node,
    ObjectKey,
    Pod,
    Upsert,
    closed,
    explained,
    validate,
)
from reconciler.errors import Rejected
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.kinds import Instead, Kind
from reconciler.server.kubernetes.mirror import Delta
from reconciler.server.kubernetes.reflector import Reflector, Timing


def _closed(value: Any, problems: tuple[Rejected, ...]) -> Instead[NetworkPolicy] | None:
    policy = closed(value)
    return None if policy is None else Instead(policy, explained(problems, policy))


NAMESPACES: Final = Kind(
    "Namespace", "namespaces", "/api/v1/namespaces", Namespace, check=validate, exact=False
)
NODES: Final = Kind("Node", "nodes", "/api/v1/nodes", Node, check=validate, exact=False)
PODS: Final = Kind("Pod", "pods", "/api/v1/pods", Pod, check=validate, exact=False)
NETWORK_POLICIES: Final = Kind(
    "NetworkPolicy",
    "networkpolicies",
    "/apis/networking.k8s.io/v1/networkpolicies",
    NetworkPolicy,
    check=validate,
    stand_in=_closed,
    exact=False,
)

API_SERVER: Final = Kind(
    "EndpointSlice",
    "endpointslices",
    "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
    EndpointSlice,
    params={"labelSelector": "kubernetes.io/service-name=kubernetes"},
    check=validate,
    exact=False,
)
"""Where the API server itself is, as it says."""

CORE: Final[tuple[Kind[Any], ...]] = (NAMESPACES, NODES, API_SERVER, NETWORK_POLICIES, PODS)
"""Kinds whose changes are `Change`s of the core."""


class Batch(msgspec.Struct, frozen=True):
    """What differs from all batches before it.

    changes:   of the kinds of `CORE`, one an object
    others:    of every other kind, by resource and key: the object as it is now, None for one that
               is gone; a resource without changes is not in it
    problems:  all that stand now, not only new ones
    positions: resource → resourceVersion up to which it is applied. They never go back but where
               the API server's own do (etcd restored from a backup)
    """

    changes: tuple[Change, ...] = ()
    others: Mapping[str, Mapping[ObjectKey, Any]] = {}
    problems: tuple[Rejected, ...] = ()
    positions: Mapping[str, int] = {}


class WatchStatus(msgspec.Struct, frozen=True):
    """One kind's watch, for those who look. failure: of the last request, "" while all is well."""

    resource: str
    position: int
    objects: int
    lists: int
    events: int
    failure: str


class Source:
    """Watches `kinds`; read `batches` once, by one reader.

    random: gives numbers of [0, 1), for the jitter of waits
    log:    a structlog logger; told when a kind can't be read, and when it can again
    """

    def __init__(
        self,
        client: ApiClient,
        kinds: Sequence[Kind[Any]] = CORE,
        *,
        random: Callable[[], float],
        timing: Timing = Timing(),  # noqa: B008 - a frozen value
        log: Any = None,
    ) -> None:
        self._reflectors = tuple(
            Reflector(client, kind, self._told, random=random, timing=timing, note=self._noted)
            for kind in kinds
        )
        self._log = log
        self._core = frozenset(kind.resource for kind in kinds if kind in CORE)
        self._pending: dict[str, dict[ObjectKey, Any]] = {}
        self._problems: dict[str, tuple[Rejected, ...]] = {}
        self._news = asyncio.Event()

    def status(self) -> tuple[WatchStatus, ...]:
        return tuple(
            WatchStatus(
                reflector.kind.resource,
                reflector.position,
                len(reflector.mirror),
                reflector.lists,
                reflector.events,
                reflector.failure,
            )
            for reflector in self._reflectors
        )

    async def batches(self) -> AsyncIterator[Batch]:
        """Until it is closed. What can't be read for a while changes nothing meanwhile."""
        tasks: list[asyncio.Task[None]] = []
        try:
            for reflector in self._reflectors:
                await reflector.first_list()
            tasks = [
                asyncio.create_task(reflector.run(), name=f"watch {reflector.kind.resource}")
                for reflector in self._reflectors
            ]
            for task in tasks:
                task.add_done_callback(lambda _: self._news.set())
            while True:
                yield self._take()
                await self._news.wait()
                for task in tasks:
                    if task.done():
                        task.result()  # a bug; it ends the reader too
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _told(self, reflector: Reflector[Any], delta: Delta[Any]) -> None:
        kind = reflector.kind
        if delta.changed or delta.gone:
            pending = self._pending.setdefault(kind.resource, {})
            core = kind.resource in self._core
            for key in delta.gone:
                pending[key] = Delete(key) if core else None
            for object in delta.changed:
                meta = object.metadata
                key = ObjectKey(kind.name, meta.namespace, meta.name)
                pending[key] = Upsert(object, kind.resource) if core else object
        if delta.problems:
            self._problems[kind.resource] = reflector.mirror.problems
        self._news.set()

    def _noted(self, reflector: Reflector[Any]) -> None:
        if self._log is None:
            return
        resource, failure = reflector.kind.resource, reflector.failure
        if failure:
            self._log.warning("watch fails", resource=resource, reason=failure)
        else:
            self._log.info("watch works", resource=resource)

    def _take(self) -> Batch:
        self._news.clear()
        pending, self._pending = self._pending, {}
        return Batch(
            tuple(_flat(changes for name, changes in pending.items() if name in self._core)),
            {name: changes for name, changes in pending.items() if name not in self._core},
            tuple(problem for problems in self._problems.values() for problem in problems),
            {reflector.kind.resource: reflector.position for reflector in self._reflectors},
        )


def _flat(maps: Iterable[Mapping[ObjectKey, Change]]) -> Iterable[Change]:
    for changes in maps:
        yield from changes.values()


def watch(
    client: ApiClient,
    kinds: Sequence[Kind[Any]] = CORE,
    *,
    random: Callable[[], float],
    timing: Timing = Timing(),  # noqa: B008 - a frozen value
) -> AsyncIterator[Batch]:
    """`Source(...).batches()`, for who doesn't ask for its status."""
    return Source(client, kinds, random=random, timing=timing).batches()
