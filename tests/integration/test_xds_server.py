"""The discovery server as an application: files, proofs, CSDS, health, reflection, metrics."""

from __future__ import annotations

import datetime
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from reconciler.core.discovery.types import CDS, EDS, SDS
from reconciler.errors import ConfigError
from reconciler.probe import services
from reconciler.probe.frames import Node
from reconciler.probe.services import Variant
from reconciler.server import certs
from tests.integration.xds_app import App
from tests.integration.xds_processes import cluster, endpoints, put, reconciler
from tests.integration.xds_streams import stream

DELTA, SOTW = Variant.DELTA, Variant.SOTW
NOW = datetime.datetime.now(datetime.UTC)


async def test_files_are_served_and_followed(tmp_path: Path) -> None:
    app = App(tmp_path)
    put(app.files, "a", cluster("a"))
    async with app, stream(app.port) as client:
        await client.ask(CDS, node=Node("n1"))
        assert await client.names() == ["a"]
        put(app.files, "b", cluster("b"))
        assert await client.names() == ["b"]
        put(app.files, "a", cluster(""))  # not as its proto is: what was good stays
        put(app.files, "b", cluster("b", connect_timeout="3s"))
        put(app.files, "a", cluster("a"))
        assert await client.names() == ["b"]


async def test_what_is_wrong_at_the_start_ends_it(tmp_path: Path) -> None:
    app = App(tmp_path)
    put(app.files, "a", cluster("a"), cluster("a"))
    with pytest.raises(ConfigError) as caught:
        await app.__aenter__()
    assert "a.yaml#2: Cluster a: is in a.yaml#1 too, and a node could get both" in str(caught.value)


async def test_a_resource_that_moves_between_directories_is_not_taken_away(tmp_path: Path) -> None:
    app = App(tmp_path)
    (app.files / "nodes" / "n1").mkdir(parents=True)
    (app.files / "clusters" / "edge").mkdir(parents=True)
    put(app.files, "all", cluster("all"))
    put(app.files / "nodes/n1", "own", cluster("own"))
    async with app, stream(app.port) as client, stream(app.port, SOTW) as other:
        await client.ask(CDS, node=Node("n1", "edge"))
        await other.ask(CDS, node=Node("n2", "edge"))
        assert await client.names() == ["all", "own"]
        assert await other.names() == ["all"]
        os.replace(app.files / "nodes/n1/own.yaml", app.files / "clusters/edge/own.yaml")
        assert await other.names() == ["all", "own"]
        put(app.files / "nodes/n1", "more", cluster("more"))
        response = await client.get()
        assert [each.name for each in response.items] == ["more"]  # and own was never removed
        assert response.removed == ()


@pytest.mark.parametrize("transport", ["grpc", "http2"])
async def test_directories_of_sockets_are_made(tmp_path: Path, transport: str) -> None:
    sockets = {name: f"unix:{tmp_path}/{name}/new/s.sock" for name in ("listen", "admin", "rest")}
    app = App(tmp_path, transport=transport, **sockets)
    put(app.files, "a", cluster("a"))
    async with app, grpc.aio.insecure_channel(sockets["admin"]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        found = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert found.status == health_pb2.HealthCheckResponse.SERVING
    assert [(tmp_path / name / "new").is_dir() for name in sockets] == [True] * 3


# ------------------------------------------------------------------------------- who sees what


async def test_the_proven_name_counts_and_not_the_claimed_one(tmp_path: Path) -> None:
    authority = tmp_path / "ca"
    certs.init(authority, cluster="default", now=NOW)
    issued = certs.issue_server(authority, names=("127.0.0.1",), now=NOW)
    app = App(
        tmp_path,
        insecure=False,
        tls_cert=str(issued.certificate),
        tls_key=str(issued.key),
        tls_ca=str(authority / "ca.crt"),
        admin=f"unix:{tmp_path}/admin.sock",
    )
    for node in ("n1", "n2"):
        (app.files / "nodes" / node).mkdir(parents=True)
        put(app.files / "nodes" / node, "own", cluster(f"of-{node}"))
    proof = certs.issue_node(authority, "n1", now=NOW)
    pem = (authority / "ca.crt").read_bytes()
    keys = grpc.ssl_channel_credentials(pem, proof.key.read_bytes(), proof.certificate.read_bytes())
    async with app, stream(app.port, DELTA, keys) as client:
        await client.ask(CDS, node=Node("n2"))  # what it claims
        assert await client.names() == ["of-n1"]
        async with grpc.aio.secure_channel(f"127.0.0.1:{app.port}", keys) as channel:
            csds = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as caught:  # nodes don't see others'
                await csds.FetchClientStatus(csds_pb2.ClientStatusRequest())
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            health = health_pb2_grpc.HealthStub(channel)
            found = await health.Check(health_pb2.HealthCheckRequest())
            assert found.status == health_pb2.HealthCheckResponse.SERVING
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/admin.sock") as channel:
            csds = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
            (config,) = (await csds.FetchClientStatus(csds_pb2.ClientStatusRequest())).config
            assert config.node.id == "n1"
        assert "reconciler_certificate_expiry_seconds 0.0" not in await app.page()


# ------------------------------------------------------------------------------- CSDS


async def command(*arguments: str) -> str:
    """`reconciler xds ...`"""
    found = await reconciler("xds", *arguments)
    assert found.returncode == 0
    return found.stdout.decode()


SECRET = {
    "@type": SDS,
    "name": "key",
    "generic_secret": {"secret": {"inline_string": "hidden"}},
}


async def test_csds_says_what_each_client_has(tmp_path: Path) -> None:
    app = App(tmp_path)
    put(app.files, "a", cluster("a"), endpoints("a", 1), SECRET)
    async with app, stream(app.port) as client, stream(app.port, SOTW) as other:
        await client.ask(CDS, node=Node("n1", "edge", {"role": "web", "zones": ["x", "y"]}))
        first = await client.get()
        await client.ask(CDS, nonce=first.nonce)
        await client.ask(EDS, "a", "none")
        bad = await client.get()
        await client.ask(EDS, nonce=bad.nonce, error="not these")
        await client.ask(SDS, "key")
        assert await client.names() == ["key"]
        await other.ask(EDS, "a", node=Node("n2"))
        assert await other.names() == ["a"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            csds = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)

            async def ask(**matcher: Any) -> Any:
                request = csds_pb2.ClientStatusRequest(node_matchers=[matcher] if matcher else [])
                return (await csds.FetchClientStatus(request)).config

            assert {each.node.id for each in await ask()} == {"n1", "n2"}
            assert [each.node.id for each in await ask(node_id={"prefix": "n2"})] == ["n2"]
            role = {"path": [{"key": "role"}], "value": {"string_match": {"exact": "web"}}}
            zones = {"path": [{"key": "zones"}], "value": {"list_match": {
                "one_of": {"string_match": {"exact": "y"}}}}}  # fmt: skip
            (config,) = await ask(node_metadatas=[role, zones])
            absent = {"path": [{"key": "role"}], "value": {"present_match": False}}
            assert [each.node.id for each in await ask(node_metadatas=[absent])] == ["n2"]
            assert config.client_scope.endswith(": delta ADS")
            said = {
                (each.type_url.rpartition(".")[2], each.name): (
                    csds_pb2.ConfigStatus.Name(each.config_status),
                    each.error_state.details,
                )
                for each in config.generic_xds_configs
            }
            assert said == {
                ("Cluster", "a"): ("SYNCED", ""),
                ("ClusterLoadAssignment", "a"): ("ERROR", "not these"),
                ("ClusterLoadAssignment", "none"): ("ERROR", "not these"),
                ("Secret", "key"): ("STALE", ""),
            }
            by_type = {each.type_url: each for each in config.generic_xds_configs}
            assert by_type[CDS].xds_config.type_url == CDS
            assert by_type[CDS].version_info == first.items[0].version
            assert abs(by_type[CDS].last_updated.seconds - NOW.timestamp()) < 3600
            assert not by_type[SDS].HasField("xds_config")
            assert b"hidden" not in config.SerializeToString()
            where = ("--server", f"127.0.0.1:{app.port}", "-o", "json")
            rows = json.loads(await command("clients", "--refused", *where))
            assert [(each["node"], each["name"], each["reason"]) for each in rows] == [
                ("n1", "a", "not these"),
                ("n1", "none", "not these"),
            ]
            call = csds.StreamClientStatus()
            for _ in range(2):
                await call.write(csds_pb2.ClientStatusRequest(exclude_resource_contents=True))
                answer = await call.read()
                assert len(answer.config) == 2
                assert not answer.config[0].generic_xds_configs[0].HasField("xds_config")
            await call.done_writing()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(node_id={"safe_regex": {"regex": "("}})
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


# ------------------------------------------------------------------------------- beside xDS


async def test_reflection_knows_the_services(tmp_path: Path) -> None:
    async with App(tmp_path) as app, AsyncExitStack() as stack:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{app.port}")
        await stack.enter_async_context(channel)
        call: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
        found = {each.name for each in (await call.read()).list_services_response.service}
        assert {each.name for each in (services.AGGREGATED, *services.OWN.values())} <= found
        assert "envoy.service.status.v3.ClientStatusDiscoveryService" in found
        for name in found:
            await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=name))
            answer = await call.read()
            assert answer.file_descriptor_response.file_descriptor_proto, name
        await call.done_writing()


async def test_metrics_count_by_method(tmp_path: Path) -> None:
    app = App(tmp_path, max_streams=1)
    put(app.files, "a", cluster("a"), cluster("b"))
    async with app, stream(app.port) as client:
        await client.ask(CDS, node=Node("n1"))
        assert await client.names() == ["a", "b"]
        async with stream(app.port) as refused:
            status, _ = await refused.ended()
            assert status == "RESOURCE_EXHAUSTED"
        page = await app.page()
        method = 'method="DeltaAggregatedResources"'
        for line in (
            'reconciler_xds_resources{type="Cluster"} 2.0',
            f"reconciler_xds_streams{{{method}}} 1.0",
            f"reconciler_xds_sent_total{{{method}}} 1.0",
            f"reconciler_xds_received_total{{{method}}} 1.0",
            'reconciler_xds_streams_refused_total{code="RESOURCE_EXHAUSTED"} 1.0',
            'reconciler_xds_reloads_total{result="good"} 1.0',
        ):
            assert line in page.splitlines()
