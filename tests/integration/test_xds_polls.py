"""Requests without a stream over the wire: gRPC's unary methods on both transports, JSON over HTTP,
and Envoy, which polls."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.api import annotations_pb2
from google.protobuf import descriptor_pool

from reconciler.core.discovery.requests import MAX_NODE, MAX_REQUEST
from reconciler.core.discovery.types import CDS, EDS
from reconciler.probe import services
from reconciler.server import certs
from tests.integration.xds_app import App
from tests.integration.xds_processes import (
    Envoy,
    Replica,
    address,
    cluster,
    endpoints,
    free_port,
    put,
    reconciler,
    wait,
)

NOW = datetime.datetime.now(datetime.UTC)

over = pytest.mark.parametrize("transport", ["grpc", "http2"])


def test_services_are_as_their_protos_say() -> None:
    pool = descriptor_pool.Default()  # the modules of all are imported by the server
    for service in services.OWN.values():
        methods = pool.FindServiceByName(service.name).methods_by_name
        fetches = {name for name in methods if name.startswith("Fetch")}
        assert fetches == ({service.fetch} if service.fetch else set())
        for name in fetches:
            http = methods[name].GetOptions().Extensions[annotations_pb2.http]
            assert http.post == service.path


async def fetch(
    channel: grpc.aio.Channel, service: str, type_url: str = "", *names: str, **said: str
) -> Any:
    """A DiscoveryResponse; AioRpcError."""
    found = services.OWN[service]
    call: Any = channel.unary_unary(
        f"/{found.name}/{found.fetch}",
        request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
    )
    request = discovery_pb2.DiscoveryRequest(
        type_url=type_url, resource_names=names, node={"id": "n1"}, **said
    )
    return await call(request, timeout=20)


def named(response: Any, message: Any) -> list[str]:
    """Names of the resources; message: their class."""
    found = []
    for each in response.resources:
        assert each.Unpack(message)
        found.append(getattr(message, "cluster_name", "") or message.name)
    return found


@over
async def test_grpcs_unary_methods(tmp_path: Path, transport: str) -> None:
    app = App(tmp_path, transport=transport)
    put(app.files, "all", cluster("a"), cluster("b"), endpoints("a", 1))
    async with app, grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        response = await fetch(channel, "CDS")
        assert named(response, cluster_pb2.Cluster()) == ["a", "b"]
        again = await fetch(channel, "CDS", CDS, version_info=response.version_info)
        assert again == response  # there is no status for "as before"
        response = await fetch(channel, "EDS", EDS, "a", "nowhere")
        assert named(response, endpoint_pb2.ClusterLoadAssignment()) == ["a"]
        assert not (await fetch(channel, "LDS")).resources
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await fetch(channel, "CDS", EDS)
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "this service is for" in str(error.value.details())
        page = await app.page()
        assert 'reconciler_xds_polls_total{method="FetchClusters"} 2.0' in page
        assert 'reconciler_xds_polls_total{method="FetchEndpoints"} 1.0' in page


@over
async def test_a_large_answer_is_whole(tmp_path: Path, transport: str) -> None:
    app = App(tmp_path, transport=transport)
    names = [f"cluster-{at:05}" for at in range(3_000)]  # more than a window takes at once
    put(app.files, "all", *(cluster(name) for name in names))
    options = (("grpc.max_receive_message_length", -1),)
    async with app, grpc.aio.insecure_channel(f"127.0.0.1:{app.port}", options) as channel:
        response = await fetch(channel, "CDS")
        assert response.ByteSize() > 1 << 17
        assert named(response, cluster_pb2.Cluster()) == names


@over
async def test_over_tls_the_certificate_says_who_asks(tmp_path: Path, transport: str) -> None:
    authority = tmp_path / "ca"
    certs.init(authority, cluster="default", now=NOW)
    issued = certs.issue_server(authority, names=("127.0.0.1",), now=NOW)
    app = App(
        tmp_path, transport=transport, insecure=False, tls_cert=str(issued.certificate),
        tls_key=str(issued.key), tls_ca=str(authority / "ca.crt"),
    )  # fmt: skip
    for node in ("n1", "n2"):
        (app.files / "nodes" / node).mkdir(parents=True)
        put(app.files / "nodes" / node, "own", cluster(f"of-{node}"))
    pem = (authority / "ca.crt").read_bytes()
    proofs = {
        "n2": certs.issue_node(authority, "n2", now=NOW),
        "": certs.issue_node(authority, "n1", now=NOW, cluster="another", stem="other"),
    }
    async with app:
        for node, proof in proofs.items():
            keys = grpc.ssl_channel_credentials(
                pem, proof.key.read_bytes(), proof.certificate.read_bytes()
            )
            async with grpc.aio.secure_channel(f"127.0.0.1:{app.port}", keys) as channel:
                if node:
                    response = await fetch(channel, "CDS")  # which claims to be of n1
                    assert named(response, cluster_pb2.Cluster()) == ["of-n2"]
                    continue
                with pytest.raises(grpc.aio.AioRpcError) as error:
                    await fetch(channel, "CDS")
                assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


# ------------------------------------------------------------------------------- JSON over HTTP


@asynccontextmanager
async def rest(app: App, path: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        app,
        aiohttp.UnixConnector(path) as connector,
        aiohttp.ClientSession("http://localhost", connector=connector) as session,
    ):
        yield session


async def test_json(tmp_path: Path) -> None:
    path = f"{tmp_path}/rest.sock"
    app = App(tmp_path, rest=f"unix:{path}")
    put(app.files, "all", cluster("a"), cluster("b"))
    request: dict[str, Any] = {"node": {"id": "n1", "a field of tomorrow": 1}}
    async with rest(app, path) as session:
        async with session.post("/v3/discovery:clusters", json=request) as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            found = await answer.json()
        assert [each["name"] for each in found["resources"]] == ["a", "b"]
        assert {each["@type"] for each in found["resources"]} == {CDS}
        request["version_info"] = found["versionInfo"]
        async with session.post("/v3/discovery:clusters", json=request) as answer:
            assert (answer.status, await answer.read()) == (304, b"")
        request["resource_names"] = ["b"]
        request["error_detail"] = {"details": [{"@type": "type.googleapis.com/of.Nobody"}]}
        async with session.post("/v3/discovery:clusters", json=request) as answer:
            found = await answer.json()
            assert [each["name"] for each in found["resources"]] == ["b"]
        async with session.post("/v3/discovery:secrets", json=request) as answer:
            assert "resources" not in await answer.json()
        page = await app.page()
        assert 'reconciler_xds_polls_total{method="/v3/discovery:clusters"} 3.0' in page


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not a DiscoveryRequest: "),
        (b"\xff", "not a DiscoveryRequest: "),
        (b"[]", "not a DiscoveryRequest: "),
        (b'"x"', "not a DiscoveryRequest: "),
        (b'{"node": 1}', "not a DiscoveryRequest: "),
        (
            b'{"node": {"metadata": ' + b'{"a":' * 9999 + b"1" + b"}" * 10001,
            "not a DiscoveryRequest: ",
        ),
        (json.dumps({"type_url": EDS}).encode(), f"this service is for {CDS}, not for {EDS}"),
    ],
)
async def test_what_is_no_request_is_refused(tmp_path: Path, body: bytes, reason: str) -> None:
    path = f"{tmp_path}/rest.sock"
    app = App(tmp_path, rest=f"unix:{path}")
    put(app.files, "all", cluster("a"))
    async with (
        rest(app, path) as session,
        session.post("/v3/discovery:clusters", data=body) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["error"].startswith(reason)


async def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    path = f"{tmp_path}/rest.sock"
    app = App(tmp_path, rest=f"unix:{path}")
    put(app.files, "all", cluster("a"))
    node = json.dumps({"node": {"metadata": {"a": "x" * MAX_NODE}}}).encode()
    reasons = []
    async with rest(app, path) as session:
        for body in (node, bytes(MAX_REQUEST + 1)):
            async with session.post("/v3/discovery:clusters", data=io.BytesIO(body)) as answer:
                assert answer.status == 413
                reasons.append((await answer.json())["error"])
    assert f"the limit is {MAX_NODE}" in reasons[0]


async def test_only_this_machine_may_poll_without_proof() -> None:
    options = ("--resources", "x", "--insecure", "--rest", "192.0.2.1:80")
    done = await reconciler("xds", "serve", *options)
    assert done.returncode == 2
    assert b"--rest: 192.0.2.1:80: only a Unix socket or a loopback address" in done.stderr


# ------------------------------------------------------------------------------- Envoy

REST = {
    "resource_api_version": "V3",
    "api_config_source": {
        "api_type": "REST", "transport_api_version": "V3", "cluster_names": ["server"],
        "refresh_delay": "0.1s", "request_timeout": "5s",
    },
}  # fmt: skip


def polled(name: str) -> dict[str, Any]:
    """A cluster whose endpoints are polled for too."""
    return cluster(name, eds_cluster_config={"eds_config": REST})


def test_envoy_polls_clusters_and_their_endpoints(tmp_path: Path) -> None:
    files, port = tmp_path / "resources", free_port()
    files.mkdir()
    put(files, "all", polled("blue"), endpoints("blue", 7001))
    server = Replica(files, tmp_path / "server", "--rest", f"127.0.0.1:{port}")
    try:
        bootstrap = {
            "node": {"id": "polls", "cluster": "edge"},
            "admin": {"address": address(0)},
            "dynamic_resources": {"cds_config": REST},
            "static_resources": {
                "clusters": [
                    {
                        "name": "server",
                        "type": "STATIC",
                        "connect_timeout": "1s",
                        "load_assignment": endpoints("server", port, type=False),
                    }
                ]
            },
        }
        envoy = Envoy(tmp_path / "envoy", bootstrap)
        try:
            wait(lambda: envoy.clusters() == {"server", "blue"}, envoy.process)
            wait(lambda: envoy.ports("blue") == [7001], envoy.process)
            put(files, "all", polled("blue"), polled("green"), endpoints("blue", 7002, 7003))
            wait(lambda: envoy.clusters() == {"server", "blue", "green"}, envoy.process)
            wait(lambda: envoy.ports("blue") == [7002, 7003], envoy.process)
            put(files, "all", polled("green"))
            wait(lambda: envoy.clusters() == {"server", "green"}, envoy.process)
            assert envoy.counter("cluster_manager.cds.update_rejected") == 0
        finally:
            envoy.end()
    finally:
        server.process.end()
