"""The scenarios' language: TOML files of scenarios, each with a few lines of steps.

    [[scenario]]
    name = "nack-named"
    section = "NACK"                 # title in the xDS protocol's document
    says = "What was refused is not sent again before it changes."
    types = ["CDS", "EDS"]           # runs once for each; all four when left out
    variants = ["sotw", "delta"]     # both when left out
    services = ["ads", "own"]        # aggregated, and the type's own; both when left out
    steps = '''
    state a b
    subscribe a
    take a
    nack no such thing
    quiet by subscribing b
    '''

A line is `[WHEN|] [STREAM>] VERB ...`. WHEN: `sotw` or `delta`, `ads` or `own`, with a comma when
both must hold; the line is left out of other runs. STREAM: a name, where a scenario has several;
a stream is opened when it is first named. # begins a comment.

A resource is written `a` (content 1), `a=2` (content 2), `a=2+64k` (and 64 KiB longer), `a~0.5s`
(with a time to live), or `-a` (it is not, or no longer, there). `EDS:a` is one of another type than
the scenario's. A name is a resource without content; `EDS:` alone stands for no name, of EDS.

    state RESOURCE...       the target's whole state is this, from now on (through the adapter)
    restart                 the target is restarted (through the adapter), and all streams end
    connect [FEATURE...]    open the stream; the client has these features. `untyped`: its requests
                            don't say their type
    subscribe [NAME...]     one request for more names; the first without names is for everything
    unsubscribe NAME...     one request: those are not wanted any more
    ask nothing             one request, not the first, that changes nothing and answers nothing
    stale subscribe NAME... as `subscribe`, under the nonce of the response before the last
    expect RESOURCE...      these must come, each response must bring some of them, and is ACKed
    take RESOURCE...        the same without the ACK
    settle RESOURCE...      responses are ACKed until just these are held, whatever comes before
    order RESOURCE...       as `expect`; they must come in this order, of one response or of several
    ack | nack REASON       answer the last response (of the scenario's type)
    ack old version         ACK with the version before it, without error_detail (SotW)
    quiet by subscribing N  nothing may come: N is asked for, and its answer must come first
    quiet by changing N     nothing may come: N is changed, twice, and only that must come
    resume [NAME...]        a new stream, whose first request names these and says what is held
    heartbeat NAME          a resource must come again with the same version and a TTL; in delta
                            without a body
    ends STATUS             the server ends the stream with this gRPC status

What each response must obey at any time is in `judge.py`; when `expect` is content too.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from reconciler.errors import ConfigError
from reconciler.probe.services import Variant

TYPES: Final = ("CDS", "LDS", "EDS", "RDS")
SERVICES: Final = ("ads", "own")
FOLDER: Final = Path(__file__).parent / "scenarios"

_RESOURCE: Final = re.compile(
    r"(?P<gone>-)?((?P<type>[A-Z]+):)?(?P<name>[a-z*][a-z0-9.-]*)?"
    r"(=(?P<content>\d+))?(\+(?P<padding>\d+)k)?(~(?P<ttl>[0-9.]+)s)?"
)


_LINE: Final = re.compile(r"((?P<when>[a-z,]+)\|)?\s*((?P<stream>[a-z]+)>)?\s*(?P<rest>.*)")


class Piece(msgspec.Struct, frozen=True):
    """A resource as a step writes it; type and name of a bare name, content 0: it is not there.

    padding: bytes. ttl: seconds
    """

    type: str
    name: str
    content: int = 1
    padding: int = 0
    ttl: float | None = None

    def __str__(self) -> str:
        return f"-{self.name}" if not self.content else f"{self.name}={self.content}"


class Step(msgspec.Struct, frozen=True):
    """One line. pieces: of verbs that take resources or names; text: of the others."""

    line: int
    verb: str
    stream: str
    pieces: tuple[Piece, ...] = ()
    text: str = ""
    when: frozenset[str] = frozenset()
    source: str = ""


class Scenario(msgspec.Struct, frozen=True):
    name: str
    section: str
    says: str
    types: tuple[str, ...]
    variants: tuple[Variant, ...]
    services: tuple[str, ...]
    steps: str
    outlines: tuple[int, ...] = ()

    def runs(self) -> Iterator[tuple[Variant, str, str]]:
        """(variant, service, type) of each run."""
        for variant in self.variants:
            for service in self.services:
                for type in self.types:
                    yield variant, service, type


class _File(msgspec.Struct, forbid_unknown_fields=True):
    scenario: list[_Written]


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    section: str
    says: str
    steps: str
    types: tuple[str, ...] = TYPES
    variants: tuple[str, ...] = tuple(Variant)
    services: tuple[str, ...] = SERVICES
    outlines: tuple[int, ...] = ()


_WITH_PIECES: Final = frozenset(
    {"state", "subscribe", "unsubscribe", "stale subscribe", "expect", "take", "settle", "order",
     "quiet by subscribing", "quiet by changing", "resume", "heartbeat"}
)  # fmt: skip
_WITH_TEXT: Final = frozenset({"connect", "nack", "ends"})
_ALONE: Final = frozenset({"restart", "ask nothing", "ack", "ack old version"})
_VERBS: Final = sorted(_WITH_PIECES | _WITH_TEXT | _ALONE, key=len, reverse=True)
_ONE: Final = frozenset({"quiet by subscribing", "quiet by changing", "heartbeat"})
_SOME: Final = frozenset({"unsubscribe", "stale subscribe", "settle", "order", "expect", "take"})


def load(folder: Path = FOLDER) -> tuple[Scenario, ...]:
    """All scenarios of a folder's files, in order; ConfigError names file, scenario and line."""
    found: dict[str, Scenario] = {}
    for path in sorted(folder.glob("*.toml")):
        for scenario in parse(path.read_text(), path.name):
            if scenario.name in found:
                raise ConfigError(f"{path.name}: {scenario.name}: is there twice")
            found[scenario.name] = scenario
    if not found:
        raise ConfigError(f"{folder}: no scenarios")
    return tuple(found.values())


def parse(text: str, source: str) -> tuple[Scenario, ...]:
    """The scenarios of one file; ConfigError says what is wrong with it."""
    try:
        written = msgspec.convert(tomllib.loads(text), _File)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{source}: {error}") from None
    return tuple(_scenario(each, source) for each in written.scenario)


def _scenario(written: _Written, source: str) -> Scenario:
    where = f"{source}: {written.name}"
    _known(written.types, TYPES, where)
    _known(written.services, SERVICES, where)
    _known(written.variants, list(Variant), where)
    scenario = Scenario(
        name=written.name,
        section=written.section,
        says=written.says,
        steps=written.steps,
        variants=tuple(map(Variant, written.variants)),
        types=written.types,
        services=written.services,
        outlines=written.outlines,
    )
    try:
        if not all([*_lines(scenario, type)] for type in scenario.types):
            raise ConfigError("no steps")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return scenario


def _known(given: Collection[str], known: Collection[str], where: str) -> None:
    unknown = set(given) - set(known)
    if unknown or not given:
        raise ConfigError(f"{where}: {', '.join(unknown) or 'nothing'}: not of {', '.join(known)}")


def steps(scenario: Scenario, variant: Variant, service: str, type: str) -> Iterator[Step]:
    """The lines that are of one run."""
    return (step for step in _lines(scenario, type) if step.when <= {variant.value, service})


def _lines(scenario: Scenario, type: str) -> Iterator[Step]:
    """All lines; ConfigError names one that can't be read."""
    for number, written in enumerate(scenario.steps.splitlines(), 1):
        line = written.partition("#")[0].strip()
        if not line:
            continue
        try:
            yield _step(number, line, type)
        except (ValueError, ConfigError) as error:
            raise ConfigError(f"line {number}: {line!r}: {error}") from None


def _step(number: int, line: str, type: str) -> Step:
    """ValueError: what is wrong."""
    found = _LINE.fullmatch(line)
    assert found is not None
    conditions = frozenset(filter(None, (found["when"] or "").split(",")))
    if unknown := conditions - {*Variant, *SERVICES}:
        raise ValueError(f"{', '.join(unknown)}: not a variant or service")
    name, rest = found["stream"] or "", found["rest"]
    verb = next((each for each in _VERBS if rest == each or rest.startswith(each + " ")), None)
    if verb is None:
        raise ValueError("unknown verb")
    argument = rest.removeprefix(verb).strip()
    common: Mapping[str, Any] = {"when": conditions, "source": line}
    if verb in _WITH_TEXT:
        if verb != "connect" and not argument:
            raise ValueError("needs a text")
        return Step(number, verb, name, text=argument, **common)
    words = argument.split()
    if verb in _ALONE and words:
        raise ValueError("takes nothing")
    if (verb in _ONE and len(words) != 1) or (verb in _SOME and not words):
        raise ValueError("needs a name")
    pieces = tuple(_piece(word, type) for word in words)
    return Step(number, verb, name, pieces, **common)


def _piece(word: str, type: str) -> Piece:
    found = _RESOURCE.fullmatch(word)
    if found is None:
        raise ValueError(f"{word}: not a resource")
    said = found["type"] or type
    _known((said,), TYPES, word)
    content = 0 if found["gone"] else int(found["content"] or 1)
    padding = int(found["padding"] or 0) << 10
    ttl = float(found["ttl"]) if found["ttl"] else None
    return Piece(said, found["name"] or "", content, padding, ttl)
