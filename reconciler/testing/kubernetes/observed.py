"""What an API server was asked, and how long it took: from its audit log, and from its metrics.

    audit = Audit(folder, users=["reconciler-r1"])
    with Cluster(apiserver_flags=audit.flags) as cluster:
        before = latencies(cluster.get("/metrics"))
        ...
        audit.writes()                                       # every write of these users, in order
        quantile(0.99, latencies(cluster.get("/metrics")), before)

The metrics know no users, and round to their buckets; the audit log has every write exactly.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

WRITES: Final = ("create", "update", "patch", "delete", "deletecollection")

Buckets = Mapping[tuple[str, str], Mapping[float, int]]
"""(verb, resource) → upper bound in seconds → requests that took at most so long."""

_LINE: Final = re.compile(
    rb'^apiserver_request_duration_seconds_bucket\{(.*)\} (\d+)$', re.MULTILINE
)  # fmt: skip
_LABEL: Final = re.compile(r'(\w+)="([^"]*)"')
_LASTING: Final = frozenset({"WATCH", "CONNECT", "WATCHLIST"})


class Write(msgspec.Struct, frozen=True):
    """One write that was answered. at: Unix time when it came; seconds: until it was answered."""

    user: str
    verb: str
    resource: str
    name: str
    code: int
    at: float
    seconds: float

    @property
    def took_effect(self) -> bool:
        return self.code < 300


class Audit:
    """The log of what these users write. Pass `flags` to the API server."""

    def __init__(self, folder: Path, users: Sequence[str]) -> None:
        self._log = folder / "audit.log"
        self._offset = 0
        policy = folder / "audit-policy.json"
        policy.write_text(json.dumps(_policy(users)))
        self.flags = (
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self._log}",
            "--audit-log-mode=blocking",  # in the log when it is answered
        )

    def writes(self) -> tuple[Write, ...]:
        """All since the last call, in the order in which they were answered."""
        if not self._log.exists():
            return ()
        with open(self._log, "rb") as log:
            log.seek(self._offset)
            data = log.read()
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        return tuple(_write(json.loads(line)) for line in data[:whole].splitlines())


def by_kind(writes: Iterable[Write]) -> Counter[tuple[str, str]]:
    """(resource, verb) → writes that took effect."""
    return Counter((each.resource, each.verb) for each in writes if each.took_effect)


def latencies(metrics: bytes) -> Buckets:
    """Of requests for objects, without watches, from the text of /metrics."""
    found: dict[tuple[str, str], dict[float, int]] = {}
    for labels, count in _LINE.findall(metrics):
        of = dict(_LABEL.findall(labels.decode()))
        if not of.get("resource") or of["verb"] in _LASTING:
            continue
        buckets = found.setdefault((of["verb"], of["resource"]), {})
        bound = float(of["le"].replace("+Inf", "inf"))
        buckets[bound] = buckets.get(bound, 0) + int(count)
    return found


def quantile(
    share: float, after: Buckets, before: Buckets, *, verbs: Iterable[str] = ()
) -> tuple[float, int]:
    """Seconds below which this share of the requests between two readings took, and how many they
    were. Within a bucket evenly spread, as Prometheus has it; nan where there were none.

    verbs: of those only ("GET", "LIST", "POST", …)
    """
    wanted, total = frozenset(verbs), dict[float, int]()
    for key, buckets in after.items():
        if wanted and key[0] not in wanted:
            continue
        earlier = before.get(key, {})
        for bound, count in buckets.items():
            total[bound] = total.get(bound, 0) + count - earlier.get(bound, 0)
    requests = total.get(math.inf, 0)
    if not requests:
        return math.nan, 0
    rank, low, below = share * requests, 0.0, 0
    for bound in sorted(total):
        if total[bound] >= rank:
            if math.isinf(bound):
                return low, requests
            inside = total[bound] - below
            return low + (bound - low) * (rank - below) / max(1, inside), requests
        low, below = bound, total[bound]
    return low, requests


def verbs(after: Buckets, before: Buckets) -> Counter[str]:
    """Requests between two readings by verb."""
    found: Counter[str] = Counter()
    for key, buckets in after.items():
        count = buckets.get(math.inf, 0) - before.get(key, {}).get(math.inf, 0)
        if count:
            found[key[0]] += count
    return found


def _policy(users: Sequence[str]) -> dict[str, Any]:
    theirs = {"level": "Metadata", "users": list(users), "verbs": list(WRITES)}
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [theirs, {"level": "None"}],
    }


def _write(event: Mapping[str, Any]) -> Write:
    of = event.get("objectRef", {})
    came, answered = (
        datetime.datetime.fromisoformat(event[name]).timestamp()
        for name in ("requestReceivedTimestamp", "stageTimestamp")
    )
    return Write(
        event["user"]["username"],
        event["verb"],
        "/".join(filter(None, (of.get("resource", ""), of.get("subresource", "")))),
        of.get("name", ""),
        event.get("responseStatus", {}).get("code", 0),
        came,
        answered - came,
    )
