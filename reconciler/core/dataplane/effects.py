"""What the agent's core asks its shell to do, and how a shell may configure the core."""

from __future__ import annotations

import msgspec

from reconciler.core.dataplane.ops import Op
from reconciler.core.policy.ir import Prefix


class Options(msgspec.Struct, frozen=True):
    """max_stale: seconds without a server after which remote pods count as unknown; 0: never.

    services: CIDRs of service addresses, which are not translated yet where packets are judged
    instance: of this process, which servers are told; "": nothing is told
    """

    max_stale: float = 0.0
    services: tuple[Prefix, ...] = ()
    instance: str = ""


class Connect(msgspec.Struct, frozen=True):
    """Open a stream to a server; then `connected` or `disconnected`."""


class Disconnect(msgspec.Struct, frozen=True):
    """Close the stream; then `disconnected`."""

    reason: str


class Send(msgspec.Struct, frozen=True):
    frame: bytes


class Apply(msgspec.Struct, frozen=True):
    """Carry out writes, after all that were given before; then `applied` or `apply_failed`."""

    token: int
    ops: tuple[Op, ...]


class SaveCache(msgspec.Struct, frozen=True):
    """Make a record durable before any `Apply` that is given later is begun.

    append: add it to the cache; else it replaces everything in it, being the cut in force
    """

    data: bytes
    revision: int
    append: bool


class Attach(msgspec.Struct, frozen=True):
    """Attach the programs to an interface; then `attached` or `attach_failed`."""

    ifindex: int


class Detach(msgspec.Struct, frozen=True):
    """Take the programs off; the interface may be gone already. No answer."""

    ifindex: int


class Alarm(msgspec.Struct, frozen=True):
    """Something a human should know. kind: "refused", "datapath", "root", "cache", "audit"."""

    kind: str
    object: str
    text: str


Effect = Connect | Disconnect | Send | Apply | SaveCache | Attach | Detach | Alarm
