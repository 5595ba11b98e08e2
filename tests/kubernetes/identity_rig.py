"""Servers that lead, one after the other or at once: a journal and what keeps its objects."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from reconciler.core.identity import JournalBatch, JournalState
from reconciler.core.identity.beginning import DAY_ONE
from reconciler.errors import Rejected
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.identities import KIND, Materialiser, Pace
from reconciler.server.kubernetes.journal import KubernetesJournal
from reconciler.server.kubernetes.journal_api import JournalApi, connect
from reconciler.server.kubernetes.mirror import Delta
from reconciler.server.kubernetes.reflector import Reflector
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.identities import clean
from tests.kubernetes.reading import FAST, wait_until

FAST_PACE = Pace(rate=10_000, burst=10_000, first=0.02, limit=0.2, tidy_seconds=0.05)


def labels(app: str) -> str:
    return f"k8s:app={app};k8s:io.kubernetes.pod.namespace=shop;"


class Busy(ApiClient):
    """Knows how many requests wait for an answer's beginning, and how many did at most."""

    now = most = 0

    async def _open(self, *args: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await super()._open(*args)
        finally:
            self.now -= 1


class Server:
    """A leader's journal and what keeps its objects, as the app puts them together."""

    def __init__(self, cluster: Cluster, client: Busy, name: str, pace: Pace) -> None:
        self.client = client
        api = JournalApi(connect(cluster.kubeconfig()), name)
        self.journal = KubernetesJournal(api, wall=lambda: DAY_ONE)
        self.thread = ThreadPoolExecutor(1)
        self.pace = pace
        self.reports: list[str] = []
        self.held: frozenset[int] = frozenset()
        self.reflector = Reflector(client, KIND, self._told, random=random.random, timing=FAST)
        self.state = JournalState(0, 0, 0)
        self.tasks: list[asyncio.Task[None]] = []

    def _report(self, problem: Rejected) -> None:
        self.reports.append(str(problem).removeprefix("ciliumidentities: "))

    def _hold(self, numbers: frozenset[int]) -> None:
        self.held = numbers

    def _told(self, reflector: Reflector[Any], delta: Delta[Any]) -> None:
        for each in delta.changed:
            version = int(each.metadata.resource_version)
            self.objects.identity_changed(each.metadata.name, each, version)
        for key in delta.gone:
            self.objects.identity_changed(key.name, None, reflector.position)
        self.objects.loaded()

    async def on_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.thread, call, *args)

    async def lead(self) -> JournalState:
        self.state = await self.on_thread(self.journal.open)
        self.held = self.journal.held_at_open
        self.objects = Materialiser(
            self.client,
            self.journal,
            self.thread,
            report=self._report,
            hold_back=self._hold,
            random=random.random,
            pace=self.pace,
        )
        self.journal.changed = self.objects.journal_changed
        return self.state

    async def start(self) -> None:
        self.tasks = [
            asyncio.create_task(self.reflector.run()),
            asyncio.create_task(self.objects.run()),
        ]

    async def append(self, *allocate: tuple[int, str], **others: Any) -> int:
        nothing: dict[str, Any] = {"retire": (), "revive": (), "free": ()}
        batch = JournalBatch(
            epoch=self.state.epoch,
            expected=self.state.revision,
            allocate=allocate,
            cursor=self.state.cursor,
            **{**nothing, **others},
        )
        revision: int = await self.on_thread(self.journal.append, batch)
        self.state = msgspec.structs.replace(self.state, revision=revision)
        return revision

    async def settled(self) -> None:
        """Nothing is due, and the journal holds nothing that objects do."""

        def quiet() -> bool:
            for task in self.tasks:
                if task.done():
                    task.result()
            loaded = self.reflector.position >= 0
            tidy = not self.journal.untidy() and not self.journal.unmarked()
            return loaded and tidy and not self.objects.backlog()

        await wait_until(quiet)

    async def die(self) -> None:
        """What it was about to do is not done, and what it was told is not heard.

        Not while it connects: a connection that is cancelled in its TLS handshake is never closed
        (asyncio in Python 3.11).
        """
        await wait_until(lambda: self.client.now == 0)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks = []
        await asyncio.to_thread(self.thread.shutdown)
        self.journal.close()


class Servers:
    def __init__(self, cluster: Cluster, client: Busy, name: str) -> None:
        self.cluster, self.client, self.name = cluster, client, name
        self.made: list[Server] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, cluster: Cluster, name: str) -> AsyncIterator[Servers]:
        """In a cluster without any identities or journals; all servers end with it."""
        client = await Busy.connect(cluster.kubeconfig())
        assert isinstance(client, Busy)
        await clean(client)
        made = cls(cluster, client, name)
        yield made
        for server in made.made:
            await server.die()
        await client.close()

    def new(self, pace: Pace = FAST_PACE) -> Server:
        self.made.append(Server(self.cluster, self.client, self.name, pace))
        return self.made[-1]

    async def leading(self, pace: Pace = FAST_PACE) -> Server:
        server = self.new(pace)
        await server.lead()
        await server.start()
        return server


async def next_second() -> None:
    """creationTimestamps from here are younger than those before."""
    second = int(time.time())
    await wait_until(lambda: int(time.time()) > second)
