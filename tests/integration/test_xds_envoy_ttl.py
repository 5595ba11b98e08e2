"""Envoy as a client of what ends unless it is renewed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from reconciler.probe.messages import WRAPPER
from tests.integration.xds_processes import (
    Envoy,
    Replica,
    backend,
    cluster,
    endpoints,
    listener,
    put,
    routes,
    streaming,
    wait,
)

FEATURES = ["xds.config.supports-resource-ttl", "xds.config.supports-resource-in-sotw"]


@pytest.mark.parametrize("delta", [False, True], ids=["sotw", "delta"])
def test_what_is_renewed_stays(tmp_path: Path, delta: bool) -> None:
    """A cluster beside one that has no time to live, and the endpoints of one."""
    with ExitStack() as stack:
        port = stack.enter_context(backend("blue"))
        files = tmp_path / "resources"
        files.mkdir()
        put(
            files,
            "shop",
            {"@type": WRAPPER, "ttl": "1.5s", "resource": cluster("blue")},
            {"@type": WRAPPER, "ttl": "1.5s", "resource": endpoints("blue", port)},
            cluster("green"),
            endpoints("green", port),
            routes("main", "blue"),
            listener("in", "main"),
        )
        replica = Replica(files, tmp_path / "a", "--transport", "http2")
        stack.callback(replica.process.end)
        bootstrap = streaming("n1", [replica.port], delta=delta)
        bootstrap["node"]["client_features"] = FEATURES
        envoy = Envoy(tmp_path / "envoy", bootstrap)
        stack.callback(envoy.end)
        wait(lambda: envoy.listener("in") > 0, envoy.process)
        before = replica.count("sent", delta=delta)
        # Both are renewed each half second: more often than fits into the time to live of either.
        wait(lambda: replica.count("sent", delta=delta) >= before + 12, envoy.process)
        assert envoy.clusters() == {"xds", "blue", "green"}
        assert envoy.counter("cluster_manager.cluster_removed") == 0
        assert envoy.ports("blue") == [port]
