"""What agents recorded of their maps, for specs/trace/NodeMapsTrace.tla.

The cuts' meaning is worked out here, by `dataplane.meaning` from the resources that the agent held
at each flip: neither the tables nor the maps have a part in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, Final

from reconciler.core.dataplane.meaning import Full
from reconciler.core.dataplane.prefixes import parse_key
from reconciler.core.dataplane.values import Change
from reconciler.core.policy.entries import block_has
from reconciler.core.policy.ir import CidrBlock, Direction, Prefix, RuleSet
from reconciler.core.resources import root as roots
from reconciler.core.resources.decode import decode
from reconciler.core.resources.values import Addresses, Commit, IdentityLabels, LocalPod
from reconciler.core.trace import Event
from reconciler.errors import Refusal
from reconciler.formal.values import Record, Value
from reconciler.testing.replay import Recorded

QUESTIONS: Final = 4
"""About each pod: the more, the slower."""

TRIED, JUDGES = 20, 40
"""Pairs of questions about each pod that are tried, and on how many cuts."""

OUTSIDE: Final = (bytes([8, 8, 8, 8]), bytes([10, 200, 200, 200]))
PORTS: Final = ((6, 80), (17, 53))

Question = tuple[str, bytes, Direction, int, int]


class _Cut:
    """Resources of one root, as they were held when it was flipped to."""

    def __init__(self, held: Mapping[tuple[str, str], tuple[str, str]], found: Event) -> None:
        self.changes: list[Change] = []
        for (type_url, name), (version, body) in sorted(held.items()):
            value = decode(type_url, name, version, bytes.fromhex(body))
            if not isinstance(value, Refusal | Commit | IdentityLabels):
                self.changes.append(Change(type_url, name, value))
        services = [_prefix(each) for each in found.args["services"]]
        self._full = Full(self.changes, found.args["node"], services)

    def values(self) -> Iterable[Any]:
        return (change.value for change in self.changes)

    def allows(self, question: Question) -> bool:
        return self._full.allowed(*question)


def _constants(events: Sequence[Event]) -> Mapping[str, Value]:
    cuts = _cuts(events)
    questions = _questions(list(cuts.values()))
    keys = _keys(events)
    return {
        "Cuts": frozenset(
            Record(
                root=root,
                allows=frozenset(
                    number for number, each in enumerate(questions, 1) if cut.allows(each)
                ),
            )
            for root, cut in cuts.items()
        ),
        "Questions": tuple(
            Record(
                pod=pod,
                ingress=direction is Direction.INGRESS,
                protocol=protocol,
                port=port,
                keys=_around(peer, keys),
            )
            for pod, peer, direction, protocol, port in questions
        ),
    }


def _cuts(events: Sequence[Event]) -> dict[str, _Cut]:
    """Root → resources, of each flip to what was held; processes one after the other."""
    cuts: dict[str, _Cut] = {}
    held: dict[tuple[str, str], tuple[str, str]] = {}
    before = dict(held)
    found = events[0]
    for event in events:
        args = event.args
        if event.action == "Found":
            found, held, before = event, {}, {}
        elif event.action == "Hold":
            key = (args["type"], args["name"])
            held.pop(key, None)
            if args["version"]:
                held[key] = (args["version"], args["body"])
        elif event.action == "Undo":
            held = dict(before)
        elif event.action == "Flip":
            root = roots.total((*key, version) for key, (version, _) in held.items())
            if roots.to_bytes(root).hex() == args["root"]:
                before = dict(held)
                if args["root"] not in cuts:
                    cuts[args["root"]] = _Cut(held, found)
    return cuts


def _questions(cuts: Sequence[_Cut]) -> list[Question]:
    """Of each pod those, among some of its possible peers, directions and ports, to which different
    cuts give different answers. The same for the same cuts."""
    pods: set[str] = set()
    peers: set[bytes] = set(OUTSIDE)
    ports: set[tuple[int, int]] = set(PORTS)
    for cut in cuts:
        for value in cut.values():
            if isinstance(value, LocalPod):
                pods.add(value.pod)
            elif isinstance(value, Addresses):
                peers.update(each for each in value.addresses if len(each) == 4)
            elif isinstance(value, RuleSet):
                spans = (span for rule in value.rules for span in rule.ports)
                ports.update((span.protocol, span.first) for span in spans)
    random = Random(0)
    judges = random.sample(cuts, min(len(cuts), JUDGES))
    chosen: set[Question] = set()
    for pod in sorted(pods):
        tried = {
            (pod, random.choice(sorted(peers)), way, *random.choice(sorted(ports)))
            for _ in range(TRIED)
            for way in Direction
        }
        passes = {each: sum(cut.allows(each) for cut in judges) for each in sorted(tried)}
        split = sorted(passes, key=lambda each: (abs(len(judges) - 2 * passes[each]), each))
        chosen.update(split[:QUESTIONS])
    return sorted(chosen)


def _keys(events: Sequence[Event]) -> dict[str, Prefix]:
    """Every key of the address map that is ever written or found."""
    keys: set[str] = set()
    for event in events:
        if event.action == "Found":
            keys |= {each["key"] for each in event.args["Address"]}
        elif event.action == "Address":
            keys.add(event.args["entry"]["key"])
    return {key: parse_key(bytes.fromhex(key)) for key in keys}


def _around(address: bytes, keys: Mapping[str, Prefix]) -> tuple[str, ...]:
    host = Prefix(address, len(address) * 8)
    found = [
        key
        for key, prefix in keys.items()
        if len(prefix.address) == len(address) and block_has(CidrBlock(prefix), host)
    ]
    return tuple(sorted(found, key=lambda key: -keys[key].length))


def _prefix(text: str) -> Prefix:
    address, _, length = text.partition("/")
    return Prefix(bytes.fromhex(address), int(length))


TRACE: Final = Recorded(module="NodeMapsTrace", process="agent", constants=_constants, exact=False)
