"""Hypothesis profiles: "ci" by default, HYPOTHESIS_PROFILE=long for a long, many-example run."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "long", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)

SLOW = "longer profile only (HYPOTHESIS_PROFILE=long)"
"""Why a test that is marked `slow` is skipped; the only reason that CI lets pass."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is `slow` is for a long run. The limit of a test's time is for hangs, and such a run
    takes as long as it takes."""
    for item in items:
        if PROFILE == "long":
            item.add_marker(pytest.mark.timeout(0))
        elif item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason=SLOW))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What .ci/run reads: how many tests of each folder ran and passed."""
    passed = terminalreporter.stats.get("passed", ())
    folders = Counter(each.nodeid.split("/")[1] for each in passed)
    for folder, count in sorted(folders.items()):
        terminalreporter.write_line(f"ran of tests/{folder}: {count}")
