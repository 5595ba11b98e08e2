"""A directory of resources as one state: read whole, in force whole or not at all.

Every file counts that `watching` finds; which nodes its resources are for says its directory (see
`match`). Promises:

* one problem anywhere (a file that can't be read or parsed, a resource that breaks its proto, a
  name that comes twice for a node) changes nothing: the last good state stays, and every problem is
  named with file, document, resource, field and reason;
* what changes in several files at once takes effect at once;
* equal content gives equal versions, whatever server reads it, in whatever order.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

import msgspec

from reconciler.core.discovery.types import Node
from reconciler.core.objects.yamlload import YamlError, load_documents
from reconciler.errors import ConfigError, Rejected
from reconciler.server.discovery.documents import Found, Parsed, parse
from reconciler.server.discovery.match import (
    MATCH_FILE,
    Condition,
    Conditions,
    Overlaps,
    condition_of,
    directory_of,
    parse_match,
)
from reconciler.server.watching import list_files, looks, settled, signature_of

_QUIET_MS: Final = 20
"""A burst of changes is over when nothing happened for so long: what is replaced as a whole is in
force soon. A state that was seen half way is healed by the next look."""

_RESCAN_SECONDS: Final = 5.0
"""How often to look where no event comes: behind links out of the directory, on network mounts."""


ByType = Mapping[str, Mapping[str, Found]]
"""Type URL → name → resource."""


class Directory(msgspec.Struct, frozen=True, dict=True):
    """The resources of one condition. name: "" (of all nodes), "nodes/n1", ...; grouped: the
    same by type and name, where that is at hand"""

    name: str
    condition: Condition
    found: tuple[Found, ...]
    grouped: ByType | None = None

    @cached_property
    def by_type(self) -> ByType:
        if self.grouped is not None:
            return self.grouped
        found: dict[str, dict[str, Found]] = {}
        for each in self.found:
            found.setdefault(each.type_url, {})[each.name] = each
        return found


class State(msgspec.Struct, frozen=True, dict=True):
    """directories: sorted by name; each has a resource."""

    directories: tuple[Directory, ...] = ()

    def of(self, node: Node) -> tuple[str, ...]:
        """Names of the directories that are for a node."""
        return tuple(self.directories[at].name for at in self._conditions.of(node))

    def resources(self, names: Iterable[str]) -> ByType:
        """Of these directories; of one that is not there nothing."""
        there = [self._by_name[name].by_type for name in names if name in self._by_name]
        if len(there) == 1:
            return there[0]
        view: dict[str, Mapping[str, Found]] = {}
        for by_type in there:
            for type_url, found in by_type.items():
                view[type_url] = {**view.get(type_url, {}), **found}
        return view

    @property
    def count(self) -> int:
        return sum(len(each.found) for each in self.directories)

    @cached_property
    def _conditions(self) -> Conditions:
        return Conditions(each.condition for each in self.directories)

    @cached_property
    def _by_name(self) -> dict[str, Directory]:
        return {each.name: each for each in self.directories}


class Outcome(msgspec.Struct, frozen=True):
    """What a look found. state: None when there are problems."""

    state: State | None
    problems: tuple[Rejected, ...] = ()


class _File(msgspec.Struct):
    signature: tuple[int, ...]
    data: bytes
    parsed: Parsed = Parsed()
    condition: Condition | None = None  # of a match.yaml


class Resources:
    """What is under a directory; `scan` says how it is now if that is news."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[str, _File] = {}
        self._wrong: tuple[Rejected, ...] | None = None  # with files themselves, at the last look
        self._last: Outcome | None = None

    def scan(self) -> Outcome | None:
        """None: as it was at the last look. Reads only files that are new or have changed."""
        listing = list_files(self.root)
        problems = [
            Rejected(where if where != "." else str(self.root), "", "", reason)
            for where, reason in sorted(listing.unreadable.items())
        ]
        files: dict[str, _File] = {}
        for name in listing.files:
            try:
                file = self._read(name)
            except FileNotFoundError:
                continue  # removed since it was listed, or a link to nowhere
            except OSError as error:
                problems.append(Rejected(name, "", "", f"can't be read: {error.strerror}"))
                continue
            files[name] = file
            problems.extend(file.parsed.problems)
        same = files.keys() == self._files.keys() and all(
            file is self._files[name] for name, file in files.items()
        )
        self._files, wrong = files, tuple(problems)
        if same and wrong == self._wrong:
            return None
        self._wrong = wrong
        directories = self._directories(problems)
        problems.extend(_duplicates(directories))
        found = Outcome(None if problems else State(directories), tuple(problems))
        if found == self._last:
            return None
        self._last = found
        return found

    def _read(self, name: str) -> _File:
        path = self.root / name
        held = self._files.get(name)
        before = signature_of(path)
        if held is not None and held.signature == before:
            return held
        data = path.read_bytes()
        if held is not None and held.data == data:
            held.signature = settled(before)
            return held
        if _is_match(name):
            parsed, condition = _match(data, name)
            return _File(settled(before), data, parsed, condition)
        known = None if held is None else held.parsed.known
        return _File(settled(before), data, parse(data, name, known))

    def _directories(self, problems: list[Rejected]) -> tuple[Directory, ...]:
        found: dict[str, list[Found]] = {}
        conditions: dict[str, Condition | None] = {}
        for name, file in self._files.items():
            try:
                directory = directory_of(name)
            except ValueError as error:
                problems.append(Rejected(name, "", "", str(error)))
                continue
            if _is_match(name):
                conditions[directory] = file.condition
            else:
                found.setdefault(directory, []).extend(file.parsed.found)
        directories = []
        for directory, resources in sorted(found.items()):
            condition = condition_of(directory)
            if condition is None:
                condition = conditions.get(directory)
                if directory not in conditions:
                    reason = f"has no {MATCH_FILE}, which says what nodes it is for"
                    problems.append(Rejected(directory, "", "", reason))
            if condition is not None and resources:
                directories.append(Directory(directory, condition, tuple(resources)))
        return tuple(directories)


def _is_match(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 3 and parts[0] == "match" and parts[2] == MATCH_FILE


def _match(data: bytes, name: str) -> tuple[Parsed, Condition | None]:
    try:
        documents = list(load_documents(data))
        if len(documents) != 1:
            raise ValueError("one document is expected")
        return Parsed(), parse_match(documents[0])
    except (YamlError, ValueError) as error:
        return Parsed(problems=(Rejected(name, "", "", str(error)),)), None


def _duplicates(directories: tuple[Directory, ...]) -> Iterator[Rejected]:
    """Names that a node could get twice."""
    holders: dict[tuple[str, str], tuple[Overlaps, list[Found]]] = {}
    for directory in directories:
        for each in directory.found:
            overlaps, found = holders.setdefault((each.type_url, each.name), (Overlaps(), []))
            first = overlaps.add(directory.condition)
            if first is not None:
                reason = f"is in {found[first].source} too, and a node could get both"
                yield Rejected(each.source, each.title, "", reason)
            found.append(each)


# --------------------------------------------------------------------------------- watching


def watch(
    directory: str | Path,
    stop: asyncio.Event,
    *,
    rescan_seconds: float = _RESCAN_SECONDS,
) -> AsyncGenerator[Outcome, None]:
    """How it is now, then each change of it, until `stop`. ConfigError: no such directory."""
    root = Path(directory)
    if not root.is_dir():
        raise ConfigError(f"resources: {root} is not a directory")
    scan = Resources(root).scan
    return looks(root, scan, stop, rescan_seconds=rescan_seconds, quiet_ms=_QUIET_MS)


class Watched:
    """A directory as a `parts.Source`. ConfigError: no such directory."""

    def __init__(self, directory: str | Path, stop: asyncio.Event) -> None:
        self._outcomes = watch(directory, stop)

    async def __aenter__(self) -> Watched:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._outcomes.aclose()

    async def first(self) -> Outcome:
        return await anext(self._outcomes)

    async def follow(self, take: Callable[[Outcome], None]) -> None:
        async for outcome in self._outcomes:
            take(outcome)
