"""What the manifest asks of Apalache, as far as it can be tried without it.

TLC takes some steps of each module with the constants that its `ConstInit` gives: so it parses,
every constant has a value, strings do for uninterpreted values, and the invariants have values
there. The types and the proofs are for the tool.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler.commands.specs import folder
from reconciler.formal import suite, tlc
from reconciler.formal.fragment import lint
from reconciler.formal.source import Token, read_sources
from reconciler.formal.suite import Symbolic

SUITE = suite.load(folder())
ENTRIES = [entry for spec in SUITE.specs for entry in spec.symbolic]


def assignments(body: Sequence[Token]) -> dict[str, str]:
    """`/\\ N = 4 /\\ S = {...}` as name → expression."""
    parts: list[list[Token]] = [[]]
    for token in body:
        if token.text == "/\\":
            parts.append([])
        else:
            parts[-1].append(token)
    found = [part for part in parts if part]
    assert all(part[1].text == "=" for part in found), "ConstInit is a list of `Name = value`"
    return {part[0].text: " ".join(token.text for token in part[2:]) for part in found}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.module.stem)
def test_some_steps(entry: Symbolic, tmp_path: Path) -> None:
    sources = read_sources(entry.module, SUITE.libraries)
    values = assignments(sources[0].definitions[entry.constants].body)
    declared = {
        one.name.text for source in sources for one in source.declarations if one.kind == "CONSTANT"
    }
    assert set(values) == declared
    module = tmp_path / "Constants__.tla"
    module.write_text(
        f"---- MODULE Constants__ ----\nEXTENDS {entry.module.stem}, TLC\n"
        + "".join(f"{name}__ == {value}\n" for name, value in values.items())
        + "====\n"
    )
    config = tmp_path / "Constants__.cfg"
    names = [*entry.invariants, *([entry.inductive] if entry.inductive else [])]
    config.write_text(
        "INIT Init\nNEXT Next\n"
        + "".join(f"CONSTANT {name} <- {name}__\n" for name in values)
        + "".join(f"INVARIANT {name}\n" for name in names)
    )
    ran = tlc.invoke(
        module,
        config,
        libraries=(*SUITE.libraries, entry.module.parent),
        timeout=100,
        options=("-simulate", "num=5", "-depth", "8", "-seed", "1"),
    )
    assert ran.code == 0, ran.output


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.module.stem)
def test_module_is_in_the_fragment(entry: Symbolic) -> None:
    assert [str(one) for one in lint(entry.module, SUITE.libraries)] == []


def test_all_specs_are_asked_about() -> None:
    assert all(spec.symbolic for spec in SUITE.specs)
