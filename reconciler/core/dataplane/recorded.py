"""What is recorded of a node's maps: what was found, each single write that was carried out, and
what the agent holds. `specs/trace/NodeMapsTrace.tla` says what must be true of it.

Writes are recorded when they are known to be done; of writes of which one failed nobody knows how
many were done, and each says so (`maybe`). Resources are recorded where the agent notes them, so
that what the maps should mean is known from the served bytes, and not from the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from reconciler.core.dataplane.adopt import Adopted
from reconciler.core.dataplane.layout import (
    ADDRESS_VALUE,
    ENDPOINT_CLOSED,
    ENDPOINT_KEY,
    ENDPOINT_VALUE,
    GROUP_VALUE,
    POLICY_KEY,
    POLICY_STATIC_BITS,
    POLICY_VALUE,
    MapId,
)
from reconciler.core.dataplane.ops import Flip, Op, Put, Remove
from reconciler.core.policy.ir import Prefix
from reconciler.core.resources.types import Resource
from reconciler.core.trace import Event, Trace

SPEC: Final = "NodeMaps"
_ACTIONS: Final = {
    MapId.ADDRESSES: "Address",
    MapId.GROUPS: "Group",
    MapId.POLICIES: "Policy",
    MapId.ENDPOINTS: "Entry",
}


class MapTrace:
    """Records nothing and costs nothing without a trace."""

    def __init__(self, trace: Trace | None, node: str, services: Iterable[Prefix]) -> None:
        self._trace = trace
        self._node = node
        self._services = [f"{each.address.hex()}/{each.length}" for each in services]
        self._asked: dict[int, tuple[Op, ...]] = {}

    def found(self, kernel: Adopted) -> None:
        """The maps as they are, at the start or seen by an audit."""
        if self._trace is None:
            return
        args: dict[str, Any] = {
            "node": self._node,
            "services": self._services,
            "active": kernel.active + 1,
            "root": kernel.root.hex(),
        }
        for map_id, action in _ACTIONS.items():
            entries = kernel.maps.get(map_id, {})
            args[action] = [_entry(map_id, key, value) for key, value in entries.items()]
        self._trace(Event(SPEC, "Found", args))

    def asked(self, token: int, ops: Iterable[Op]) -> None:
        if self._trace is not None:
            self._asked[token] = tuple(ops)

    def done(self, token: int) -> None:
        self._tell(token, maybe=False)

    def failed(self, token: int) -> None:
        self._tell(token, maybe=True)

    def settled(self) -> None:
        if self._trace is not None:
            self._trace(Event(SPEC, "Settled"))

    def _tell(self, token: int, *, maybe: bool) -> None:
        if self._trace is None:
            return
        for op in self._asked.pop(token, ()):
            for action, args in _writes(op):
                self._trace(Event(SPEC, action, {**args, "maybe": maybe}))


def held(trace: Trace | None, key: tuple[str, str], resource: Resource | None) -> None:
    """The next cut has this resource, or (None) has it no more."""
    if trace is not None:
        version, body = (resource.version, resource.body.hex()) if resource else ("", "")
        args = {"type": key[0], "name": key[1], "version": version, "body": body}
        trace(Event(SPEC, "Hold", args))


def undone(trace: Trace | None) -> None:
    """What is held is what is in force."""
    if trace is not None:
        trace(Event(SPEC, "Undo"))


def _writes(op: Op) -> Iterable[tuple[str, Mapping[str, Any]]]:
    if isinstance(op, Put):
        for key, value in op.entries:
            yield _ACTIONS[op.map], {"entry": _entry(op.map, key, value)}
    elif isinstance(op, Remove):
        for key in op.keys:
            yield _ACTIONS[op.map], {"entry": _entry(op.map, key, None)}
    elif isinstance(op, Flip):
        yield "Flip", {"half": op.half + 1, "root": op.root.hex()}
    else:
        yield "Grace", {}


def _entry(map_id: MapId, key: bytes, value: bytes | None) -> dict[str, Any]:
    """A key, and what stands there: `value` is empty where nothing does."""
    if map_id is MapId.ADDRESSES:
        pair = [] if value is None else list(ADDRESS_VALUE.unpack(value))
        return {"key": key.hex(), "value": pair}
    if map_id is MapId.GROUPS:
        row = [] if value is None else list(GROUP_VALUE.unpack(value))
        return {"key": int.from_bytes(key, "little"), "value": [row[:3], row[3:]] if row else []}
    if map_id is MapId.ENDPOINTS:
        halves: list[Any] = []
        if value is not None:
            _, flags, first, _, _, second, _, _ = ENDPOINT_VALUE.unpack(value)
            halves = [bool(flags & ENDPOINT_CLOSED), [first, second]]
        return {"key": ENDPOINT_KEY.unpack(key)[0], "value": halves}
    bits, number, peer, direction, protocol, port = POLICY_KEY.unpack(key)
    first = int.from_bytes(port, "big")
    wide = 16 - max(0, bits - POLICY_STATIC_BITS - 8)
    return {
        "key": [number, peer],
        "about": [direction, protocol, first, first + (1 << wide) - 1, bits],
        "value": 0 if value is None else POLICY_VALUE.unpack(value)[0],
    }
