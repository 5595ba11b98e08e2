"""The large demo as a whole, with few pods; nothing of it is left, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.demo_report import held, left, left_after_a_kill

COMMAND = [
    sys.executable, "-m", "reconciler.cli", "demo", "--kubernetes", "--pods", "250", "--nodes", "5",
]  # fmt: skip
pytestmark = pytest.mark.slow  # half a minute each; what it shows is tested in smaller pieces

SECONDS = 240
"""On a machine that does other things too; it takes half a minute on an idle one."""


@pytest.mark.timeout(SECONDS + 30)
def test_everything_holds() -> None:
    with subprocess.Popen(
        [*COMMAND, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, errors = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    found = held(out, errors)
    assert process.returncode == 0
    assert len(found["parts"]) == 3
    assert left(process.pid) == []


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
@pytest.mark.timeout(SECONDS + 90)
@pytest.mark.parametrize("when", ["creating", "trying every way", "killing the leader"])
def test_nothing_is_left_of_one_that_is_ended(number: signal.Signals, when: str) -> None:
    with subprocess.Popen(
        COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert any(when in line for line in process.stderr)
            process.send_signal(number)
            process.communicate(timeout=60)
        finally:
            process.kill()
    if number == signal.SIGKILL:
        from reconciler.commands.demo_cluster import clean_up_after_others
        from reconciler.testing.kubernetes.cluster import sweep

        clean_up_after_others()  # as the next demo does when it starts, and the next cluster
        sweep()
        assert left_after_a_kill(process.pid) == []
    assert left(process.pid) == []
