"""Envoy as a client, in both variants: clusters, endpoints, listeners and routes over ADS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
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
    listener,
    put,
    routes,
    wait,
)


class Mesh:
    """Two replicas on the same files, an Envoy that knows both, backends blue and green."""

    def __init__(self, home: Path, ports: dict[str, int], delta: bool, stack: ExitStack) -> None:
        self.delta = delta
        self.files = home / "resources"
        self.files.mkdir()
        self.ports = ports
        self.route_to("blue")
        put(self.files, "listener", listener("in", "main"))
        self.replicas = []
        for name in ("a", "b"):
            replica = Replica(self.files, home / name)
            stack.callback(lambda each: each.process.end(), replica)
            self.replicas.append(replica)
        self.envoy = Envoy(home / "envoy", [each.port for each in self.replicas], delta=delta)
        stack.callback(self.envoy.end)
        wait(lambda: self.envoy.listener("in") > 0, self.envoy.process)
        self.traffic = Traffic(self.envoy.listener("in"))
        stack.callback(self.traffic.close)

    def route_to(self, *colours: str, broken: tuple[dict[str, Any], ...] = ()) -> None:
        """Clusters of these, routes to the first; all of it in one file, at once."""
        parts: list[dict[str, Any]] = []
        for colour in colours:
            parts += [cluster(colour), endpoints(colour, self.ports[colour])]
        put(self.files, "shop", *parts, *broken, routes("main", colours[0]))

    @property
    def serving(self) -> Replica:
        (found,) = (each for each in self.replicas if each.count("streams") == 1)
        return found


@pytest.fixture(scope="module", params=["sotw", "delta"])
def mesh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mesh]:
    with ExitStack() as stack:
        ports = {name: stack.enter_context(backend(name)) for name in ("blue", "green")}
        home = tmp_path_factory.mktemp("mesh")
        yield Mesh(home, ports, request.param == "delta", stack)


def statuses(port: int) -> dict[str, Any]:
    """Name → what CSDS says of that cluster."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        request = csds_pb2.ClientStatusRequest()
        request.node_matchers.add().node_id.exact = "envoy-1"
        (config,) = stub.FetchClientStatus(request, timeout=10).config
    assert config.node.cluster == "edge"
    return {
        each.name: each for each in config.generic_xds_configs if each.type_url.endswith("Cluster")
    }


def test_no_request_fails_while_everything_behind_a_route_is_replaced(mesh: Mesh) -> None:
    assert mesh.traffic.one() == "blue"
    for here, there in (("blue", "green"), ("green", "blue")):
        mesh.route_to(there)
        assert mesh.traffic.until(there) <= {here, there}
        wait(lambda gone=here: gone not in mesh.envoy.clusters(), mesh.envoy.process)  # type: ignore[misc]
        assert mesh.traffic.one() == there


def test_endpoints_change_under_traffic(mesh: Mesh) -> None:
    assert mesh.traffic.one() == "blue"
    ports = dict(mesh.ports)
    mesh.ports["blue"] = ports["green"]
    mesh.route_to("blue")
    assert mesh.traffic.until("green") <= {"blue", "green"}
    mesh.ports = ports
    mesh.route_to("blue")
    assert mesh.traffic.until("blue") <= {"blue", "green"}


def test_a_broken_cluster_is_refused_and_the_rest_stays(mesh: Mesh) -> None:
    assert mesh.traffic.one() == "blue"
    replica = mesh.serving
    sent = replica.count("sent")
    # right by its proto, and by its rules; only Envoy knows that these two don't go together
    mesh.route_to("blue", "green", broken=(cluster("bad", lb_policy="CLUSTER_PROVIDED"),))
    error = csds_pb2.ConfigStatus.Value("ERROR")

    def refused() -> bool:
        found = statuses(replica.port).get("bad")
        return found is not None and found.config_status == error

    wait(refused, mesh.envoy.process)
    found = statuses(replica.port)["bad"]
    assert "did not provide one" in found.error_state.details
    assert found.error_state.version_info
    assert found.error_state.failed_configuration.type_url == found.type_url
    wait(lambda: "green" in mesh.envoy.clusters(), mesh.envoy.process)  # the valid part is applied
    assert "bad" not in mesh.envoy.clusters()
    assert mesh.traffic.one() == "blue"
    # What was refused is not sent again: only what changes is.
    at = replica.count("sent")
    assert at > sent
    mesh.route_to("green", "blue", broken=(cluster("bad", lb_policy="CLUSTER_PROVIDED"),))
    assert mesh.traffic.until("green") <= {"blue", "green"}
    wait(lambda: replica.count("sent") > at)
    assert replica.count("sent") == at + 1  # the routes
    mesh.route_to("blue")
    wait(lambda: "bad" not in statuses(replica.port), mesh.envoy.process)
    assert mesh.traffic.until("blue") <= {"blue", "green"}


def test_another_replica_takes_over_and_sends_nothing_again(mesh: Mesh) -> None:
    assert mesh.traffic.one() == "blue"
    first = mesh.serving
    (second,) = (each for each in mesh.replicas if each is not first)
    before, asked = second.count("sent"), second.count("received")
    first.kill()
    # Envoy asks for its four types, each once: for clusters and listeners with all that it has.
    wait(lambda: second.count("received") >= asked + 4, mesh.envoy.process)
    assert mesh.traffic.one() == "blue"
    mesh.route_to("blue", "green")
    wait(lambda: "green" in mesh.envoy.clusters(), mesh.envoy.process)
    wait(lambda: second.count("sent") >= before + (2 if mesh.delta else 5))
    sent = second.count("sent") - before
    # In delta: the new cluster and, when that is known, its endpoints. In the other variant what is
    # named (endpoints, routes) must be sent on a new stream, and for the new name all endpoints.
    assert sent == (2 if mesh.delta else 5), sent
    mesh.route_to("blue")
    wait(lambda: "green" not in mesh.envoy.clusters(), mesh.envoy.process)
    first.start()
