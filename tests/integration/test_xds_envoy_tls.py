"""Envoy over mutual TLS, on both transports: what it is served follows from its certificate."""

from __future__ import annotations

import datetime
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from reconciler.server import certs
from tests.integration.xds_processes import (
    PREFIX,
    Envoy,
    Replica,
    endpoints,
    put,
    streaming,
    wait,
)

NOW = datetime.datetime.now(datetime.UTC)


class Keys(NamedTuple):
    certificate: Path
    key: Path
    authority: Path


def issued(folder: Path, node: str) -> Keys:
    """An authority is made in a folder that has none."""
    if not (folder / "ca.crt").exists():
        certs.init(folder, cluster="mesh", now=NOW)
    files = certs.issue_node(folder, node, now=NOW, days=1)
    return Keys(files.certificate, files.key, folder / "ca.crt")


def named(name: str) -> dict[str, Any]:
    """A cluster without endpoints, to be seen at Envoy."""
    return {
        "@type": f"{PREFIX}config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": endpoints(name, type=False),
    }


@pytest.mark.parametrize("transport", ["grpc", "http2"])
def test_the_certificate_says_who_it_is(tmp_path: Path, transport: str) -> None:
    pki, files = tmp_path / "pki", tmp_path / "resources"
    proxies = [("envoy-sotw", False), ("envoy-delta", True)]
    keys = {node: issued(pki, node) for node, _ in proxies}
    server = certs.issue_server(pki, names=("127.0.0.1",), now=NOW, days=1)
    for place, name in (("", "all"), *((f"nodes/{node}", f"of-{node}") for node, _ in proxies)):
        (files / place).mkdir(parents=True, exist_ok=True)
        put(files / place, "clusters", named(name))
    # Each claims to be the other one, by the id that it has in its own configuration.
    claims = {"envoy-sotw": "delta", "envoy-delta": "sotw"}
    with ExitStack() as stack:
        replica = Replica(
            files, tmp_path / "server", "--transport", transport, "--cluster-name", "mesh",
            security=("--tls-ca", str(pki / "ca.crt"), "--tls-cert", str(server.certificate),
                      "--tls-key", str(server.key)),
        )  # fmt: skip
        stack.callback(replica.process.end)
        other = issued(tmp_path / "other", "envoy-delta")
        stranger = Envoy(
            tmp_path / "stranger", streaming("stranger", [replica.port], delta=True, keys=other)
        )
        stack.callback(stranger.end)
        envoys = {}
        for node, delta in proxies:
            claim = f"envoy-{claims[node]}"
            assert claim in keys.keys() - {node}
            bootstrap = streaming(claim, [replica.port], delta=delta, keys=keys[node])
            envoys[node] = Envoy(tmp_path / node, bootstrap)
            stack.callback(envoys[node].end)
        for node, envoy in envoys.items():
            want = {"xds", "all", f"of-{node}"}
            wait(lambda e=envoy, w=want: e.clusters() == w, envoy.process)  # type: ignore[misc]
        put(files / "nodes/envoy-sotw", "clusters", named("later"))
        own = envoys["envoy-sotw"]
        wait(lambda: own.clusters() == {"xds", "all", "later"}, own.process)
        assert envoys["envoy-delta"].clusters() == {"xds", "all", "of-envoy-delta"}

        # Signed by another authority: no stream of it was ever taken.
        def failed() -> bool:
            return stranger.counter("cluster.xds.upstream_cx_connect_fail") > 0

        wait(failed, stranger.process)
        assert stranger.clusters() == {"xds"}
        for delta in (False, True):
            assert replica.count("streams", delta=delta) == 1
