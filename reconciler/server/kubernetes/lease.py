"""The Lease by which replicas agree on who tries to write, over the Kubernetes API.

`coordination.k8s.io/v1`, as Kubernetes' own components write it, so that `kubectl get lease` shows
who leads. Writes name the resourceVersion that was read; one that meets another does nothing. When
to read and to write is decided by core/leadership.py; this carries it out.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from reconciler.core.leadership import (
    Lead,
    Leadership,
    Lease,
    Look,
    Release,
    StandDown,
    TakeOver,
    Times,
    Write,
)
from reconciler.core.trace import Trace
from reconciler.errors import ReconcilerError, UnavailableError
from reconciler.server.kubernetes.client import ApiClient, ApiError

NOT_FOUND: Final = 404
MERGE_PATCH: Final = "application/merge-patch+json"


class _Spec(msgspec.Struct, rename="camel"):
    holder_identity: str = ""
    lease_duration_seconds: int = 0
    lease_transitions: int = 0


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _Object(msgspec.Struct):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class LeaseObject:
    """One Lease. ApiError and UnavailableError come from every request."""

    def __init__(self, client: ApiClient, namespace: str, name: str, timeout: float) -> None:
        self._client, self._name, self._namespace = client, name, namespace
        self._timeout = timeout
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    async def read(self) -> Lease | None:
        try:
            answer = await self._client.request(
                "GET", f"{self._path}/{self._name}", timeout=self._timeout
            )
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise
        return _lease(answer.body)

    async def write(self, over: Lease | None, holder: str, duration: float, anew: bool) -> Lease:
        """As `holder`'s; ApiError 409 when it is not what was read any more."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, Any] = {
            "holderIdentity": holder or None,
            "leaseDurationSeconds": max(1, round(duration)),
            "renewTime": now,
        }
        if anew:
            spec["acquireTime"] = now
            spec["leaseTransitions"] = 0 if over is None else over.transitions + 1
        meta: dict[str, str] = {"name": self._name, "namespace": self._namespace}
        if over is not None:
            meta["resourceVersion"] = over.version
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta}
        text = json.dumps({**body, "spec": spec}).encode()
        if over is None:
            answer = await self._client.request(
                "POST", self._path, body=text, timeout=self._timeout
            )
        else:
            answer = await self._client.request(
                "PATCH",
                f"{self._path}/{self._name}",
                body=text,
                content_type=MERGE_PATCH,
                timeout=self._timeout,
            )
        return _lease(answer.body)


def _lease(body: bytes) -> Lease:
    """UnavailableError: it is no Lease, but the page of a proxy, say."""
    try:
        found = msgspec.json.decode(body, type=_Object)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnavailableError(f"lease: {error}") from error
    spec = found.spec
    return Lease(
        spec.holder_identity,
        float(spec.lease_duration_seconds),
        spec.lease_transitions,
        found.metadata.resource_version,
    )


class Elector:
    """Runs one replica's leadership.

    take_over:  opens the journal, and says its epoch; ReconcilerError: it can't be opened
    lead:       the journal that was opened is ours
    stand_down: nothing may be written any more; returns when nothing is under way
    """

    def __init__(
        self,
        lease: LeaseObject,
        name: str,
        *,
        take_over: Callable[[], Awaitable[int]],
        lead: Callable[[], None],
        stand_down: Callable[[str], Awaitable[None]],
        random: Callable[[], float],
        log: Any,
        times: Times | None = None,
        clock: Callable[[], float] = time.monotonic,
        trace: Trace | None = None,
    ) -> None:
        self._lease, self._random, self._log, self._clock = lease, random, log, clock
        self._take_over, self._lead, self._stand_down = take_over, lead, stand_down
        self._times = times or Times()
        self.core = Leadership(name, clock(), self._times, trace)
        self._wake = asyncio.Event()

    def overtaken(self, reason: str) -> None:
        """A write met a newer epoch."""
        self.core.overtaken(reason)
        self._wake.set()

    def give_up(self, reason: str) -> None:
        """It leads and can't do what a leader does: another one may."""
        self.core.stop(reason)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled; then the Lease is given back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self.core.tick(self._clock(), self._random())
                    self.carry_out(tasks)
                    wait = max(0.0, self.core.next_deadline() - self._clock())
                    try:
                        async with asyncio.timeout(wait):
                            await self._wake.wait()
                    except TimeoutError:
                        pass
                    self._wake.clear()
        finally:
            self.core.stop()
            for effect in self.core.effects():
                if isinstance(effect, Release):
                    await self._release(effect)
                elif isinstance(effect, StandDown):
                    await self._stand_down(effect.reason)

    def carry_out(self, tasks: asyncio.TaskGroup) -> None:
        """Begin what is to be done, and follow again once nothing is under way."""
        while effects := self.core.effects():
            for effect in effects:
                match effect:
                    case Look():
                        tasks.create_task(self._look(), name="lease-read")
                    case Write():
                        tasks.create_task(self._write(effect), name="lease-write")
                    case Release():
                        tasks.create_task(self._release(effect), name="lease-release")
                    case TakeOver():
                        self._log.info("holds the lease")
                        tasks.create_task(self._open(), name="journal-open")
                    case Lead():
                        self._log.info("leading")
                        self._lead()
                    case StandDown(reason):
                        self._log.warning("stands down", reason=reason)
                        tasks.create_task(self._down(reason), name="stand-down")
        self.core.settle()

    async def _look(self) -> None:
        try:
            found = await self._lease.read()
        except (ApiError, UnavailableError) as error:
            self._failed(error)
        else:
            self.core.looked(found, self._clock())
        self._wake.set()

    async def _write(self, effect: Write) -> None:
        asked = self._clock()
        try:
            written = await self._lease.write(
                effect.over, self.core.name, self._times.duration, effect.anew
            )
        except (ApiError, UnavailableError) as error:
            self._failed(error)
        else:
            self.core.wrote(written, asked, self._clock())
        self._wake.set()

    def _failed(self, error: ReconcilerError) -> None:
        self._log.warning("lease", reason=str(error))
        self.core.failed(self._clock())

    async def _release(self, effect: Release) -> None:
        try:
            await self._lease.write(effect.over, "", 1.0, False)
        except (ApiError, UnavailableError) as error:
            self._log.warning("lease", reason=f"not given back: {error}")

    async def _open(self) -> None:
        try:
            epoch = await self._take_over()
        except ReconcilerError as error:
            self._log.error("journal", reason=str(error))
            self.core.unopened()
        else:
            self.core.opened(epoch)
        self._wake.set()

    async def _down(self, reason: str) -> None:
        await self._stand_down(reason)
        self.core.stood_down()
        self._wake.set()
