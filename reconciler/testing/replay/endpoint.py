"""specs/Endpoint.tla on the code: real `Endpoints`, over a map that is written when a step says so.

The adapter is what stands around them in an agent. Which half is in force, and whether a cut is
staged or flipped to, is the owner's to know (`Tables`), so the phases are kept here; what each
interface makes of it, what its entry is to be and what is left of it is the code's. Writes that
change no more of an entry than its halves are done at once: the spec has no step for them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from reconciler.core.dataplane.endpoints import Endpoints, Link, PodRow, Port
from reconciler.core.dataplane.layout import ENDPOINT_CLOSED, ENDPOINT_KEY, ENDPOINT_VALUE
from reconciler.core.dataplane.ops import Put, Remove
from reconciler.formal.replay import Disabled
from reconciler.formal.values import Record, Value

GROUP: Final = 16
FIRST: Final = 10
"""Index of the first interface."""


class Adapter:
    def __init__(self) -> None:
        self.endpoints = Endpoints()
        self.map: dict[bytes, bytes] = {}
        self.due: dict[bytes, bytes | None] = {}  # writes that are not done; None: a removal
        self.active = 0
        self.phase = "found"
        self.links: dict[Value, Link] = {}
        self.there: set[Value] = set()  # interfaces that exist
        self.found: dict[Value, bytes] = {}  # entries that are not taken over yet
        self.gone: set[Value] = set()

    # --- what replay asks ------------------------------------------------------------------

    def start(self, constants: Mapping[str, Value], state: Mapping[Any, Any]) -> None:
        for number, name in enumerate(sorted(_set(constants["Links"]), key=str)):
            link = Link(FIRST + number, f"veth{number}", pod=f"shop/{name}")
            self.links[name] = link
            if state["link"][name]:
                self.there.add(name)
            kind = state["entry"][name]
            if kind == "none":
                self.endpoints.add(link)
                continue
            half = (
                (GROUP, _address(link), bytes(16)) if kind == "open" else (0, bytes(4), bytes(16))
            )
            flags = 0 if kind == "open" else ENDPOINT_CLOSED
            value = ENDPOINT_VALUE.pack(1 + number, flags, *half, *half)
            self.found[name] = self.map[ENDPOINT_KEY.pack(link.ifindex)] = value

    def fork(self) -> Adapter:
        return copy.deepcopy(self)

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        adopting = action in ("Adopt", "AdoptBare", "Begin")
        if adopting != (self.phase == "found"):
            raise Disabled(f"what was found is {'' if adopting else 'not '}taken over")
        getattr(self, f"_do_{action.lower()}")(*args)
        self._write_unseen()

    def observe(self) -> Mapping[str, Value]:
        named = [
            {name for name, link in self.links.items() if {link.pod, f"#{link.ifindex}"} & {*rows}}
            for rows in self.endpoints.rows
        ]
        raw = [
            {name for name, link in self.links.items() if f"#{link.ifindex}" in rows}
            for rows in self.endpoints.rows
        ]
        for name, value in self.found.items():
            if not ENDPOINT_VALUE.unpack(value)[1] & ENDPOINT_CLOSED:
                for names in (*named, *raw):
                    names.add(name)
        ports = {name: self.endpoints.ports.get(link.ifindex) for name, link in self.links.items()}
        return {
            "life": Record({name: self._life(name, port) for name, port in ports.items()}),
            "attaching": Record(
                {name: port is not None and port.attaching for name, port in ports.items()}
            ),
            "entry": Record({name: self._entry(link) for name, link in self.links.items()}),
            "inForce": frozenset(named[self.active]),
            "idle": frozenset(named[1 - self.active]),
            "raw": frozenset(raw[self.active]),
            "rawIdle": frozenset(raw[1 - self.active]),
            "phase": self.phase,
            "link": Record({name: name in self.there for name in self.links}),
        }

    def _life(self, name: Value, port: Port | None) -> str:
        if port is not None:
            return port.state
        return "gone" if name in self.gone else "discovered"

    def _entry(self, link: Link) -> str:
        return _kind(self.map.get(ENDPOINT_KEY.pack(link.ifindex)))

    # --- what is found ---------------------------------------------------------------------

    def _do_adopt(self, name: Value) -> None:
        if name not in self.found or name not in self.there:
            raise Disabled("no entry of it was found, or it is gone")
        ifindex = self.links[name].ifindex
        entries = {ENDPOINT_KEY.pack(ifindex): self.found.pop(name)}
        self.endpoints.adopt(entries, [ifindex], self.active)
        self._tell()

    def _do_adoptbare(self, name: Value) -> None:
        if name not in self.found:
            raise Disabled("no entry of it was found")
        entries = {ENDPOINT_KEY.pack(self.links[name].ifindex): self.found.pop(name)}
        self.endpoints.adopt(entries, [], self.active)
        self._tell()

    def _do_begin(self) -> None:
        if self.found:
            raise Disabled("an entry was not taken over")
        for name in self.there:
            self.endpoints.add(self.links[name])
        self.phase = "settled"
        self._tell()

    # --- interfaces ------------------------------------------------------------------------

    def _do_attachdue(self, name: Value) -> None:
        port = self._port(name)
        if port.state != "discovered" or port.attaching:
            raise Disabled("nothing is to be attached")
        port.fire("attach_due")
        if port.due.pop() != "attach":
            raise AssertionError("it asked for something else")

    def _do_attached(self, name: Value) -> None:
        self._answers(name, "attached")

    def _do_attachfailed(self, name: Value) -> None:
        self._answers(name, "attach_failed")

    def _answers(self, name: Value, answer: str) -> None:
        if not self._port(name).attaching:
            raise Disabled("nobody has asked for it")
        self.endpoints.answered(self.links[name].ifindex, answer)
        self._tell()

    def _do_unlink(self, name: Value) -> None:
        if name not in self.there:
            raise Disabled("it does not exist")
        self.there.discard(name)
        self.endpoints.remove(self.links[name].ifindex)
        self._note_gone(name)
        self._tell()

    def _do_return(self, name: Value) -> None:
        if name in self.there or self._port(name).state != "detaching":
            raise Disabled("nothing that had its index is being removed")
        self.there.add(name)
        self.endpoints.add(self.links[name])
        self._tell()

    def _do_write(self, name: Value) -> None:
        port = self.endpoints.ports.get(self.links[name].ifindex)
        key = ENDPOINT_KEY.pack(self.links[name].ifindex)
        self._collect()
        if key not in self.due or (port is not None and port.state == "detaching"):
            raise Disabled("its entry is as it is to be")
        self._put(key)

    def _do_removed(self, name: Value) -> None:
        self._leaving(name)
        self._collect()
        key = ENDPOINT_KEY.pack(self.links[name].ifindex)
        if key in self.due:
            self._put(key)
        self.endpoints.answered(self.links[name].ifindex, "removed")
        self._note_gone(name)

    def _do_removefailed(self, name: Value) -> None:
        port = self._leaving(name)
        self._collect()
        self.due.clear()  # what was to be written with it
        self.endpoints.answered(self.links[name].ifindex, "remove_failed")
        self.endpoints.forget_written()
        if "detach" not in port.due:
            raise AssertionError("it does not ask again")

    def _leaving(self, name: Value) -> Port:
        port = self._port(name)
        if port.state != "detaching" or "detach" not in port.due:
            raise Disabled("it does not ask to be removed")
        port.due.clear()
        return port

    def _note_gone(self, name: Value) -> None:
        if self.links[name].ifindex not in self.endpoints.ports:
            self.gone.add(name)

    def _port(self, name: Value) -> Port:
        port = self.endpoints.ports.get(self.links[name].ifindex)
        if port is None:
            raise Disabled("nothing is left of it")
        return port

    # --- cuts ------------------------------------------------------------------------------

    def _do_stage(self, named: Value) -> None:
        if self.phase == "flipping":
            raise Disabled("the kernel is asked to flip")
        if self.phase == "settled":
            self.endpoints.begin(1 - self.active)
        self.phase = "staging"
        for name, link in self.links.items():
            row = PodRow(GROUP, _address(link), b"", "") if name in _set(named) else None
            self.endpoints.stage(1 - self.active, link.pod, row)
        self._tell()

    def _do_flip(self) -> None:
        self._collect()
        leaving = {
            ENDPOINT_KEY.pack(index)
            for index, port in self.endpoints.ports.items()
            if port.state == "detaching"
        }
        if self.phase == "flipping" or self.due.keys() - leaving:
            raise Disabled("writes come before it, or it is asked for already")
        self.active, self.phase = 1 - self.active, "flipping"
        self._tell()

    def _do_flipped(self) -> None:
        self._flipping()
        self.endpoints.copy(self.active)
        self.phase = "settled"

    def _do_flipfailed(self) -> None:
        self._flipping()
        self.active, self.phase = 1 - self.active, "staging"
        self._tell()
        self._take_back()

    def _do_break(self) -> None:
        if self.phase != "staging":
            raise Disabled("nothing is staged")
        self._take_back()

    def _flipping(self) -> None:
        if self.phase != "flipping":
            raise Disabled("nobody has asked for a flip")

    def _take_back(self) -> None:
        self.endpoints.copy(self.active)
        self.phase = "settled"
        self._tell()
        self.due.clear()  # one of them may be why it is taken back
        self.endpoints.forget_written()

    def _tell(self) -> None:
        self.endpoints.refresh(self.active, staging=self.phase == "staging")

    # --- the map ---------------------------------------------------------------------------

    def _collect(self) -> None:
        """What the code wants written joins what is not written yet."""
        for op in self.endpoints.sync():
            if isinstance(op, Put):
                self.due.update(op.entries)
            elif isinstance(op, Remove):
                self.due.update(dict.fromkeys(op.keys))
        for key in [key for key, value in self.due.items() if self.map.get(key) == value]:
            del self.due[key]

    def _write_unseen(self) -> None:
        self._collect()
        for key in [
            key for key, value in self.due.items() if _kind(value) == _kind(self.map.get(key))
        ]:
            self._put(key)

    def _put(self, key: bytes) -> None:
        value = self.due.pop(key)
        if value is None:
            self.map.pop(key, None)
        else:
            self.map[key] = value


def _kind(value: bytes | None) -> str:
    if value is None:
        return "none"
    return "closed" if ENDPOINT_VALUE.unpack(value)[1] & ENDPOINT_CLOSED else "open"


def _address(link: Link) -> bytes:
    return bytes([10, 0, 0, link.ifindex])


def _set(value: Value) -> frozenset[Value]:
    assert isinstance(value, frozenset)
    return value
