"""What a datapath is: the port that the agent's applier drives, for the kernel and for the twin.

A datapath holds the maps of `core.dataplane.layout` as packed bytes and judges packets by them.
Two implementations, held to each other by the same tests: `kernel.KernelDatapath` (libbpf) and
`twin` (in memory). Promises of both:

* `apply` runs operations in order. A `Put` is all-or-nothing: it takes effect whole, or raises
  (`MapFull` when there is no room) and leaves the map as it was. Operations before a failing one
  stay done; none after it is begun.
* Nothing but `Flip` changes which half of the two-sided values packets are judged by.
* The array `groups` always holds every index: `Put` past its end raises `MapFull`, `Remove` writes
  zeros, and `dump` leaves out entries that are all zero.
* A key may stand twice in a `Put`; the last one wins.

Details of the packet path on which both implementations agree, besides the layouts:

* Header lengths are measured against the packet's length by IP (IPv4 total length, IPv6 payload
  length), which must not pass the end of the frame. IPv4 total length 0 and IPv6 payload length 0
  are read as "to the end of the frame" for segmentation offload packets only.
* Order: endpoint, closed, ethertype, IP header and extension headers (MALFORMED), neighbour
  discovery and MLD, source (destination) check, fragments, L4 header, ICMP errors, reply, policy.
* ARP: shorter than 28 bytes is MALFORMED in both directions; from a pod, anything but
  Ethernet/IPv4 (htype 1, ptype 0x0800, lengths 6 and 4) is MALFORMED.
* Neighbour discovery and MLD are recognised in unfragmented packets only. From a pod the source
  must be its own IPv6 address, :: or in fe80::/10, and the target of an advertisement its own
  address or in fe80::/10; else BAD_SOURCE. A neighbour message to a pod passes whatever its
  destination.
* A first fragment has to hold the ports, one of TCP the flags too (14 bytes); else MALFORMED: a SYN
  that came in its second fragment would pass as a reply.
* An ICMP error whose inner packet can't be parsed is NO_RULE, as one whose flow is not known, and
  one that doesn't go to the source of its inner packet: else a pod with one flow could send errors
  about it to everybody.
* Of ICMP only an echo request opens (or refreshes) a flow; other ICMP that policy allows passes
  without a conntrack entry, so that an echo reply never becomes the request of another.
  Only echo replies, and fragments that are not the first, can be replies. ICMP in fragments has
  ports 0.
* Own group's rule set 0 is CLOSED before the peer is looked at; then SERVICE (egress only, peer
  address bound to group index SERVICE); then the two policy look-ups. As peer of an ingress flow,
  group index SERVICE is identity index UNKNOWN; as peer of an egress flow it allows nothing.
* An expired conntrack entry, or a closing TCP entry that sees a SYN without ACK, starts anew with
  no flags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from reconciler.core.dataplane.layout import EVENT, MapId, Reason
from reconciler.core.dataplane.ops import Op
from reconciler.core.policy.ir import Direction


class CutWord(msgspec.Struct, frozen=True):
    """The value of map `cut`: the half in force, and each half's revision and 32-byte root."""

    active: int
    revisions: tuple[int, int]
    roots: tuple[bytes, bytes]


class Event(msgspec.Struct, frozen=True):
    """One sampled verdict: every drop, and the first packet of a new flow that passes.

    time_ns: CLOCK_MONOTONIC; endpoint: id of the endpoints map, 0 if none; peer: node-local
    identity index, 0 if policy was not asked; source, destination: 4, 16 or (not IP) 0 bytes.
    """

    time_ns: int
    endpoint: int
    ifindex: int
    peer: int
    cookie: int
    direction: Direction
    protocol: int
    family: int
    reason: Reason
    source_port: int
    destination_port: int
    source: bytes
    destination: bytes


_ADDRESS_SIZE = (0, 4, 16)  # by family


def unpack_events(data: bytes | bytearray | memoryview) -> list[Event]:
    """Events from back-to-back EVENT structs (layout.py)."""
    return [
        Event(
            ns,
            endpoint,
            ifindex,
            peer,
            cookie,
            Direction(direction),
            protocol,
            family,
            Reason(reason),
            int.from_bytes(sport, "big"),
            int.from_bytes(dport, "big"),
            source[: _ADDRESS_SIZE[family]],
            destination[: _ADDRESS_SIZE[family]],
        )
        for (
            ns, endpoint, ifindex, peer, cookie, direction, protocol, family, reason,
            sport, dport, source, destination,
        ) in EVENT.iter_unpack(data)
    ]  # fmt: skip


@runtime_checkable
class Datapath(Protocol):
    """The port. Not safe for use by two threads at once; calls may block for milliseconds."""

    @property
    def name(self) -> str:
        """ "kernel" or "twin"."""
        ...

    @property
    def limits(self) -> Mapping[MapId, int]:
        """Most entries of each map (bytes for the ring buffer)."""
        ...

    def apply(self, ops: Sequence[Op]) -> None:
        """Run operations in order; raises MapFull or another DatapathError."""
        ...

    def dump(self, map: MapId) -> dict[bytes, bytes]:
        """All entries, packed; not for metrics and events."""
        ...

    def cut(self) -> CutWord: ...

    def attach(self, ifindex: int) -> None:
        """Attach both programs to a host side device; again: replaced in place, never a gap."""
        ...

    def detach(self, ifindex: int) -> None:
        """Take both programs off; a device that is gone or was never attached is no error."""
        ...

    def attached(self) -> set[int]: ...

    def probe(self, packet: bytes, *, ifindex: int, direction: Direction) -> Reason:
        """The verdict on one Ethernet frame at an endpoint, without any side effect."""
        ...

    def run(self, packet: bytes, *, ifindex: int, direction: Direction) -> Reason:
        """The same with conntrack, fragments, metrics and events written."""
        ...

    def metrics(self) -> dict[tuple[Reason, Direction], tuple[int, int]]:
        """(packets, bytes) of each reason and direction that occurred; bytes are of frames."""
        ...

    @property
    def events_fd(self) -> int | None:
        """Readable when `drain` has something; None where there is no such descriptor."""
        ...

    def drain(self) -> list[Event]:
        """Events so far, oldest first."""
        ...

    def close(self) -> None:
        """Release descriptors. Kernel: maps, programs and attachments stay in force."""
        ...
