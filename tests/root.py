"""Root, which tests of the kernel need: without it they are skipped, but not where CI is set."""

from __future__ import annotations

import os

import pytest


def need_root() -> None:
    """Nothing can be said of the kernel without root; CI has it, so a skip is a failure there."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail("needs root, which CI has to have")
    pytest.skip("needs root")
