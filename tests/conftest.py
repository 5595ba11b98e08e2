"""Hypothesis profiles: "ci" by default, HYPOTHESIS_PROFILE=long for a long, many-example run."""

from __future__ import annotations

import os

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The limit of a test's time is for hangs; a long run takes as long as it takes."""
    if PROFILE == "long":
        for item in items:
            item.add_marker(pytest.mark.timeout(0))
