"""The demo's screen: an interruption that something swallows is none that is lost."""

from __future__ import annotations

import contextlib

import pytest

from reconciler.commands.demo_show import Screen


def test_what_is_swallowed_ends_the_next_thing(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    with screen.doing("one"):
        pass
    with contextlib.suppress(KeyboardInterrupt):
        screen.end()
    with pytest.raises(KeyboardInterrupt), screen.doing("two"):
        raise AssertionError("it began")
    assert "two" not in capsys.readouterr().err
