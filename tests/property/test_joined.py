"""The joined cluster: server core and agents on the in-memory datapath, under generated churn.

After every step – every kernel map entry written – each verdict of each node is compared with the
oracle's for the one cut that the node's kernel says it enforces.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from reconciler.testing.joined import Joined
from tests.property.joined_rules import NAMESPACES, SCENARIOS, STEPS, Rules, Step, settle, take


def cluster(
    pool: int = 6, scope: str = "all", policies: int = 262_144, *, record: bool = False
) -> tuple[Joined, Rules]:
    limits = {"policies": policies}
    joined = Joined(pool=range(256, 256 + pool), scope=scope, limits=limits, record=record)
    for name in NAMESPACES:
        joined.edit(joined.world.namespace(name, {"tier": "t0"}))
    return joined, Rules(joined)


@given(
    STEPS,
    st.sampled_from([4, 6, 40]),
    st.sampled_from(["all", "selected"]),
    st.sampled_from([262_144, 60, 20]),
)
def test_churn(steps: list[Step], pool: int, scope: str, policies: int) -> None:
    joined, rules = cluster(pool, scope, policies)
    for step in steps:
        take(joined, rules, step)
    settle(joined, rules)
    event(f"verdicts checked: 10^{len(str(rules.verdicts)) - 1}")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: Callable[[Joined, Rules], None]) -> None:
    scenario(*cluster(40))


def test_policy_edit_overtakes_relabel() -> None:
    joined, rules = cluster(40)
    for step in (("pod", 0, 0), ("pod", 1, 1), ("policy", 1, 1), ("sync", 0, 0), ("sync", 1, 0)):
        take(joined, rules, step)
    for step in (("relabel", 1, 0), ("policy", 1, 3), ("journal", 0, 0), ("sync", 0, 0)):
        take(joined, rules, step)
    settle(joined, rules)
    assert rules.verdicts > 100
