"""A map that fills is said at 80 and 90 %, once each, before anything is refused."""

from __future__ import annotations

from reconciler.agent.capacity import Capacity


def said(capacity: Capacity, used: int, limit: int = 1000) -> list[str]:
    return [text for _, text in capacity.look({"policies": used}, {"policies": limit})]


def test_each_level_is_said_once() -> None:
    capacity = Capacity()
    assert said(capacity, 799) == []
    assert said(capacity, 800) == ["800 of 1000 entries are in use, which is 80 % or more"]
    assert said(capacity, 899) == []
    assert capacity.standing == {"policies": 80}
    assert said(capacity, 900) == ["900 of 1000 entries are in use, which is 90 % or more"]
    assert said(capacity, 1000) == []
    assert capacity.standing == {"policies": 90}


def test_a_jump_is_said_once() -> None:
    assert said(Capacity(), 950) == ["950 of 1000 entries are in use, which is 90 % or more"]


def test_at_the_edge_it_is_not_said_again() -> None:
    capacity = Capacity()
    lines = [line for used in (800, 799, 800, 750, 801) for line in said(capacity, used)]
    assert lines == ["800 of 1000 entries are in use, which is 80 % or more"]
    assert capacity.standing == {"policies": 80}


def test_it_is_over_below_the_margin() -> None:
    capacity = Capacity()
    said(capacity, 900)
    assert said(capacity, 849) == []
    assert capacity.standing == {"policies": 80}
    assert said(capacity, 749) == []
    assert capacity.standing == {}
    assert len(said(capacity, 800)) == 1


def test_maps_without_a_limit_are_none() -> None:
    assert list(Capacity().look({"policies": 5}, {})) == []
