"""The demo as a whole, on the kernel and in memory; nothing of it is left, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.demo_report import held, left

COMMAND = [sys.executable, "-m", "reconciler.cli", "demo"]


def _demo(*options: str) -> dict[str, Any]:
    process = subprocess.Popen(
        [*COMMAND, "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, errors = process.communicate(timeout=110)
    found = held(out, errors)
    assert process.returncode == 0
    assert left(process.pid) == []
    return found


@pytest.mark.kernel
def test_every_promise_holds_on_real_packets(kernel: None) -> None:
    found = _demo()
    assert found["datapath"] == "kernel"
    assert len(found["parts"]) == 5
    assert found["parts"][0]["data"]["ways"] > 4000
    for part in found["parts"][1:4]:
        assert part["data"]["flows"]["sent"] > 1000


def test_every_promise_holds_in_memory() -> None:
    found = _demo("--memory")
    assert found["datapath"] == "memory"
    assert len(found["parts"]) == 5


@pytest.mark.kernel
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_of_a_demo_that_is_ended(kernel: None, number: int) -> None:
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # nodes, pods: everything is up
    process.send_signal(number)
    process.wait(30)
    process.stdout.close()
    if number == signal.SIGKILL:
        from reconciler.commands.demo_cluster import clean_up_after_others

        clean_up_after_others()  # as the next demo does when it starts
    assert left(process.pid) == []
