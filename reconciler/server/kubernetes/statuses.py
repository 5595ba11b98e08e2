"""PolicyRealization objects (reconciler.io/v1alpha1): `kubectl get polreal` shows of each policy
whether it was accepted and whether the nodes enforce it.

One object beside each NetworkPolicy, of its name and owned by it, so that it goes with it. It is
written by whoever leads, off the way of any change, at most `RATE` a second after a burst:

* once when the policy, in its present generation, is enforced on all nodes that are connected; that
  more nodes come and go later changes nothing of it,
* when it was refused, when nodes refuse it, when it stands behind for `SETTLE_SECONDS`, and then
  every `REFRESH_SECONDS` while the numbers change.

What the API server refuses or can't take now is tried again later; a cluster without the kind is
served without. Needed of RBAC: list, create and patch on policyrealizations.
"""

from __future__ import annotations

import asyncio
import datetime
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from reconciler.core.objects import Change, NetworkPolicy, Upsert
from reconciler.core.policy import origins
from reconciler.errors import Rejected, UnavailableError
from reconciler.server.kubernetes.backoff import Backoff
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.server.kubernetes.realization import Found

GROUP: Final = "reconciler.io/v1alpha1"
PATH: Final = f"/apis/{GROUP}/policyrealizations"
FIELD_MANAGER: Final = "reconciler"
APPLY: Final = "application/apply-patch+yaml"

RATE: Final = 10.0
BURST: Final = 50.0
SETTLE_SECONDS: Final = 10.0
REFRESH_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 2.0
PAGE: Final = 500
FIRST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 60.0
MAX_MESSAGE: Final = 1024


Look = Callable[[str, int], Found]
"""("namespace/name", version) → what is so of that policy."""


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """As in Kubernetes; `type` is Accepted or Realized."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int = 0
    last_transition_time: str = ""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """What is in `status` of an object."""

    observed_generation: int = 0
    phase: str = ""
    desired_nodes_realized: int = 0
    current_nodes_realized: int = 0
    conditions: tuple[Condition, ...] = ()

    @property
    def said(self) -> tuple[object, ...]:
        """What is worth a write at once when it changes: not how many nodes there are."""
        conditions = tuple(
            (c.type, c.status, c.reason, c.message if c.status == "False" else "")
            for c in self.conditions
            if c.reason not in ("InProgress", "EnforcedOnNodes")
        )
        return self.observed_generation, self.phase, conditions


class Policy(msgspec.Struct, frozen=True):
    """What is known of one NetworkPolicy. version: at which it was written as it is."""

    uid: str
    generation: int
    version: int
    problem: str = ""


class _Owner(msgspec.Struct, frozen=True):
    uid: str = ""


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    owner_references: tuple[_Owner, ...] = ()


class _Object(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()
    status: Status = Status()


class _Continue(msgspec.Struct, frozen=True):
    next: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct, frozen=True):
    items: tuple[_Object, ...] = ()
    metadata: _Continue = _Continue()


class _Head(msgspec.Struct, frozen=True, rename="camel"):
    uid: str = ""
    generation: int = 0
    resource_version: str = "0"


class _Read(msgspec.Struct, frozen=True):
    metadata: _Head


class Policies:
    """All NetworkPolicies of the cluster as far as their status goes: "namespace/name" → Policy."""

    def __init__(self) -> None:
        self.known: dict[str, Policy] = {}
        self.refused: dict[str, str] = {}  # → why

    def changed(self, changes: Iterable[Change]) -> None:
        for change in changes:
            if isinstance(change, Upsert):
                policy = change.object
                if isinstance(policy, NetworkPolicy):
                    meta = policy.metadata
                    name = f"{meta.namespace}/{meta.name}"
                    version = int(meta.resource_version or 0)
                    self.known[name] = Policy(meta.uid, meta.generation, version)
            elif change.key.kind == "NetworkPolicy":
                self.known.pop(f"{change.key.namespace}/{change.key.name}", None)

    def problems(self, standing: Iterable[Rejected]) -> None:
        """All that stand now, of any object."""
        self.refused = {
            problem.object.removeprefix(origins.KIND): ": ".join(
                part for part in (problem.path, problem.reason) if part
            )
            for problem in sorted(standing, reverse=True)
            if problem.severity == "error" and problem.object.startswith(origins.KIND)
        }


class Statuses:
    """look: gives what is so now, of any policy. leading: who doesn't writes nothing.

    `results` counts "written", "refused", "failed" and "gone" (the policy is, or goes with its
    namespace)
    """

    def __init__(
        self,
        client: ApiClient,
        policies: Policies,
        *,
        look: Callable[[], Look],
        leading: Callable[[], bool],
        log: Any,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._policies, self._log = client, policies, log
        self._look, self._leading = look, leading
        self._monotonic, self._wall = monotonic, wall
        self._held: dict[str, tuple[str, Status]] | None = None  # as written: uid and status
        self._since: dict[str, tuple[tuple[object, ...], float]] = {}  # behind, and since when
        self._written: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._tokens, self._filled_at = BURST, monotonic()
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, random.random)
        self.results: dict[str, int] = {"written": 0, "refused": 0, "failed": 0, "gone": 0}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(await self.step())

    async def step(self) -> float:
        """Write what is due, as much as may be written now; the seconds until the next look."""
        if not self._leading():
            self._held = None  # somebody else writes them
            self._since.clear()
            return LOOK_SECONDS
        try:
            if self._held is None:
                self._held = await self._list()
            look = self._look()
            for name in self._due(look):
                if not self._leading():
                    break
                if (wait := self._wait()) > 0:
                    return max(wait, LOOK_SECONDS / 4)
                self._tokens -= 1
                await self._write(name, look)
        except (ApiError, UnavailableError, msgspec.DecodeError, UnicodeDecodeError) as error:
            asked = error.retry_after if isinstance(error, ApiError) else 0.0
            self.results["failed"] += 1
            self._log.warning("policy status", reason=str(error))
            return self._backoff.failed(asked)
        self._backoff.worked()
        return LOOK_SECONDS

    def _due(self, look: Look) -> list[str]:
        """Names of what is to be written, those that fail first."""
        held, now = self._held or {}, self._monotonic()
        due: list[tuple[int, str]] = []
        known, refused = self._policies.known, self._policies.refused
        names = known.keys() | refused.keys()
        for gone in [name for name in held if name not in names]:
            del held[gone]
        for name in names:
            if self._not_before.get(name, 0.0) > now:
                continue
            if name in refused:
                before = held.get(name)
                if before is None or _why(before[1]) != refused[name][:MAX_MESSAGE]:
                    due.append((0, name))
                continue
            policy = known[name]
            wanted = _status(policy, look(name, policy.version))
            uid, before_status = held.get(name, ("", Status()))
            if uid == policy.uid and wanted.said == before_status.said:
                self._since.pop(name, None)
                counts = wanted.phase != "Realized" and _counts(wanted) != _counts(before_status)
                if counts and now >= self._written.get(name, 0.0) + REFRESH_SECONDS:
                    due.append((2, name))
                continue
            if wanted.phase == "Realizing":
                said, since = self._since.get(name, (None, now))
                if said != wanted.said:
                    since = now
                self._since[name] = (wanted.said, since)
                if now < since + SETTLE_SECONDS:
                    continue
            due.append((0 if wanted.phase == "Failed" else 1, name))
        return [name for _, name in sorted(due)]

    def _wait(self) -> float:
        now = self._monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled_at) * RATE)
        self._filled_at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / RATE

    async def _list(self) -> dict[str, tuple[str, Status]]:
        found: dict[str, tuple[str, Status]] = {}
        params = {"limit": str(PAGE)}
        while True:
            answer = await self._client.request("GET", PATH, params=params)
            page = msgspec.json.decode(answer.body, type=_List)
            for object in page.items:
                meta = object.metadata
                uid = meta.owner_references[0].uid if meta.owner_references else ""
                found[f"{meta.namespace}/{meta.name}"] = (uid, object.status)
            if not page.metadata.next:
                return found
            params = {"limit": str(PAGE), "continue": page.metadata.next}

    async def _write(self, name: str, look: Look) -> None:
        namespace, _, policy_name = name.partition("/")
        problem = self._policies.refused.get(name)
        held = self._held
        assert held is not None
        try:
            if problem is not None:
                policy = await self._read(namespace, policy_name)
                status = _refused(policy, problem)
            else:
                if (known := self._policies.known.get(name)) is None:
                    return
                policy, status = known, _status(known, look(name, known.version))
            before = held.get(name, ("", Status()))[1]
            status = _with_times(status, before, _now(self._wall()))
            body = {
                "apiVersion": GROUP,
                "kind": "PolicyRealization",
                "metadata": {
                    "name": policy_name,
                    "namespace": namespace,
                    "ownerReferences": [
                        {
                            "apiVersion": "networking.k8s.io/v1",
                            "kind": "NetworkPolicy",
                            "name": policy_name,
                            "uid": policy.uid,
                        }
                    ],
                },
                "status": status,
            }
            path = f"/apis/{GROUP}/namespaces/{quote(namespace)}/policyrealizations"
            await self._client.request(
                "PATCH",
                f"{path}/{quote(policy_name)}",
                params={"fieldManager": FIELD_MANAGER, "force": "true"},
                body=msgspec.json.encode(body),
                content_type=APPLY,
            )
        except ApiError as error:
            if error.status >= 500 or error.status == 429:
                raise
            self.results["gone" if error.gone else "refused"] += 1
            self._not_before[name] = self._monotonic() + LONGEST_PAUSE_SECONDS
            if not error.gone:
                self._log.warning(
                    "policy status refused", object=f"NetworkPolicy {name}", reason=str(error)
                )
            return
        held[name] = (policy.uid, status)
        self._since.pop(name, None)
        self._not_before.pop(name, None)
        self._written[name] = self._monotonic()
        self.results["written"] += 1

    async def _read(self, namespace: str, name: str) -> Policy:
        """One that was refused: its metadata was not decoded."""
        path = f"/apis/networking.k8s.io/v1/namespaces/{quote(namespace)}/networkpolicies"
        answer = await self._client.request("GET", f"{path}/{quote(name)}")
        meta = msgspec.json.decode(answer.body, type=_Read).metadata
        return Policy(meta.uid, meta.generation, int(meta.resource_version))


def _status(policy: Policy, found: Found) -> Status:
    generation = policy.generation
    realized = "True" if found.phase == "Realized" else "False"
    return Status(
        generation,
        found.phase,
        found.wanted,
        found.current,
        (
            Condition("Accepted", "True", "Accepted", "", generation),
            Condition("Realized", realized, found.reason, found.message, generation),
        ),
    )


def _refused(policy: Policy, problem: str) -> Status:
    """What was in force before goes on, or `closed` stands for it."""
    generation, message = policy.generation, problem[:MAX_MESSAGE]
    what = (
        "this generation is not in force; what was accepted before goes on, or its pods are closed"
    )
    return Status(
        generation,
        "Failed",
        0,
        0,
        (
            Condition("Accepted", "False", "Invalid", message, generation),
            Condition("Realized", "False", "NotAccepted", what, generation),
        ),
    )


def _why(status: Status) -> str:
    """Message of a condition that it was not accepted."""
    found = (c for c in status.conditions if c.type == "Accepted" and c.status == "False")
    return next((condition.message for condition in found), "")


def _counts(status: Status) -> tuple[int, int]:
    return status.desired_nodes_realized, status.current_nodes_realized


def _with_times(status: Status, before: Status, now: str) -> Status:
    """With the times since when each condition is as it is."""
    old: Mapping[str, Condition] = {condition.type: condition for condition in before.conditions}
    conditions = []
    for condition in status.conditions:
        was = old.get(condition.type)
        same = was is not None and was.status == condition.status
        when = was.last_transition_time if was is not None and same else now
        conditions.append(msgspec.structs.replace(condition, last_transition_time=when or now))
    return msgspec.structs.replace(status, conditions=tuple(conditions))


def _now(seconds: float) -> str:
    """RFC 3339, whole seconds, as metav1.Time is."""
    found = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return found.strftime("%Y-%m-%dT%H:%M:%SZ")
