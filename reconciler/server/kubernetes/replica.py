"""One replica of the server in Kubernetes: reads everything, and writes while it leads.

    replica = Replica(config, client, plane, driver, thread, log)
    await replica.read(loaded)       # the watches, into the plane
    await replica.elect()            # the Lease; taking over and standing down

All replicas do the same with what they read, so which of them leads changes nothing but who writes:
the journal, and behind it the CiliumIdentity objects.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from reconciler.config import ServerConfig
from reconciler.core.identity import POOL, JournalBatch, JournalState
from reconciler.core.identity.objects_mirror import Mirror
from reconciler.core.leadership import Times
from reconciler.core.plane import ControlPlane
from reconciler.core.policy import origins
from reconciler.core.trace import Trace
from reconciler.errors import JournalConflict, JournalCorrupt, JournalError, Rejected
from reconciler.server.driver import Driver
from reconciler.server.kubernetes import identities
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.events import Recorder, Reporter
from reconciler.server.kubernetes.journal import KubernetesJournal
from reconciler.server.kubernetes.journal_api import JournalApi, connect
from reconciler.server.kubernetes.kinds import Kind
from reconciler.server.kubernetes.lease import Elector, LeaseObject
from reconciler.server.kubernetes.realization import Found, found, nodes_report
from reconciler.server.kubernetes.reports import Reports
from reconciler.server.kubernetes.source import CORE, Batch, Source
from reconciler.server.kubernetes.statuses import Policies, Statuses

POSITIONS: Final = frozenset(kind.resource for kind in CORE)
"""Kinds of which a position is made; the journal has a part of its own."""

JOURNALS: Final = identities.JOURNAL_KIND.resource
IDENTITIES: Final = identities.KIND.resource

UNREAD: Final = JournalState(epoch=0, revision=0, cursor=POOL.start)
"""Of a journal that nobody has read yet."""


class Unopened:
    """The journal of a replica that has never led: nothing is written to it."""

    def open(self) -> JournalState:
        raise JournalError("another replica leads")

    def append(self, batch: JournalBatch) -> int:
        raise JournalError("another replica leads")

    def close(self) -> None: ...


async def materialise(run: Callable[[], Awaitable[None]], elector: Elector, log: Any) -> None:
    """Write identities while this replica leads. A leader that can't is none: the journal would
    fill with what has no object."""
    try:
        await run()
    except JournalConflict as error:
        elector.overtaken(str(error))
    except Exception as error:
        log.error("materialise", reason=str(error), exc_info=error)
        elector.give_up(f"identities can't be written: {error}")


class Replica:
    """problems: of objects, of identities and of the journal, all that stand now."""

    def __init__(
        self,
        config: ServerConfig,
        client: ApiClient,
        plane: ControlPlane,
        driver: Driver,
        thread: ThreadPoolExecutor,
        log: Any,
        *,
        name: str,
        events: Recorder,
        trace: Trace | None = None,
    ) -> None:
        self.problems: tuple[Rejected, ...] = ()
        self._config, self._client, self._log = config, client, log
        self._plane, self._driver, self._thread = plane, driver, thread
        self._reporter = Reporter(events.record, self._origins)
        driver.on_alarm = self._alarm
        self._mirror = Mirror()
        self._state = UNREAD  # the newest that is known in full
        self._journal: KubernetesJournal | None = None
        self._opened = self._state
        self._objects: identities.Materialiser | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.reports = Reports(
            client,
            namespace=config.namespace,
            lease=config.lease,
            replica=name,
            interval=config.lease_seconds * 2 / 15,
            grace=config.absent_grace,
            in_use=lambda: plane.in_use,
            nodes=lambda: nodes_report(plane),
            told=driver.elsewhere,
            leading=lambda: plane.leading,
            log=log,
        )
        self._policies = Policies()
        self.statuses = Statuses(
            client,
            self._policies,
            look=self._look,
            leading=lambda: plane.leading,
            log=log,
        )
        kinds: tuple[Kind[Any], ...] = (
            identities.JOURNAL_KIND,
            identities.KIND,
            self.reports.kind,
            *CORE,
        )
        self.source = Source(client, kinds, random=random.random, log=log)
        self._read = asyncio.Event()
        times = Times(
            duration=config.lease_seconds,
            deadline=config.lease_seconds * 2 / 3,
            retry=config.lease_seconds * 2 / 15,
        )
        lease = LeaseObject(client, config.namespace, config.lease, times.retry * 2)
        self.elector = Elector(
            lease,
            name,
            take_over=self._take_over,
            lead=self._lead,
            stand_down=self._stand_down,
            random=random.random,
            log=log,
            times=times,
            trace=trace,
        )
        driver.on_overtaken = self.elector.overtaken

    # ------------------------------------------------------------------------------- reading

    async def read(self, loaded: asyncio.Event) -> None:
        """Until cancelled. loaded: set when the plane has the whole initial state."""
        async for batch in self.source.batches():
            self._identities(batch)
            self.reports.changed(batch.others.get(self.reports.kind.resource, {}))
            self._policies.changed(batch.changes)
            self._driver.changed(
                batch.changes,
                at_once=not loaded.is_set(),
                positions={
                    resource: version
                    for resource, version in batch.positions.items()
                    if resource in POSITIONS
                },
            )
            if not loaded.is_set():
                await self.reports.begin()  # before anybody is served
            loaded.set()
            self._read.set()
            self._tell(batch.problems)

    def _identities(self, batch: Batch) -> None:
        """The journal and the identities, as far as they belong together."""
        version = batch.positions[IDENTITIES]
        for key, seen in batch.others.get(IDENTITIES, {}).items():
            self._mirror.identity_changed(key.name, seen)
            if self._objects is not None:
                at = version if seen is None else int(seen.metadata.resource_version)
                self._objects.identity_changed(key.name, seen, at)
        for key, journal in batch.others.get(JOURNALS, {}).items():
            if key.name == self._config.cluster_name:
                try:
                    self._mirror.journal_changed(journal)
                except JournalCorrupt as error:
                    self._driver.alarm("journal", "journal", str(error))
        mirror = self._mirror
        if mirror.unresolved or mirror.ledger.revision < self._state.revision:
            return
        newer = mirror.ledger.revision > self._state.revision
        self._state = mirror.state()
        if not self._plane.leading:
            if batch.others.get(IDENTITIES) or batch.others.get(JOURNALS):
                self._driver.hold_back(mirror.held_back())
            if newer:
                self._driver.follow(self._state)
        elif mirror.ledger.epoch > self._plane.epoch:
            self.elector.overtaken(f"the journal is at epoch {mirror.ledger.epoch}")

    def _tell(self, objects: tuple[Rejected, ...]) -> None:
        standing = (*objects, *self._mirror.problems())
        for problem in standing:
            if problem not in self.problems:
                self._log.warning("problem", object=problem.object, reason=problem.reason)
        self.problems = standing
        self._policies.problems(standing)
        self._say()

    def _say(self) -> None:
        """What stands, on the objects that it stands of; those of the store among it."""
        if self._plane.leading:
            self._reporter.problems((*self.problems, *self._plane.intake.cluster.problems))

    def _alarm(self, kind: str, object: str, text: str) -> None:
        """Said on the object by one replica, not by all."""
        if self._plane.leading:
            self._reporter.alarm(kind, object, text)

    def _look(self) -> Callable[[str, int], Found]:
        """What is so of any policy, as of now."""
        reports = (nodes_report(self._plane), *self.reports.beside())
        rule_sets = self._plane.intake.compiler.rule_sets
        large = {
            name.removeprefix(origins.KIND)
            for name in origins.of_rule_sets(tuple(self._plane.too_large), rule_sets)
        }
        return lambda name, version: found(name, version, reports, too_large=name in large)

    def _origins(self, rule_set: str) -> tuple[str, ...]:
        return origins.of_rule_sets((rule_set,), self._plane.intake.compiler.rule_sets)

    # ------------------------------------------------------------------------------- leading

    async def elect(self) -> None:
        """Until cancelled; then the Lease is given back and the journal closed."""
        await self._read.wait()
        await self.elector.run()

    async def _take_over(self) -> int:
        api = JournalApi(
            connect(self._config.kubeconfig, self._config.kube_context), self._config.cluster_name
        )
        journal = KubernetesJournal(api, recall=lambda: tuple(self._mirror.entries.values()))
        self._opened = await self._in_thread(journal.open)
        self._journal = journal
        for problem in journal.problems:
            self._log.warning("problem", object=problem.object, reason=problem.reason)
        return self._opened.epoch

    def _lead(self) -> None:
        journal = self._journal
        assert journal is not None
        newest = self._mirror.ledger.epoch
        if newest > self._opened.epoch:  # the plane may have followed that one
            self.elector.overtaken(f"the journal is at epoch {newest}")
            return
        objects = self._objects = identities.Materialiser(
            self._client,
            journal,
            self._thread,
            report=lambda problem: self._log.warning(
                "problem", object=problem.object, reason=problem.reason
            ),
            hold_back=self._driver.hold_back,
            room=self._driver.room,
            random=random.random,
        )
        journal.changed = objects.journal_changed
        for number, seen in self._mirror.objects.items():
            objects.identity_changed(str(number), seen, int(seen.metadata.resource_version))
        objects.loaded()
        self._driver.room(*journal.room())
        self._driver.hold_back(journal.held_at_open)
        self._driver.lead(journal, self._opened)
        self._say()
        for (kind, object), text in self._plane.alarms.items():  # raised while another one led
            self._reporter.alarm(kind, object, text)
        task = asyncio.create_task(
            materialise(objects.run, self.elector, self._log), name="materialise"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stand_down(self, reason: str) -> None:
        """Write nothing more; what is under way is waited for."""
        if self._plane.leading:
            self._driver.follow(self._state)
            self._driver.hold_back(self._mirror.held_back())
        objects, self._objects = self._objects, None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._driver.written()
        journal, self._journal = self._journal, None
        if journal is not None:
            await self._in_thread(journal.close)
        del objects

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)
