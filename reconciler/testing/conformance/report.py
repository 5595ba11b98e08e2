"""Results as tables: a row a scenario, a column a variant, and what failed below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from reconciler.testing.conformance.language import Scenario
from reconciler.testing.conformance.runner import Outcome, Result

COLUMNS: Final = ("sotw ads", "sotw own", "delta ads", "delta own")
NOT_RUN: Final = "-"


def column(result: Result) -> str:
    return f"{result.variant} {result.service}"


def cell(results: Sequence[Result]) -> str:
    """Of one scenario and variant: the outcome, and of which types where they differ."""
    if not results:
        return NOT_RUN
    failed = [result.type for result in results if result.outcome is Outcome.FAIL]
    if failed:
        whole = len(failed) == len(results)
        return "fail" if whole else f"fail ({', '.join(failed)})"
    if any(result.outcome is Outcome.NOT_SUPPORTED for result in results):
        return "not supported"
    return "pass"


def rows(results: Iterable[Result]) -> list[dict[str, Any]]:
    """One row for each scenario that ran: its name, a cell for each column, and why it failed."""
    by_scenario: dict[str, list[Result]] = {}
    for result in results:
        by_scenario.setdefault(result.scenario, []).append(result)
    return [
        {
            "scenario": name,
            **{each: cell([r for r in found if column(r) == each]) for each in COLUMNS},
            "why": next((r.why for r in found if r.outcome is not Outcome.PASS), ""),
        }
        for name, found in by_scenario.items()
    ]


def counts(results: Iterable[Result]) -> dict[Outcome, int]:
    found = dict.fromkeys(Outcome, 0)
    for result in results:
        found[result.outcome] += 1
    return found


def summary(results: Sequence[Result]) -> str:
    found = counts(results)
    return f"{len(results)} runs: " + ", ".join(f"{count} {name}" for name, count in found.items())


def as_json(results: Sequence[Result]) -> Any:
    """Every run, for machines."""
    return {
        "runs": [msgspec.to_builtins(result) for result in results],
        "counts": {str(name): count for name, count in counts(results).items()},
    }


def differences(
    scenarios: Sequence[Scenario], targets: Mapping[str, Sequence[Result]]
) -> list[tuple[Scenario, dict[str, str]]]:
    """Scenarios that not all targets pass wholly, each with what it gave at each target."""
    found = []
    for scenario in scenarios:
        said = {name: _whole(scenario, results) for name, results in targets.items()}
        if set(said.values()) != {"pass"}:
            found.append((scenario, said))
    return found


def _whole(scenario: Scenario, results: Sequence[Result]) -> str:
    """One target's outcomes of a scenario, in one cell: in which variants it fails."""
    of = [result for result in results if result.scenario == scenario.name]
    failed = sorted({result.variant.value for result in of if result.outcome is Outcome.FAIL})
    if failed:
        whole = len(failed) == len({result.variant for result in of})
        return "fail" if whole else f"fail ({', '.join(failed)})"
    return cell(of)
