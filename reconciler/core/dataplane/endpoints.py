"""Interfaces of this node's pods: which pod is behind one, and its entry in the `endpoints` map.

An interface belongs to the pod that the CNI named with it; without a name, to the pod whose hint is
its name; else to the pod that has one of its addresses. Where several claim one pod, the better
claim wins, then the newer interface; the others stay closed.

An entry has a half for each cut. The closed flag has not: it is set while neither half knows the
pod, and comes off when the first cut with the pod is staged. Until the flip the half in force then
names no group and no address, so still nothing but neighbour discovery passes, and the flip itself
opens the pod together with everything that decides about it.

Entry ids key connections, so they are never given twice while a connection may be known by them.

An index may come back while what was behind it is being removed: the same device, found without its
programs, or another one. The new interface waits for the end of the old one, then begins with an id
of its own. Attaching it at once was rejected: the old pod's entry would decide about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from reconciler.core.dataplane.layout import (
    ENDPOINT_CLOSED,
    ENDPOINT_KEY,
    ENDPOINT_VALUE,
    MapId,
)
from reconciler.core.dataplane.ops import Op, Put, Remove
from reconciler.core.machine import load
from reconciler.core.trace import Event, Trace

MODEL: Final = load("endpoint")
_NO_V4: Final = bytes(4)
_NO_V6: Final = bytes(16)


class Link(msgspec.Struct, frozen=True):
    """The host side of a pod's veth. pod: "namespace/name" if the CNI said so, else ""."""

    ifindex: int
    name: str = ""
    addresses: frozenset[bytes] = frozenset()
    pod: str = ""


class PodRow(msgspec.Struct, frozen=True):
    """A pod in one half: group index and addresses (b"" for none)."""

    group: int
    ipv4: bytes
    ipv6: bytes
    interface: str


def _raw(ifindex: int) -> str:
    """Stands for the pod of an adopted entry that no cut has explained yet."""
    return f"#{ifindex}"


def _news(known: Link | None, link: Link) -> Link:
    if known is None or link.addresses or link.pod:
        return link
    return msgspec.structs.replace(link, addresses=known.addresses, pod=known.pod)


class Port:
    """One interface in its life cycle (models/endpoint.toml)."""

    __slots__ = ("attaching", "due", "entry", "id", "link", "next", "state")

    def __init__(self, link: Link, id: int) -> None:
        self.link = link
        self.id = id
        self.state = MODEL.initial
        self.due: list[str] = []  # "attach" | "detach", taken by the owner
        self.attaching = False  # asked for, not answered
        self.entry: bytes | None = None  # as last written
        self.next: Link | None = None  # detaching: what has the index now

    def fire(self, trigger: str) -> None:
        MODEL.fire(self, trigger)

    def attach(self) -> None:
        self.attaching = True
        self.due.append("attach")

    def retry_attach(self) -> None:
        """The owner reports it and asks again after a while."""

    def remove_entries(self) -> None:
        self.due.append("detach")

    def retry_remove(self) -> None:
        self.due.append("detach")

    def write_closed(self) -> None:
        """The entry follows the state: `Endpoints.sync` writes it."""

    stage_open = close = write_closed

    @property
    def has_entry(self) -> bool:
        return self.state in ("attached-closed", "waiting-policy", "enforcing")


class Endpoints:
    def __init__(self, next_id: int = 1, trace: Trace | None = None) -> None:
        self._trace = trace
        self.ports: dict[int, Port] = {}
        self.next_id = next_id
        self.rows: tuple[dict[str, PodRow], dict[str, PodRow]] = ({}, {})
        self._matched: list[dict[int, str]] = [{}, {}]
        self._gone: list[bytes] = []
        self._unanswered: dict[int, int] = {}  # attachments asked for interfaces that are gone
        # What has to be made anew: the matching, what ports know, what the map holds.
        self._stale = self._untold = self._unwritten = True
        self._told = (0, False)  # the arguments of the last `refresh`

    def _changed(self) -> None:
        self._stale = self._untold = self._unwritten = True

    # --- interfaces ------------------------------------------------------------------------

    def add(self, link: Link) -> Port:
        """A new interface, or news about a known one.

        News that say neither a pod nor an address leave what was known: a CNI names an interface
        once, and a CNI without a route for each pod leaves nothing else to know it by.
        """
        self._changed()
        port = self.ports.get(link.ifindex)
        if port is None:
            port = self.ports[link.ifindex] = Port(link, self.next_id)
            self.next_id += 1
        elif port.state == "detaching":
            port.next = _news(port.next, link)
            return port
        else:
            port.link = _news(port.link, link)
        if self._trace is not None:
            args = {"ifindex": link.ifindex, "pod": port.link.pod}
            self._trace(Event("NodeMaps", "Link", args))
        return port

    def take_over(self, former: Endpoints) -> None:
        """Go on with its interfaces; what the map holds was adopted before."""
        for port in former.ports.values():
            if port.state == "detaching":
                if port.next is not None:
                    self.add(port.next)
                continue
            again = self.add(port.link)
            again.id, again.attaching = port.id, port.attaching
            if port.has_entry and not again.has_entry:
                self.answered(port.link.ifindex, "attached")
        self._unanswered = former._unanswered

    def adopt(self, entries: Mapping[bytes, bytes], attached: Iterable[int], active: int) -> None:
        """Entries found in the map; their interfaces are known by the addresses in force.

        The other half stays as it was found until a cut is staged: a packet that read the word
        before the last flip may still look there.
        """
        present = set(attached)
        for key, value in entries.items():
            (ifindex,) = ENDPOINT_KEY.unpack(key)
            id, flags, *halves = ENDPOINT_VALUE.unpack(value)
            _, ipv4, ipv6 = halves[3 * active : 3 * active + 3]
            addresses = frozenset(each for each in (ipv4, ipv6) if any(each))
            port = self.ports[ifindex] = Port(Link(ifindex, addresses=addresses), id)
            port.entry = value
            self.next_id = max(self.next_id, id + 1)
            if not flags & ENDPOINT_CLOSED:
                for half in (0, 1):
                    group, ipv4, ipv6 = halves[3 * half : 3 * half + 3]
                    self.rows[half][_raw(ifindex)] = PodRow(
                        group, ipv4 if any(ipv4) else b"", ipv6 if any(ipv6) else b"", ""
                    )
            if ifindex in present:
                port.fire("adopted_closed" if flags & ENDPOINT_CLOSED else "adopted")
            else:
                port.fire("adopted_closed")
                self._leave(port)
        self._changed()

    def remove(self, ifindex: int) -> None:
        port = self.ports.get(ifindex)
        if port is None:
            return
        port.next = None
        if port.state != "detaching":
            if port.attaching:
                self._unanswered[ifindex] = self._unanswered.get(ifindex, 0) + 1
            self._leave(port)
            self._forget(port)
            self._changed()

    def _leave(self, port: Port) -> None:
        """What its entry said of the pod behind it goes with it."""
        for rows in self.rows:
            rows.pop(_raw(port.link.ifindex), None)
        port.fire("link_gone")

    def answered(self, ifindex: int, trigger: str) -> None:
        """attached, attach_failed, removed or remove_failed, unless the interface is gone.

        Answers come in the order in which they were asked for.
        """
        attaching = trigger in ("attached", "attach_failed")
        if attaching and (late := self._unanswered.pop(ifindex, 0)):
            if late > 1:
                self._unanswered[ifindex] = late - 1
            return
        port = self.ports.get(ifindex)
        if port is None:
            return
        if attaching:
            port.attaching = False
        if (port.state, trigger) not in MODEL.table:
            return
        port.fire(trigger)
        self._forget(port)
        self._changed()

    def _forget(self, port: Port) -> None:
        if port.state == "gone":
            del self.ports[port.link.ifindex]
            if port.entry is not None:
                self._gone.append(ENDPOINT_KEY.pack(port.link.ifindex))
            if port.next is not None:
                self.add(port.next)

    # --- cuts ------------------------------------------------------------------------------

    def begin(self, half: int) -> None:
        """A cut is going to be staged: what was found in the map is of the other half only."""
        for name in [name for name in self.rows[half] if name.startswith("#")]:
            del self.rows[half][name]
            self._changed()

    def stage(self, half: int, pod: str, row: PodRow | None) -> None:
        if row is None:
            self.rows[half].pop(pod, None)
        else:
            self.rows[half][pod] = row
        self._changed()

    def copy(self, source: int) -> None:
        """Make the other half equal: settled, or rolled back."""
        other = self.rows[1 - source]
        if other != self.rows[source]:
            other.clear()
            other.update(self.rows[source])
            self._changed()

    def refresh(self, active: int, *, staging: bool) -> None:
        """Tell every interface what the halves say about the pod behind it."""
        if not self._untold and self._told == (active, staging):
            return
        self._untold, self._told = False, (active, staging)
        self._match()
        in_force = self._matched[active]
        staged = self._matched[1 - active] if staging else {}
        for ifindex, port in self.ports.items():
            if not port.has_entry:
                continue
            if ifindex in in_force:
                if port.state == "attached-closed":
                    port.fire("named")
                if port.state != "enforcing":
                    port.fire("committed")
                continue
            if port.state == "enforcing":
                port.fire("committed_without")
            if port.state == "attached-closed" and ifindex in staged:
                port.fire("named")
            elif port.state == "waiting-policy" and ifindex not in staged:
                port.fire("discarded")

    def groups(self) -> set[int]:
        """Group indices that entries name, in either half."""
        found = {0}
        for port in self.ports.values():
            if port.entry:
                _, _, first, _, _, second, _, _ = ENDPOINT_VALUE.unpack(port.entry)
                found |= {first, second}
        return found

    @property
    def unexplained(self) -> bool:
        """An open entry was found, and no cut that was settled since says whose it is."""
        return any(name.startswith("#") for rows in self.rows for name in rows)

    def pod_of(self, ifindex: int, half: int) -> str:
        self._match()
        return self._matched[half].get(ifindex, "")

    def sync(self) -> list[Op]:
        """Writes that make the map say what the interfaces and both halves say."""
        if not self._unwritten:
            return []
        self._unwritten = False
        self._match()
        puts: list[tuple[bytes, bytes]] = []
        gone, self._gone = self._gone, []
        for ifindex, port in self.ports.items():
            key = ENDPOINT_KEY.pack(ifindex)
            value = self._value(port) if port.has_entry else None
            if value is None:
                if port.entry is not None:
                    gone.append(key)
            elif value != port.entry:
                puts.append((key, value))
            port.entry = value
        ops: list[Op] = []
        if gone:
            ops.append(Remove(MapId.ENDPOINTS, tuple(gone)))
        if puts:
            ops.append(Put(MapId.ENDPOINTS, tuple(puts)))
        return ops

    def forget_written(self) -> None:
        """A write failed: what the map holds is not known, so `sync` writes every entry again."""
        for port in self.ports.values():
            if port.entry is not None or port.state == "detaching":
                port.entry = b""
        self._unwritten = True

    def _value(self, port: Port) -> bytes:
        halves: list[int | bytes] = []
        known = False
        for half in (0, 1):
            pod = self._matched[half].get(port.link.ifindex)
            row = self.rows[half][pod] if pod else None
            known = known or row is not None
            if row is None:
                halves += (0, _NO_V4, _NO_V6)
            else:
                halves += (row.group, row.ipv4 or _NO_V4, row.ipv6 or _NO_V6)
        return ENDPOINT_VALUE.pack(port.id, 0 if known else ENDPOINT_CLOSED, *halves)

    def _match(self) -> None:
        if self._stale:
            self._matched = [self._matching(rows) for rows in self.rows]
            self._stale = False

    def _matching(self, rows: Mapping[str, PodRow]) -> dict[int, str]:
        by_hint = {row.interface: pod for pod, row in rows.items() if row.interface}
        by_address = {
            address: pod for pod, row in rows.items() for address in (row.ipv4, row.ipv6) if address
        }
        claims: dict[str, tuple[int, int]] = {}
        for ifindex, port in self.ports.items():
            if not port.has_entry:
                continue
            link = port.link
            if _raw(ifindex) in rows:
                pods, rank = {_raw(ifindex)}, 4
            elif link.pod:
                pods, rank = {link.pod} & rows.keys(), 3
            elif link.name in by_hint:
                pods, rank = {by_hint[link.name]}, 2
            else:
                pods, rank = {by_address[a] for a in link.addresses if a in by_address}, 1
            if len(pods) == 1:
                pod = pods.pop()
                claims[pod] = max(claims.get(pod, (0, 0)), (rank, ifindex))
        return {ifindex: pod for pod, (_, ifindex) in claims.items()}
