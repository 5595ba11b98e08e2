"""`Least` against a dictionary that is searched whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.xds.least import Least

KEYS = st.sampled_from("abcdef")
NUMBERS = st.one_of(st.none(), st.integers(0, 5))
STEPS = st.lists(st.one_of(st.tuples(KEYS, NUMBERS), st.integers(0, 5)), max_size=80)


@given(STEPS)
def test_it_knows_the_least_and_takes_what_is_due(
    steps: list[tuple[str, int | None] | int],
) -> None:
    index = Least()
    model: dict[str, int] = {}
    for step in steps:
        if isinstance(step, int):
            due = sorted(number for number in model.values() if number <= step)
            assert [model.pop(key) for key in index.take(step)] == due
        else:
            key, number = step
            index.set(key, number)
            if number is None:
                model.pop(key, None)
            else:
                model[key] = number
        assert index.least() == min(model.values(), default=None)
        assert len(index) == len(model)


def test_changes_of_one_key_do_not_pile_up_behind_another_one() -> None:
    index = Least()
    index.set("stuck", 0)
    for number in range(1, 100_000):
        index.set("moving", number)
    assert index.least() == 0
    assert index.entries < 200
