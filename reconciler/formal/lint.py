"""What tools need of a spec, checked before any of them runs.

next        Next of safety and graph runs is flat: one action with its arguments a line
mutants     each mutant's text is in its file exactly once
fragment    what Apalache takes (see `fragment`): its users are not all here
graph       a graph run hides nothing: no SYMMETRY, no VIEW
liveness    a liveness run has no SYMMETRY, CONSTRAINT, ACTION_CONSTRAINT or VIEW: with any of them
            TLC may pass a spec that is wrong
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal import config as configs
from reconciler.formal import fragment, mutants
from reconciler.formal import module as modules
from reconciler.formal.suite import Kind, Spec, Suite

_REFUSED: Final = {
    Kind.GRAPH: ("SYMMETRY", "VIEW"),
    Kind.LIVENESS: ("SYMMETRY", "VIEW", "CONSTRAINT", "ACTION_CONSTRAINT"),
}


class Finding(msgspec.Struct, frozen=True, order=True):
    """One thing that a tool would stumble over; `rule` as in the module's docstring."""

    spec: str
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.spec}: {self.rule}: {self.text}"


def lint(suite: Suite, spec: Spec) -> tuple[Finding, ...]:
    """All findings of one spec, sorted."""
    found = {
        Finding(spec.name, rule, text)
        for check in (_next, _hidden, _mutants, _fragment)
        for rule, text in check(suite, spec)
    }
    return tuple(sorted(found))


def _next(suite: Suite, spec: Spec) -> Iterator[tuple[str, str]]:
    for run in spec.of(Kind.SAFETY, Kind.GRAPH):  # liveness may need one of its own
        try:
            family = modules.family(run.module, suite.libraries)
            modules.actions(family, configs.read(run.config).behaviour(family)[1])
        except ConfigError as error:
            yield "next", str(error)


def _hidden(suite: Suite, spec: Spec) -> Iterator[tuple[str, str]]:
    for run in spec.runs:
        refused = _REFUSED.get(run.kind, ())
        for keyword in configs.read(run.config).sections:
            if keyword in refused:
                yield str(run.kind), f"{run.config.name}: {keyword} hides a part of it"


def _mutants(suite: Suite, spec: Spec) -> Iterator[tuple[str, str]]:
    for mutant in suite.mutants:
        count = mutants.occurrences(mutant) if mutant.spec == spec.name else 1
        if count != 1:
            yield "mutants", f"{mutant.name}: its text is {count} times in {mutant.file.name}"


def _fragment(suite: Suite, spec: Spec) -> Iterator[tuple[str, str]]:
    for finding in fragment.lint(spec.path, suite.libraries):
        place = f"{finding.path.name}:{finding.line}:{finding.column}"
        yield "fragment", f"{place}: {finding.rule}: {finding.text}"
