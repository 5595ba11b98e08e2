"""What tests of the kernel need of the machine: said in one place, and missed where it must be."""

from __future__ import annotations

import os

import pytest


def need_root() -> None:
    """Nothing can be said of the kernel without root; CI has it, so a skip is a failure there."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI") or os.environ.get("RECONCILER_CI"):
        pytest.fail("needs root, which CI has to have")
    pytest.skip("needs root")


def need_feature(name: str) -> None:
    """A feature of the kernel. Only a kernel older than the feature is a reason to skip: on one
    that should have it `features.missing` raises, and the test fails."""
    from reconciler.datapath import features

    if reason := features.missing(name):
        pytest.skip(reason)
