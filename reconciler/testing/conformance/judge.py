"""What a response must obey, and whether it is one that a scenario waits for. Sans-io.

At any time, in both variants: a nonce, a version (of the response in SotW, of each resource in
delta), the type that was asked for, no name twice, only names that were asked for, and of each
resource the content that the state says. In SotW of LDS and CDS: every resource that is asked for
and there, as what is missing counts as removed.

Waited for is a response that brings something of what must come. In delta it must bring nothing
else. Others are faults, but for those that the protocol leaves to the server:
* SotW: once after a request that changed what is asked for, exactly what was asked for and there at
  that moment (of LDS and CDS only, or when that is nothing, or the first of a stream that resumes).
  A response that crosses such a request makes it stale; then it is the ACK that is answered;
* delta: once after each request that changed what is asked for, an empty response; what it named;
  removals of what it unsubscribed from. And once the removal of a name that is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from google.protobuf.message import Message

from reconciler.probe.follow import Follower
from reconciler.probe.frames import Item, Node, Request, Response
from reconciler.probe.messages import unpack
from reconciler.probe.services import OWN, Variant
from reconciler.testing.conformance.language import Piece
from reconciler.testing.conformance.resources import content

State = Mapping[str, tuple[Piece, Message]]
"""Of one type: name → the resource that is there, and what a client must get for it."""


_ACKS: Final = 3
"""How many ACKs after a request its answer may still come (SotW): each may have been overtaken."""


class Fault(Exception):
    """What a response should have been, and what it was."""


class Judge:
    """One type on one stream. The requests are made here, so that it is known what was asked."""

    def __init__(
        self, type: str, variant: Variant, *, typed: bool = True, ttl: bool = False
    ) -> None:
        """ttl: the client has the features that times to live need."""
        self._ttl = ttl
        self.type, self.variant = type, variant
        self.follower = Follower(OWN[type].type_url, variant, typed=typed)
        self._delta = variant is Variant.DELTA
        self._asked = False
        self._empty = False  # delta: an empty response is an answer to what was asked last
        # Delta: names that were asked for and may come for that, as often as they were.
        self._again: Counter[str] = Counter()
        self._optional: list[tuple[int, dict[str, Message]]] = []
        self._acks = 0
        self._unsubscribed: set[str] = set()

    # ------------------------------------------------------------------------------- requests

    def subscribe(self, names: Sequence[str], state: State, node: Node | None) -> Request:
        self._asked = True
        request = self.follower.subscribe(names, node=node)
        self._again.update(set(names))
        self._may_answer(state)
        return request

    def unsubscribe(self, names: Sequence[str], state: State) -> Request:
        held = set(self.follower.held)
        request = self.follower.unsubscribe(names)
        self._unsubscribed |= (held | set(names)) - set(self.follower.subscribed)
        if self.follower.wildcard:
            self._again.update(set(names))  # they are in the wildcard still, or are not there
        self._may_answer(state)
        return request

    def stale_subscribe(self, names: Sequence[str]) -> Request:
        """Under the nonce before the last. In SotW it counts for nothing, in delta it does."""
        return self.follower.with_stale_nonce(names)

    def resume(
        self, names: Sequence[str], held: Mapping[str, Item], version: str, state: State, node: Node
    ) -> Request:
        self._asked = self._empty = True
        request = self.follower.first(names, node=node, held=held, version=version)
        if not self._delta:
            self._optional.append((self._acks, self._asked_and_there(state)))
        return request

    def ack(self, state: State) -> Request:
        """In SotW it says anew what is asked for, as the request that did may have been stale."""
        if self._optional and not self._delta:
            self._acks += 1
            self._optional = [each for each in self._optional if each[0] > self._acks - _ACKS]
            if self._optional:
                self._optional.append((self._optional[-1][0], self._asked_and_there(state)))
        return self.follower.ack()

    def _may_answer(self, state: State) -> None:
        """Remember what a server may answer to a request that has just been made."""
        self._empty = True
        asked = self._asked_and_there(state)
        if not self._delta and (self.follower.full_state or not asked):
            self._optional.append((self._acks, asked))

    def _asked_and_there(self, state: State) -> dict[str, Message]:
        return {name: body for name, (_, body) in state.items() if self._is_asked(name)}

    def _is_asked(self, name: str) -> bool:
        return self.follower.wildcard or name in self.follower.subscribed

    # ------------------------------------------------------------------------------ responses

    def take(self, response: Response, state: State, wanted: dict[str, Piece]) -> bool:
        """Take a response that must bring some of `wanted`, which leaves it. Raises Fault.

        Gives whether it brought some: it may also be one that the server is free to send.
        """
        optional = self._is_optional(response)
        self._lawful(response, asked=not optional)
        if not optional:
            self._right(response, state)
        absent = {
            name
            for name in response.removed
            if name in self.follower.subscribed
            and name not in self.follower.absent
            and name not in self.follower.held
        }
        self.follower.received(response)
        brought = self._brought(response, state, wanted)
        for name in brought:
            del wanted[name]
        if self._delta:
            named = {item.name for item in response.items}
            self._nothing_else(response, brought | absent | (self._again.keys() & named))
            empty = not response.items and not response.removed
            allowed = not empty or self._empty
            self._again -= Counter(named)
            self._empty = self._empty and not empty
        else:
            allowed = optional
        if not brought and not allowed and not _heartbeats(response):
            raise Fault(f"{self._said(response)} came, which brings nothing that had to come")
        return bool(brought)

    def accept(self, response: Response) -> None:
        """Take any lawful response, with contents of earlier states too. Raises Fault."""
        self._lawful(response, asked=False)
        for item in response.items:
            self._content_known(item)
        self.follower.received(response)

    def holds(self, pieces: Collection[Piece], state: State) -> bool:
        """Whether the client holds these resources as the state has them, and no others."""
        held = self.follower.held
        wanted = {piece.name for piece in pieces if piece.content}
        return held.keys() == wanted and all(
            _same(item, state[name][1]) for name, item in held.items() if name in state
        )

    def holding(self) -> str:
        return _names(f"{n}={self._content(item)}" for n, item in self.follower.held.items())

    def answerable(self, piece: Piece) -> bool:
        """Whether the variant can say that this resource is not there (SotW: of LDS and CDS)."""
        return bool(piece.content) or self._delta or self.follower.full_state

    # ----------------------------------------------------------------------------------- laws

    def _lawful(self, response: Response, *, asked: bool) -> None:
        """What holds of every response. asked: with names that are asked for now, and no others"""
        what = self._said(response)
        if not self._asked:
            raise Fault(f"{what} came, of {self.type}, which nobody asked for")
        if response.type_url != self.follower.type_url:
            raise Fault(f"{what} came, of type {response.type_url!r}")
        if not response.nonce:
            raise Fault(f"{what} came without a nonce")
        if response.unnamed:
            raise Fault(f"a resource came whose name can't be read: {response.unnamed[0]}")
        if not self._delta and not response.version:
            raise Fault(f"{what} came without version_info")
        names = [item.name for item in response.items]
        for name in {*names, *response.removed}:
            if (*names, *response.removed).count(name) > 1:
                raise Fault(f"{what} came, with {name} twice")
        for item in response.items:
            if self._delta and not item.version:
                raise Fault(f"{item.name} came without a version")
            if item.body is not None and item.body.type_url != self.follower.type_url:
                raise Fault(f"{item.name} came as a {item.body.type_url}")
            if asked and not self._is_asked(item.name):
                raise Fault(f"{what} came, and {item.name} is not asked for")

    def _right(self, response: Response, state: State) -> None:
        """What holds of responses to one state that does not change meanwhile."""
        for item in response.items:
            there = state.get(item.name)
            if there is None:
                raise Fault(f"{item.name} came, and is not there")
            if item.body is not None and not _same(item, there[1]):
                raise Fault(f"{item.name}={self._content(item)} came, not {there[0]}")
            ttl = there[0].ttl if self._ttl else None
            if item.ttl != ttl:
                raise Fault(f"{item.name} came with TTL {item.ttl}, not {ttl}")
        for name in response.removed:
            held = name in self.follower.held and name not in self._unsubscribed
            if name in state and self._is_asked(name) and held:
                raise Fault(f"{name} came as removed, and is there")
            if not self._is_asked(name) and name not in self._unsubscribed:
                raise Fault(f"{name} came as removed, and was not asked for")
        if self.follower.full_state:
            missing = self._asked_and_there(state).keys() - {item.name for item in response.items}
            if missing:
                what = self._said(response)
                raise Fault(f"{what} came; without {_names(missing)} that means a removal")

    def _is_optional(self, response: Response) -> bool:
        """Whether it is what a request since the last response asked for and was there then."""
        items = {item.name: item for item in response.items}
        for at, (_, known) in enumerate(self._optional):
            if items.keys() == known.keys() and all(
                _same(item, known[name]) for name, item in items.items()
            ):
                del self._optional[: at + 1]
                return True
        return False

    def _brought(self, response: Response, state: State, wanted: Mapping[str, Piece]) -> set[str]:
        """Which of `wanted` are in a response, with the content of the state."""
        items = {item.name: item for item in response.items if item.body is not None}
        if self._delta:
            gone = set(response.removed)
        else:
            gone = wanted.keys() - items if self.follower.full_state else set()
        there = {n for n, item in items.items() if n in state and _same(item, state[n][1])}
        return {
            name for name, piece in wanted.items() if name in (there if piece.content else gone)
        }

    def _nothing_else(self, response: Response, brought: Collection[str]) -> None:
        more = {item.name for item in response.items if item.body is not None} - set(brought)
        more |= set(response.removed) - set(brought) - self._unsubscribed
        self._unsubscribed -= set(response.removed)
        if more:
            raise Fault(f"{self._said(response)} came, and {_names(more)} had no reason to")

    def _content_known(self, item: Item) -> None:
        if item.body is not None and self._content(item) == "?":
            raise Fault(f"{item.name} came with a content that no state had")

    def _content(self, item: Item) -> str:
        return "?" if item.body is None else content(self.type, item.body)

    def _said(self, response: Response) -> str:
        """A response for people."""
        parts = [f"{item.name}={self._content(item)}" for item in response.items]
        parts += [f"-{name}" for name in response.removed]
        return f"[{_names(parts)}]"


def _same(item: Item, wanted: Message) -> bool:
    return item.body is not None and unpack(item.body) == wanted


def _heartbeats(response: Response) -> bool:
    bodies = [item.body for item in response.items]
    return bool(bodies) and all(body is None for body in bodies) and not response.removed


def _names(names: Iterable[str]) -> str:
    found = sorted(names)
    return " ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
