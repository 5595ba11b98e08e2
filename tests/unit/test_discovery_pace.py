"""How soon streams are led to the next change, by what the loop was seen to have to do."""

from __future__ import annotations

import pytest

from reconciler.server.discovery.pace import PAUSE_SECONDS, Pace, pause_after


def test_changes_one_by_one_take_a_tenth_of_the_time() -> None:
    assert pause_after(0.0) == PAUSE_SECONDS
    assert pause_after(0.01) == pytest.approx(0.09)
    assert pause_after(0.05) == 0.1
    assert pause_after(2.0) == 2.0


def test_a_loop_that_has_nothing_else_to_do_goes_on_after_the_pause() -> None:
    pace = Pace()
    wait = pace.led(10.0, 10.4)
    assert wait == pytest.approx(0.4)
    assert pace.again(10.4 + wait + 0.001, 0.0) is None


def test_who_is_late_is_asked_again_until_it_is_not() -> None:
    pace = Pace()
    now = 10.4 + pace.led(10.0, 10.4)
    for late in (0.3, 0.2, 0.1):
        now += late
        wait = pace.again(now, 0.0)
        assert wait == 0.1
        now += wait
    assert pace.again(now + 0.001, 0.0) is None


def test_clients_that_have_not_answered_are_waited_for_but_not_for_the_last_tenth() -> None:
    pace = Pace()
    now = 10.1 + pace.led(10.0, 10.1)
    wait = pace.again(now, 0.11)
    assert wait is not None
    assert wait == pytest.approx(0.1)
    assert pace.again(now + wait, 0.1) is None


def test_clients_that_never_answer_are_not_waited_for_long() -> None:
    pace = Pace()
    now = 10.1 + pace.led(10.0, 10.1)
    end = now + 0.2
    while (wait := pace.again(now, 1.0)) is not None:
        now += wait
    assert now <= end + 0.1


def test_a_loop_that_is_always_late_is_waited_for_no_longer_than_leading_took_twice() -> None:
    pace = Pace()
    began, now = 10.0, 10.5
    now += pace.led(began, now)
    pauses = 0
    while (wait := pace.again(now + 0.05, 0.0)) is not None:
        now += 0.05 + wait
        pauses += 1
    assert pauses > 1
    assert now <= 10.5 + 3 * 0.5 + 0.1 + 0.05


def test_what_takes_no_time_is_not_waited_for_long() -> None:
    pace = Pace()
    now = 10.0 + pace.led(10.0, 10.0)
    end = now + 0.2
    while (wait := pace.again(now + 0.02, 0.0)) is not None:
        assert wait == PAUSE_SECONDS
        now += 0.02 + wait
    assert now <= end + 0.05


def test_each_time_streams_are_led_counts_anew() -> None:
    pace = Pace()
    pace.led(10.0, 10.5)
    assert pace.again(11.2, 0.0) is not None
    wait = pace.led(20.0, 20.01)
    assert wait == pytest.approx(0.09)
    assert pace.again(20.105, 0.0) is None
