"""The scenarios' language; that those that are there can be read and cover what they should."""

from __future__ import annotations

import pytest

from reconciler.errors import ConfigError
from reconciler.probe.messages import unpack
from reconciler.probe.services import Variant
from reconciler.testing.conformance.language import TYPES, Piece, load, parse, steps
from reconciler.testing.conformance.resources import content, message, written
from tests.packing import pack

HEAD = '[[scenario]]\nname = "x"\nsection = "NACK"\nsays = "It is so."\n'


def one(lines: str, head: str = HEAD) -> str:
    return f'{head}steps = """\n{lines}\n"""\n'


def test_lines_are_of_the_runs_that_they_name() -> None:
    (scenario,) = parse(
        one("state a b=2+1k EDS:c~0.5s -d  # all\nsotw| ack\ndelta,own| two> nack why > not"), "x"
    )
    delta = list(steps(scenario, Variant.DELTA, "own", "CDS"))
    assert delta[0].pieces == (
        Piece("CDS", "a"),
        Piece("CDS", "b", 2, 1024),
        Piece("EDS", "c", 1, 0, 0.5),
        Piece("CDS", "d", 0),
    )
    assert [(step.verb, step.stream, step.text) for step in delta[1:]] == [
        ("nack", "two", "why > not")
    ]
    assert [step.verb for step in steps(scenario, Variant.SOTW, "own", "LDS")] == ["state", "ack"]
    assert len(list(steps(scenario, Variant.DELTA, "ads", "LDS"))) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Object missing required field `scenario`"),
        (one("jump a"), "x: line 1: 'jump a': unknown verb"),
        (one("both| ack"), "both: not a variant or service"),
        (one("expect"), "needs a name"),
        (one("quiet by changing a b"), "needs a name"),
        (one("nack"), "needs a text"),
        (one("ack a"), "takes nothing"),
        (one("state A_b"), "A_b: not a resource"),
        (one("state XDS:a"), "XDS: not of"),
        (one("# nothing"), "no steps"),
        (one("ack", HEAD + 'types = ["XDS"]\n'), "XDS: not of"),
        (one("ack", HEAD + 'variants = ["rest"]\n'), "rest: not of"),
        (one("ack", HEAD + "services = []\n"), "nothing: not of"),
        (one("ack", HEAD + "colour = 1\n"), "unknown field `colour`"),
        ("[[scenario", "x.toml"),
    ],
)
def test_what_is_wrong_is_named(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.toml: ") as raised:
        parse(text, "x.toml")
    assert reason in str(raised.value)


def test_all_outlines_of_the_public_harness_are_covered() -> None:
    found = {number for scenario in load() for number in scenario.outlines}
    assert found == set(range(1, 19))


def test_every_scenario_ends_with_something_that_must_come() -> None:
    """What comes too much is found by what must come next: an end without it would miss it."""
    ends = ("quiet", "expect", "settle", "heartbeat", "ends")
    for scenario in load():
        for variant, service, type in scenario.runs():
            (*_, last) = steps(scenario, variant, service, type)
            assert last.verb.startswith(ends), scenario.name


@pytest.mark.parametrize("type", TYPES)
def test_a_resource_is_the_same_as_written_and_as_awaited(type: str) -> None:
    for piece in (Piece(type, "a"), Piece(type, "a", 3, 2048)):
        packed = pack(written(piece))
        assert unpack(packed) == message(piece)
        assert content(type, packed) == str(piece.content)
    with_ttl = written(Piece(type, "a", ttl=0.5))
    assert (with_ttl["name"], with_ttl["ttl"]) == ("a", "0.5s")
    assert with_ttl["resource"] == written(Piece(type, "a"))
