"""Which identities each selector means, kept up to date at the cost of what changes.

Two indices, one for each way a pair can begin:
* identities by label (bitmaps of numbers by "key=value" and by key): a new selector is a few bitmap
  operations, one a requirement, whatever the number of identities;
* selectors by one label that they need (its namespace where it has one): a new identity is compared
  only with the selectors that could mean it. Selectors that need no label are compared with all.

Named ports: a `Family` splits a selector's members by the number that a port's name stands for on
each of them, so that an egress rule on a name is exact per destination.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias, TypeVar

from pyroaring import BitMap

from reconciler.core.labels import LabelSet
from reconciler.core.policy.selectors import (
    NAMESPACE,
    NamedPort,
    Selector,
    with_named_port,
)

K = TypeVar("K")

Place: TypeAlias = tuple[str, str | None]
"""A label that a selector needs: (key, value), or (key, None) for any value."""

ANYWHERE: Final[Place] = ("", None)


class Part(NamedTuple):
    """The members of a selector that have one named port."""

    selector: Selector
    members: BitMap


class Family:
    """The members of one selector by the number of one named port. Empty parts are removed.

    users: keys of the policies whose egress rules name this port on this selector
    """

    __slots__ = ("_parts", "base", "name", "parts", "protocol", "users")

    def __init__(self, base: Selector, name: str, protocol: int, parts: dict[str, Part]) -> None:
        self.base, self.name, self.protocol = base, name, protocol
        self.parts: dict[int, Part] = {}
        self.users: set[str] = set()
        self._parts = parts

    def add(self, port: int, number: int) -> Part:
        found = self.parts.get(port)
        if found is None:
            key = NamedPort(self.name, self.protocol, port)
            found = self.parts[port] = Part(with_named_port(self.base, key), BitMap())
            self._parts[found.selector.hash] = found
        found.members.add(number)
        return found

    def remove(self, port: int, number: int) -> Part:
        found = self.parts[port]
        found.members.remove(number)
        if not found.members:
            del self.parts[port], self._parts[found.selector.hash]
        return found

    def clear(self) -> None:
        for part in self.parts.values():
            del self._parts[part.selector.hash]
        self.parts.clear()


class Watch:
    """One selector that some policy uses: its members now, and who uses it for what.

    subject_of: keys of the policies whose subject it is
    families:   (port name, protocol) → members by port number
    uses:       references; the index forgets a watch without any
    """

    __slots__ = ("families", "members", "selector", "subject_of", "uses")

    def __init__(self, selector: Selector, members: BitMap) -> None:
        self.selector = selector
        self.members = members
        self.subject_of: set[str] = set()
        self.families: dict[tuple[str, int], Family] = {}
        self.uses = 0


class SelectorIndex:
    """Who is a member of what.

    labels:  every identity that was added and not removed
    watches: by selector hash, the selectors in use
    parts:   by selector hash (with the named port), all parts of all families
    """

    def __init__(self) -> None:
        self.labels: dict[int, LabelSet] = {}
        self.watches: dict[str, Watch] = {}
        self.parts: dict[str, Part] = {}
        self._all = BitMap()
        self._by_key: dict[str, BitMap] = {}
        self._by_pair: dict[tuple[str, str], BitMap] = {}
        self._filed: dict[Place, dict[str, Watch]] = {}

    def add(self, number: int, labels: LabelSet) -> list[Watch]:
        """A new identity; the watches that it is now a member of."""
        self.labels[number] = labels
        self._all.add(number)
        for key, value in _pairs(labels):
            self._by_key.setdefault(key, BitMap()).add(number)
            self._by_pair.setdefault((key, value), BitMap()).add(number)
        joined = [watch for watch in self._candidates(labels) if watch.selector.matches(labels)]
        for watch in joined:
            watch.members.add(number)
        return joined

    def remove(self, number: int) -> list[Watch]:
        """An identity goes; the watches that it was a member of."""
        labels = self.labels.pop(number)
        self._all.remove(number)
        for key, value in _pairs(labels):
            _discard(self._by_key, key, number)
            _discard(self._by_pair, (key, value), number)
        left = [watch for watch in self._candidates(labels) if number in watch.members]
        for watch in left:
            watch.members.remove(number)
        return left

    def watch(self, wanted: Selector) -> Watch:
        """The watch of a selector, evaluated now if it is new; counts one use."""
        found = self.watches.get(wanted.hash)
        if found is None:
            found = self.watches[wanted.hash] = Watch(wanted, self.select(wanted))
            for place in _places(wanted):
                self._filed.setdefault(place, {})[wanted.hash] = found
        found.uses += 1
        return found

    def forget(self, watch: Watch) -> None:
        """Remove a watch without uses, with its families."""
        name = watch.selector.hash
        del self.watches[name]
        for family in watch.families.values():
            family.clear()
        for place in _places(watch.selector):
            filed = self._filed[place]
            del filed[name]
            if not filed:
                del self._filed[place]

    def select(self, wanted: Selector) -> BitMap:
        """The identities that a selector (without a named port) means: bitmap algebra only."""
        found: BitMap = self._all.copy()
        nobody = BitMap()
        for term in wanted.requirements:
            if term.operator in ("In", "NotIn"):
                listed = BitMap.union(
                    nobody,
                    *(self._by_pair.get((term.key, value), nobody) for value in term.values),
                )
            else:
                listed = self._by_key.get(term.key, nobody)
            if term.operator in ("In", "Exists"):
                found &= listed
            else:
                found -= listed
        return found

    def family(self, watch: Watch, name: str, protocol: int) -> Family:
        """The members of a watch by a named port's number, built now if it is new."""
        found = watch.families.get((name, protocol))
        if found is None:
            found = Family(watch.selector, name, protocol, self.parts)
            watch.families[name, protocol] = found
            for number in watch.members:
                for port in named(self.labels[number], name, protocol):
                    found.add(port, number)
        return found

    def members(self, name: str) -> BitMap:
        """Members of a watch or part by its selector's hash; of any other name, nobody."""
        watch = self.watches.get(name)
        if watch is not None:
            return watch.members
        part = self.parts.get(name)
        return BitMap() if part is None else part.members

    def _candidates(self, labels: LabelSet) -> Iterator[Watch]:
        """Every watch that could mean this label set, each once."""
        for key, value in _pairs(labels):
            yield from self._filed.get((key, value), {}).values()
            yield from self._filed.get((key, None), {}).values()
        yield from self._filed.get(ANYWHERE, {}).values()

    def selector(self, name: str) -> Selector:
        """The selector of a watch or part. KeyError if there is none."""
        watch = self.watches.get(name)
        return self.parts[name].selector if watch is None else watch.selector


def named(labels: LabelSet, name: str, protocol: int) -> set[int]:
    """The numbers that a port's name stands for in a label set: mostly none or one."""
    return {port for n, p, port in labels.named_ports if n == name and p == protocol}


def _places(wanted: Selector) -> list[Place]:
    """Where to file a selector: under a label that it needs, the one that fewest others have."""
    positive = [term for term in wanted.requirements if term.operator in ("In", "Exists")]
    if not positive:
        return [ANYWHERE]
    needed = min(
        positive,
        key=lambda term: (term.operator != "In", term.key != NAMESPACE, len(term.values), term),
    )
    if needed.operator == "Exists":
        return [(needed.key, None)]
    return [(needed.key, value) for value in needed.values]


def _pairs(labels: LabelSet) -> Iterator[tuple[str, str]]:
    for label in labels.labels:
        yield f"{label.source}:{label.key}", label.value


def _discard(table: dict[K, BitMap], key: K, number: int) -> None:
    members = table[key]
    members.discard(number)
    if not members:
        del table[key]
