"""Runs scenarios against a target. A run fails at the step whose expectation was not met.

Nothing waits for time to pass: that something must not come is shown by what must come instead. A
failure costs one wait (`Target.wait`), as it takes that long to say that nothing came.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Final

import msgspec
from google.protobuf.message import Message

from reconciler.errors import ProtocolError, UnavailableError
from reconciler.probe.client import Client, Ended, Stream
from reconciler.probe.follow import Follower
from reconciler.probe.frames import Item, Node, Request, Response
from reconciler.probe.services import AGGREGATED, OWN, Variant
from reconciler.testing.conformance.adapters import Adapter, NotSupported, Refused
from reconciler.testing.conformance.judge import Fault, Judge
from reconciler.testing.conformance.language import Piece, Scenario, Step, steps
from reconciler.testing.conformance.resources import message, written

NODE: Final = "test-id"
WAIT_SECONDS: Final = 5.0
TTL_FEATURES: Final = {
    Variant.DELTA: {"xds.config.supports-resource-ttl"},
    Variant.SOTW: {"xds.config.supports-resource-ttl", "xds.config.supports-resource-in-sotw"},
}
"""What a client must have before a server may send it times to live ("TTL", "SotW TTL")."""


_CLOSED: Final = {"UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED"}
"""How a stream ends where there is no connection to be had, or no right to ask."""


class Outcome(enum.StrEnum):
    PASS = "pass"
    FAIL = "fail"
    NOT_SUPPORTED = "not supported"


class Result(msgspec.Struct, frozen=True):
    """Of one run. why: "" of one that passed. seconds: that it took"""

    scenario: str
    variant: Variant
    service: str
    type: str
    outcome: Outcome
    why: str
    seconds: float


class Target(msgspec.Struct, frozen=True):
    """client: a new connection to it, as a context. wait: seconds for something that must come"""

    client: Callable[[], Client]
    adapter: Adapter
    node: Node = Node(NODE)
    wait: float = WAIT_SECONDS


async def reach(target: Target) -> None:
    """UnavailableError with the reason when the target lets this client ask nothing at all, which
    each of the runs would fail with. It has a resource then, as there is something to answer."""
    with contextlib.suppress(NotSupported, Refused):
        await target.adapter.put([written(Piece("CDS", "reach"))])
    async with target.client() as client:
        stream = client.open(AGGREGATED, Variant.DELTA)
        try:
            follower = Follower(OWN["CDS"].type_url, Variant.DELTA)
            await stream.send(follower.first((), node=target.node))
            found = await stream.receive(target.wait)
        except ProtocolError:
            return  # for the scenarios to say
        finally:
            await stream.close()
    if isinstance(found, Ended) and found.status in _CLOSED:
        raise UnavailableError(f"the target: {found}")


async def run_all(
    target: Target,
    scenarios: Iterable[Scenario],
    *,
    variants: Collection[str] = tuple(Variant),
    services: Collection[str] = ("ads", "own"),
    types: Collection[str] = tuple(OWN),
) -> AsyncIterator[Result]:
    """Each run of each scenario that is of these, in order."""
    for scenario in scenarios:
        for variant, service, type in scenario.runs():
            if variant in variants and service in services and type in types:
                yield await run(target, scenario, variant, service, type)


async def run(
    target: Target, scenario: Scenario, variant: Variant, service: str, type: str
) -> Result:
    """One run, on connections of its own. UnavailableError: the adapter is out of order."""
    begin = time.monotonic()
    outcome, why = Outcome.PASS, ""
    async with contextlib.AsyncExitStack() as stack:
        one = _Run(target, variant, service, type, stack)
        for step in steps(scenario, variant, service, type):
            try:
                await one.do(step)
            except (Fault, Refused, ProtocolError) as error:
                outcome, why = Outcome.FAIL, f"line {step.line}: {step.source}: {error}"
                break
            except NotSupported as error:
                outcome, why = Outcome.NOT_SUPPORTED, str(error)
                break
    seconds = time.monotonic() - begin
    return Result(scenario.name, variant, service, type, outcome, why, seconds)


class _Link:
    """One stream of the client's."""

    def __init__(self, stream: Stream, node: Node, *, typed: bool) -> None:
        self.stream, self.node, self.typed = stream, node, typed
        self.judges: dict[str, Judge] = {}
        self.began = False

    def first_node(self) -> Node | None:
        """The node, for the first request only."""
        began, self.began = self.began, True
        return None if began else self.node


class _Run:
    def __init__(
        self,
        target: Target,
        variant: Variant,
        service: str,
        type: str,
        stack: contextlib.AsyncExitStack,
    ) -> None:
        self._target, self._variant, self._type = target, variant, type
        self._service = AGGREGATED if service == "ads" else OWN[type]
        self._stack = stack
        self._links: dict[str, _Link] = {}
        self._state: dict[str, dict[str, tuple[Piece, Message]]] = {t: {} for t in OWN}
        self._verbs = {
            "state": self._set_state,
            "restart": self._restart,
            "connect": self._connect,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "ask nothing": self._ask_nothing,
            "stale subscribe": self._stale_subscribe,
            "expect": self._expect_step,
            "take": self._take_step,
            "settle": self._settle,
            "order": self._order,
            "ack": self._ack,
            "ack old version": self._ack_old_version,
            "nack": self._nack,
            "quiet by subscribing": self._quiet_by_subscribing,
            "quiet by changing": self._quiet_by_changing,
            "resume": self._resume,
            "heartbeat": self._heartbeat,
            "ends": self._ends,
        }

    async def do(self, step: Step) -> None:
        """Fault, ProtocolError, NotSupported: the run ends with it."""
        await self._verbs[step.verb](step)

    # ------------------------------------------------------------------------------ the target

    async def _set_state(self, step: Step) -> None:
        for known in self._state.values():
            known.clear()
        for piece in step.pieces:
            self._state[piece.type][piece.name] = (piece, message(piece))
        await self._put()

    async def _put(self) -> None:
        pieces = [piece for known in self._state.values() for piece, _ in known.values()]
        await self._target.adapter.put([written(piece) for piece in pieces])

    async def _restart(self, step: Step) -> None:
        await self._target.adapter.restart()

    # ------------------------------------------------------------------------------ the client

    async def _link(self, step: Step) -> _Link:
        """The step's stream; opened when there is none."""
        found = self._links.get(step.stream)
        return found or await self._open(step.stream, ())

    async def _open(self, name: str, words: Sequence[str]) -> _Link:
        features = tuple(word for word in words if word != "untyped")
        client = await self._stack.enter_async_context(self._target.client())
        stream = client.open(self._service, self._variant)
        self._stack.push_async_callback(stream.close)
        node = msgspec.structs.replace(self._target.node, features=features)
        self._links[name] = link = _Link(stream, node, typed="untyped" not in words)
        return link

    def _judge(self, link: _Link, type: str) -> Judge:
        if type not in link.judges:
            ttl = TTL_FEATURES[self._variant] <= set(link.node.features)
            link.judges[type] = Judge(type, self._variant, typed=link.typed, ttl=ttl)
        return link.judges[type]

    async def _connect(self, step: Step) -> None:
        await self._open(step.stream, step.text.split())

    async def _subscribe(self, step: Step) -> None:
        link = await self._link(step)
        type, names = self._names(step)
        judge = self._judge(link, type)
        node = link.first_node()
        await link.stream.send(_with_node(judge.subscribe(names, self._state[type], node), node))

    async def _unsubscribe(self, step: Step) -> None:
        link = await self._link(step)
        type, names = self._names(step)
        judge = self._judge(link, type)
        await link.stream.send(judge.unsubscribe(names, self._state[type]))

    async def _stale_subscribe(self, step: Step) -> None:
        link = await self._link(step)
        type, names = self._names(step)
        await link.stream.send(self._judge(link, type).stale_subscribe(names))

    async def _ask_nothing(self, step: Step) -> None:
        link = await self._link(step)
        await link.stream.send(self._judge(link, self._type).follower.nothing())

    async def _ack(self, step: Step) -> None:
        link = await self._link(step)
        await link.stream.send(self._judge(link, self._type).ack(self._state[self._type]))

    async def _ack_old_version(self, step: Step) -> None:
        link = await self._link(step)
        follower = self._judge(link, self._type).follower
        await link.stream.send(follower.ack_with_stale_version())

    async def _nack(self, step: Step) -> None:
        link = await self._link(step)
        await link.stream.send(self._judge(link, self._type).follower.nack(step.text))

    async def _resume(self, step: Step) -> None:
        """On a new stream, with what the old one's client holds."""
        old = await self._link(step)
        await old.stream.close()
        type, names = self._names(step)
        before = self._judge(old, type).follower
        held: dict[str, Item] = dict(before.held)
        link = await self._open(step.stream, old.node.features)
        judge = self._judge(link, type)
        link.began = True
        await link.stream.send(
            judge.resume(names, held, before.version, self._state[type], link.node)
        )

    def _names(self, step: Step) -> tuple[str, list[str]]:
        """The type that a request is of, and its names."""
        type = step.pieces[0].type if step.pieces else self._type
        return type, [piece.name for piece in step.pieces if piece.name]

    # ---------------------------------------------------------------------------- expectations

    async def _expect_step(self, step: Step) -> None:
        await self._expect(await self._link(step), step.pieces, ack=True)

    async def _take_step(self, step: Step) -> None:
        await self._expect(await self._link(step), step.pieces, ack=False)

    async def _order(self, step: Step) -> None:
        arrived = await self._expect(await self._link(step), step.pieces, ack=True)
        for first, second in zip(step.pieces, step.pieces[1:], strict=False):
            if arrived[first] > arrived[second]:
                raise Fault(f"{second.type} {second} came before {first.type} {first}")

    async def _quiet_by_subscribing(self, step: Step) -> None:
        await self._subscribe(step)
        await self._expect(await self._link(step), step.pieces, ack=True)

    async def _quiet_by_changing(self, step: Step) -> None:
        """Twice: by then what was asked before is read as good as always, though nothing shows it;
        an answer to that may still come later."""
        (named,) = step.pieces
        for _ in range(2):
            known = self._state[named.type]
            before = known[named.name][0] if named.name in known else named
            piece = msgspec.structs.replace(before, content=before.content + 1)
            known[named.name] = (piece, message(piece))
            await self._put()
            await self._expect(await self._link(step), (piece,), ack=True)

    async def _expect(self, link: _Link, pieces: Sequence[Piece], *, ack: bool) -> dict[Piece, int]:
        """Take responses until all of these have come; in which of the responses each came.

        ack: those that brought some of it; others, which the server is free to send, always.
        """
        wanted: dict[str, dict[str, Piece]] = {}
        for piece in pieces:
            if self._judge(link, piece.type).answerable(piece):
                wanted.setdefault(piece.type, {})[piece.name] = piece
        arrived: dict[Piece, int] = {}
        count = 0
        while any(wanted.values()):
            open_ = [piece for each in wanted.values() for piece in each.values()]
            response, judge = await self._next(link, open_)
            count += 1
            known = wanted.setdefault(judge.type, {})
            brought = judge.take(response, self._state[judge.type], known)
            still = [piece for each in wanted.values() for piece in each.values()]
            arrived |= {piece: count for piece in open_ if piece not in still}
            if ack or not brought:
                await link.stream.send(judge.ack(self._state[judge.type]))
        return arrived

    async def _settle(self, step: Step) -> None:
        link = await self._link(step)
        type = step.pieces[0].type
        judge = self._judge(link, type)
        while not judge.holds(step.pieces, self._state[type]):
            try:
                response, found = await self._next(link, step.pieces)
            except Fault as fault:
                raise Fault(f"{fault}; held: {judge.holding() or 'nothing'}") from None
            found.accept(response)
            await link.stream.send(found.ack(self._state[type]))

    async def _heartbeat(self, step: Step) -> None:
        link = await self._link(step)
        (piece,) = step.pieces
        held = self._judge(link, piece.type).follower.held.get(piece.name)
        delta = self._variant is Variant.DELTA
        while True:
            response, judge = await self._next(link, step.pieces)
            judge.take(response, self._state[judge.type], {} if delta else {piece.name: piece})
            await link.stream.send(judge.ack(self._state[judge.type]))
            for item in response.items:
                if item.name == piece.name and (item.body is None or not delta):
                    if held is None or item.version != held.version or item.ttl is None:
                        raise Fault(f"a heartbeat of {item.version!r} came, with TTL {item.ttl}")
                    return

    async def _ends(self, step: Step) -> None:
        link = await self._link(step)
        while True:
            found = await link.stream.receive(self._target.wait)
            if found is None:
                raise Fault(f"the stream goes on after {self._target.wait:g} s")
            if isinstance(found, Ended):
                if found.status != step.text:
                    raise Fault(f"the stream ended with {found}")
                return

    async def _next(self, link: _Link, wanted: Collection[Piece]) -> tuple[Response, Judge]:
        found = await link.stream.receive(self._target.wait)
        names = " ".join(map(str, wanted))
        if found is None:
            raise Fault(f"nothing came in {self._target.wait:g} s; wanted: {names}")
        if isinstance(found, Ended):
            raise Fault(f"the stream ended with {found}; wanted: {names}")
        for judge in link.judges.values():
            if judge.follower.type_url == found.type_url:
                return found, judge
        raise Fault(f"a response of type {found.type_url!r} came, which nobody asked for")


def _with_node(request: Request, node: Node | None) -> Request:
    """The node belongs into the first request of a stream, whichever type that is of."""
    return request if node is None else msgspec.structs.replace(request, node=node)
