"""Carries out what the agent's core wants done to kernel and disk, in one thread, in order.

Order is a promise that the core builds on: a record is on disk before the flip that it announces,
and writes reach the maps as they were given. One thread of its own, because a batch of map writes
or an fsync takes milliseconds; `report` is called on that thread.

A flip that is said to have failed may have happened, so the cut word is read before it is reported.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable

import msgspec

from reconciler.agent.cache import CacheFile
from reconciler.core.dataplane.adopt import Adopted
from reconciler.core.dataplane.effects import Apply, Attach, Detach, SaveCache
from reconciler.core.dataplane.layout import CONNTRACK_KEY, MapId
from reconciler.core.dataplane.ops import Flip
from reconciler.datapath.base import Datapath
from reconciler.errors import CacheError, DatapathError

Job = Apply | SaveCache | Attach | Detach

DUMPED = (MapId.ADDRESSES, MapId.ENDPOINTS, MapId.GROUPS, MapId.POLICIES)


class Applied(msgspec.Struct, frozen=True):
    token: int


class ApplyFailed(msgspec.Struct, frozen=True):
    token: int
    error: DatapathError


class Attached(msgspec.Struct, frozen=True):
    ifindex: int


class AttachFailed(msgspec.Struct, frozen=True):
    ifindex: int
    reason: str


class CacheFailed(msgspec.Struct, frozen=True):
    """A record could not be written. Harmless for what is enforced; a restart asks a server."""

    reason: str


class Audited(msgspec.Struct, frozen=True):
    """Maps as they were after every job that was submitted before."""

    kernel: Adopted


class Crashed(msgspec.Struct, frozen=True):
    """A bug: the thread has ended, nothing more is carried out."""

    error: BaseException


Outcome = Applied | ApplyFailed | Attached | AttachFailed | CacheFailed | Audited | Crashed


def read_kernel(datapath: Datapath) -> Adopted:
    """What the maps hold now, connections included, as the core takes it over at a start."""
    cut = datapath.cut()
    ids = frozenset(CONNTRACK_KEY.unpack(key)[0] for key in datapath.dump(MapId.CONNTRACK))
    return Adopted(
        active=cut.active,
        revision=cut.revisions[cut.active],
        root=cut.roots[cut.active],
        maps={each: datapath.dump(each) for each in DUMPED},
        attached=frozenset(datapath.attached()),
        ids=ids,
    )


class Applier:
    """`submit` returns at once; every Apply and Attach has exactly one outcome."""

    def __init__(
        self,
        datapath: Datapath,
        report: Callable[[Outcome], None],
        cache: CacheFile | None = None,
    ) -> None:
        self._datapath = datapath
        self._report = report
        self._cache = cache
        self._jobs: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="applier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._jobs.put(job)

    def audit(self) -> None:
        """Dump the maps in turn; the outcome is `Audited`."""
        self._jobs.put(lambda: self._report(Audited(read_kernel(self._datapath))))

    def call(self, job: Callable[[], None]) -> None:
        """Run something else on the datapath's thread, in turn. It must not raise."""
        self._jobs.put(job)

    def close(self) -> None:
        """Carry out what was submitted, then end the thread."""
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                if callable(job):
                    job()
                else:
                    self._carry_out(job)
        except BaseException as error:
            self._report(Crashed(error))

    def _carry_out(self, job: Job) -> None:
        if isinstance(job, Apply):
            self._report(self._apply(job))
        elif isinstance(job, SaveCache):
            self._save(job)
        elif isinstance(job, Attach):
            try:
                self._datapath.attach(job.ifindex)
            except DatapathError as error:
                self._report(AttachFailed(job.ifindex, str(error)))
            else:
                self._report(Attached(job.ifindex))
        else:
            try:
                self._datapath.detach(job.ifindex)
            except DatapathError as error:
                self._report(AttachFailed(job.ifindex, str(error)))

    def _apply(self, job: Apply) -> Outcome:
        try:
            self._datapath.apply(job.ops)
        except DatapathError as error:
            return Applied(job.token) if self._flipped(job) else ApplyFailed(job.token, error)
        return Applied(job.token)

    def _flipped(self, job: Apply) -> bool:
        last = job.ops[-1] if job.ops else None
        if not isinstance(last, Flip):
            return False
        cut = self._datapath.cut()
        found = (cut.active, cut.revisions[cut.active], cut.roots[cut.active])
        return found == (last.half, last.revision, last.root)

    def _save(self, job: SaveCache) -> None:
        if self._cache is None:
            return
        try:
            if job.append:
                self._cache.append(job.data)
            else:
                self._cache.replace(job.data)
        except CacheError as error:
            self._report(CacheFailed(str(error)))
