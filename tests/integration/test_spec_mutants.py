"""Guards dropped from the specs: the property that each is for falls, so the checks can fail.

Of all mutants those that are marked `ci`; `reconciler check --mutants` tries all.
"""

from __future__ import annotations

import functools

import pytest

from reconciler.commands.specs import folder
from reconciler.formal import mutants, suite
from reconciler.formal.suite import Mutant

SUITE = suite.load(folder())
PATIENCE = 900
"""Seconds on the clock: the first test to ask waits for all of them."""
MUTANTS = [mutant for mutant in SUITE.mutants if mutant.ci]


@functools.cache
def tried() -> dict[tuple[str, str], mutants.Tried]:
    """All that are marked, two at a time."""
    return {(each.mutant.spec, each.mutant.name): each for each in mutants.try_all(SUITE, MUTANTS)}


@pytest.mark.timeout(PATIENCE)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.spec}-{mutant.name}")
def test_mutant(mutant: Mutant) -> None:
    found = tried()[mutant.spec, mutant.name]
    assert found.passed, f"{found.verdict}: {found.detail}"


def test_each_spec_has_a_mutant_here() -> None:
    assert {mutant.spec for mutant in MUTANTS} >= {mutant.spec for mutant in SUITE.mutants}
