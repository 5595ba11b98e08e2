"""Features of the kernel: probed, and no excuse on a kernel that should have them."""

from __future__ import annotations

import os

import pytest

from reconciler.errors import DatapathError

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("kernel")]


def test_every_feature_of_this_kernel_is_there() -> None:
    from reconciler.datapath import features

    assert features.may_use_bpf()
    for name, feature in features.FEATURES.items():
        if features.kernel_version() >= feature.since:
            features.require(name)
            assert features.missing(name) == ""


def test_a_missing_feature_is_an_excuse_on_an_older_kernel_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from reconciler.datapath import features

    monkeypatch.setattr(features, "available", lambda name: False)
    monkeypatch.setattr(features, "kernel_version", lambda: (6, 5))
    assert features.missing("tcx") == "tcx needs Linux 6.6"
    monkeypatch.setattr(features, "kernel_version", lambda: (6, 10))
    with pytest.raises(DatapathError, match=r"tcx: needed for .* since 6\.6"):
        features.missing("tcx")


def test_the_version_is_that_of_the_kernel() -> None:
    from reconciler.datapath import features

    assert os.uname().release.startswith("{}.{}".format(*features.kernel_version()))


def test_capabilities_are_those_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from reconciler.datapath import features

    assert {"CAP_BPF", "CAP_NET_ADMIN"} <= features.capabilities()
    monkeypatch.setattr(features, "capabilities", lambda: frozenset({"CAP_BPF", "CAP_NET_ADMIN"}))
    assert not features.may_use_bpf(), "without CAP_PERFMON"
