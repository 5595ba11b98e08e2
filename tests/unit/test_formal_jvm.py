"""Limits of a run: seconds of a processor, so that others' load decides nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from reconciler.errors import UnavailableError
from reconciler.formal import jvm


@pytest.mark.parametrize(
    ("waited", "used", "overdue"),
    [
        (5.0, 9.0, False),  # several threads may use more than the clock shows
        (11.0, 2.0, False),
        (11.0, 10.0, True),
        (11.0, None, True),
        (79.0, 2.0, False),
        (80.0, 2.0, True),
    ],
)
def test_overdue(
    monkeypatch: pytest.MonkeyPatch, waited: float, used: float | None, overdue: bool
) -> None:
    monkeypatch.setattr(jvm, "_processor_seconds", {1: used, os.getpid(): used}.get)
    assert jvm._overdue(1, waited, 10.0) is overdue


def test_a_process_that_has_just_ended_is_not_overdue() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert not jvm._overdue(done.pid, 11.0, 10.0)
    assert jvm._overdue(done.pid, 80.0, 10.0)


def test_processor_seconds() -> None:
    mine = jvm._processor_seconds(os.getpid())
    assert mine is not None
    assert mine > 0
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert jvm._processor_seconds(done.pid) is None


def test_what_is_not_there_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLA2TOOLS_JAR", "/nowhere.jar")
    with pytest.raises(UnavailableError, match=r"TLA2TOOLS_JAR: /nowhere\.jar is not a file"):
        jvm.find_jar()
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    with pytest.raises(UnavailableError, match="java: not found"):
        jvm.find_java()
