"""Envoy as a client, in both variants: clusters, endpoints, listeners and routes over ADS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL
from typing import Any

import grpc
import pytest
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

from tests.integration.xds_processes import (
    Envoy,
    Replica,
    Traffic,
    backend,
    cluster,
    endpoints,
    free_port,
    listener,
    put,
    routes,
    streaming,
    wait,
)


class Proxy:
    """One Envoy, and requests through it."""

    def __init__(self, home: Path, ports: list[int], stack: ExitStack, *, delta: bool) -> None:
        self.delta = delta
        self.envoy = Envoy(home, streaming(f"envoy-{home.name}", ports, delta=delta))
        stack.callback(self.envoy.end)
        wait(lambda: self.envoy.listener("in") > 0, self.envoy.process)
        self.traffic = Traffic(self.envoy.listener("in"))
        stack.callback(self.traffic.close)

    def has(self, *names: str) -> None:
        """Wait until it has just these clusters."""
        wait(lambda: self.envoy.clusters() == {"xds", *names}, self.envoy.process)


class Mesh:
    """A replica, another one (on the other transport) that may be started, an Envoy of each variant
    that knows both, and backends blue and green."""

    def __init__(self, home: Path, ports: dict[str, int], stack: ExitStack) -> None:
        self._home, self._stack = home, stack
        self.files = home / "resources"
        self.files.mkdir()
        self.ports = ports
        self.route_to("blue")
        put(self.files, "listener", listener("in", "main"))
        self.second_port = free_port()
        self.replica = self._replica("a", 0, "grpc")
        known = [self.replica.port, self.second_port]
        self.proxies = [
            Proxy(home / name, known, stack, delta=name == "delta") for name in ("sotw", "delta")
        ]

    def _replica(self, name: str, port: int, transport: str) -> Replica:
        found = Replica(self.files, self._home / name, "--transport", transport, port=port)
        self._stack.callback(found.process.end)
        return found

    def second(self) -> Replica:
        return self._replica("b", self.second_port, "http2")

    def route_to(self, *colours: str, broken: tuple[dict[str, Any], ...] = ()) -> None:
        """Clusters of these, routes to the first; all of it in one file, at once."""
        parts: list[dict[str, Any]] = []
        for colour in colours:
            parts += [cluster(colour), endpoints(colour, self.ports[colour])]
        put(self.files, "shop", *parts, *broken, routes("main", colours[0]))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with ExitStack() as stack:
        ports = {name: stack.enter_context(backend(name)) for name in ("blue", "green")}
        yield Mesh(tmp_path_factory.mktemp("mesh"), ports, stack)


def statuses(port: int, node: str) -> dict[str, Any]:
    """Name → what CSDS says of that cluster at a node."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        request = csds_pb2.ClientStatusRequest()
        request.node_matchers.add().node_id.exact = node
        (config,) = stub.FetchClientStatus(request, timeout=10).config
    assert config.node.cluster == "edge"
    return {
        each.name: each for each in config.generic_xds_configs if each.type_url.endswith("Cluster")
    }


def test_no_request_fails_while_everything_behind_a_route_is_replaced(mesh: Mesh) -> None:
    for here, there in (("blue", "green"), ("green", "blue")):
        mesh.route_to(there)
        for proxy in mesh.proxies:
            assert proxy.traffic.until(there) <= {here, there}
            proxy.has(there)  # and the old one is gone
            assert proxy.traffic.one() == there


def test_endpoints_change_under_traffic(mesh: Mesh) -> None:
    ports = dict(mesh.ports)
    for colour in ("green", "blue"):
        mesh.ports = {**ports, "blue": ports[colour]}
        mesh.route_to("blue")
        for proxy in mesh.proxies:
            assert proxy.traffic.until(colour) <= {"blue", "green"}


def test_a_broken_cluster_is_refused_and_the_rest_stays(mesh: Mesh) -> None:
    replica = mesh.replica
    error = csds_pb2.ConfigStatus.Value("ERROR")
    # right by its proto, and by its rules; only Envoy knows that these two don't go together
    bad = (cluster("bad", lb_policy="CLUSTER_PROVIDED"),)
    mesh.route_to("blue", "green", broken=bad)
    at = {}
    for proxy in mesh.proxies:
        node = proxy.envoy.node

        def refused(node: str = node) -> bool:
            found = statuses(replica.port, node).get("bad")
            return found is not None and found.config_status == error

        wait(refused, proxy.envoy.process)
        found = statuses(replica.port, node)["bad"]
        assert "'bad' did not provide one" in found.error_state.details
        assert found.error_state.version_info
        assert found.error_state.failed_configuration.type_url == found.type_url
        proxy.has("blue", "green")  # what is right of the response is applied
        assert proxy.traffic.one() == "blue"
        wait(lambda node=node: _answered(replica, node), proxy.envoy.process)  # type: ignore[misc]
        at[node] = replica.count("sent", delta=proxy.delta)
    # What was refused is not sent again: only what changes is, which is the route.
    mesh.route_to("green", "blue", broken=bad)
    for proxy in mesh.proxies:
        assert proxy.traffic.until("green") <= {"blue", "green"}
        assert replica.count("sent", delta=proxy.delta) == at[proxy.envoy.node] + 1
    mesh.route_to("blue")
    for proxy in mesh.proxies:
        assert proxy.traffic.until("blue") <= {"blue", "green"}
        proxy.has("blue")
        assert "bad" not in statuses(replica.port, proxy.envoy.node)


def _answered(replica: Replica, node: str) -> bool:
    """The endpoints of the new cluster, too, were sent and taken."""
    with grpc.insecure_channel(f"127.0.0.1:{replica.port}") as channel:
        stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        request = csds_pb2.ClientStatusRequest()
        request.node_matchers.add().node_id.exact = node
        (config,) = stub.FetchClientStatus(request, timeout=10).config
    synced = csds_pb2.ConfigStatus.Value("SYNCED")
    return any(
        each.name == "green"
        and each.type_url.endswith("ClusterLoadAssignment")
        and each.config_status == synced
        for each in config.generic_xds_configs
    )


def test_another_replica_takes_over_and_sends_nothing_again(mesh: Mesh) -> None:
    second = mesh.second()
    mesh.replica.process.end(SIGKILL)
    for proxy in mesh.proxies:
        # Envoy asks for its four types, for clusters and listeners with all that it has. Only in
        # the state of the world what is named (endpoints, routes) has to be sent on a new stream,
        # and is acknowledged.
        named = 0 if proxy.delta else 2

        def asked(delta: bool = proxy.delta, requests: int = 4 + named) -> bool:
            return second.count("received", delta=delta) >= requests

        wait(asked, proxy.envoy.process)
        assert second.count("sent", delta=proxy.delta) == named
        assert proxy.traffic.one() == "blue"
    mesh.route_to("green")
    for proxy in mesh.proxies:
        assert proxy.traffic.until("green") <= {"blue", "green"}
        proxy.has("green")
