"""`reconciler server --discovery-resources`: agents and clients of other xDS types on one port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.service.cluster.v3.cds_pb2_grpc import ClusterDiscoveryServiceStub
from envoy.service.discovery.v3 import discovery_pb2
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

from reconciler.config import ServerConfig
from reconciler.core.discovery.types import CDS, EDS
from reconciler.core.resources.types import COMMIT, CUT_TYPES, POLICY
from reconciler.probe.frames import Node
from reconciler.probe.services import Variant
from reconciler.server.app import run
from reconciler.server.discovery.beside import type_of
from tests.integration.xds_app import running, status
from tests.integration.xds_processes import cluster, put
from tests.integration.xds_streams import stream

DELTA, SOTW = Variant.DELTA, Variant.SOTW
SHOP = Path(__file__).parents[2] / "demo" / "shop"


@asynccontextmanager
async def serving(home: Path, transport: str) -> AsyncIterator[int]:
    (home / "resources").mkdir()
    put(home / "resources", "a", cluster("a"))
    config = ServerConfig(
        manifests=str(SHOP),
        state_dir=str(home / "state"),
        listen="127.0.0.1:0",
        insecure=True,
        status=f"unix:{home}/s.sock",
        discovery_resources=str(home / "resources"),
        transport=transport,  # type: ignore[arg-type]
    )
    async with running(lambda ready: run(config, ready=ready)) as server:
        yield server.port


@pytest.mark.parametrize("transport", ["grpc", "http2"])
async def test_agents_and_others_are_served_on_one_port(tmp_path: Path, transport: str) -> None:
    at = f"unix:{tmp_path}/s.sock"
    async with (
        serving(tmp_path, transport) as port,
        stream(port, DELTA) as agent,
        stream(port, DELTA) as envoy,
        stream(port, SOTW) as other,
    ):
        for type_url in CUT_TYPES:
            await agent.ask(type_url, "*", node=Node("node-1"))
        await envoy.ask(CDS, node=Node("envoy-1"))
        await other.ask(CDS, node=Node("sidecar~10.0.0.1~any"))
        assert await envoy.names() == ["a"]
        assert await other.names() == ["a"]
        while True:  # the first cut, staged and committed
            response = await agent.get()
            await agent.ask(response.type_url, nonce=response.nonce)
            if response.type_url == COMMIT:
                committed = response.items[0].version
                break
        put(tmp_path / "resources", "b", cluster("b"))
        assert await envoy.names() == ["b"]
        assert await other.names() == ["a", "b"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            clusters = ClusterDiscoveryServiceStub(channel)
            polled = await clusters.FetchClusters(discovery_pb2.DiscoveryRequest())
            assert [each.type_url for each in polled.resources] == [CDS, CDS]
            page = await status(at, "/metrics")
            for line in (
                'xds_resources{type="Cluster"} 2.0', 'xds_reloads_total{result="good"} 2.0',
                'xds_reloads_total{result="bad"} 0.0', "xds_problems 0.0", "xds_views 1.0",
                "xds_streams_broken_total 0.0", 'xds_polls_total{method="FetchClusters"} 1.0',
            ):  # fmt: skip
                assert f"reconciler_{line}\n" in page
            csds = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
            acked = config_dump_shared_pb2.ClientResourceStatus.Value("ACKED")
            async with asyncio.timeout(20):
                while True:  # the agent's last answer comes on a connection of its own
                    found = await csds.FetchClientStatus(csds_pb2.ClientStatusRequest())
                    configs = {each.node.id: each for each in found.config}
                    assert configs.keys() == {"node-1", "envoy-1", "sidecar~10.0.0.1~any"}
                    held = configs["node-1"].generic_xds_configs
                    (cut,) = (each for each in held if each.type_url == COMMIT)
                    if cut.client_status == acked:
                        break
            assert cut.version_info == committed
            assert {each.type_url for each in held} == set(CUT_TYPES)
            assert {each.client_status for each in held} == {acked}
            (policy, *_) = (each for each in held if each.type_url == POLICY)
            assert policy.xds_config.value
        nodes = await status(at, "/v1/nodes")
        assert '"name":"node-1"' in nodes
        assert "envoy-1" not in nodes


def test_the_type_of_a_request_is_found_without_reading_it() -> None:
    request = discovery_pb2.DeltaDiscoveryRequest(
        type_url=EDS, resource_names_subscribe=["a" * 300], initial_resource_versions={"a": "1"}
    )
    request.node.id = "n"
    data = request.SerializeToString()
    assert type_of(data) == EDS
    for end in range(len(data)):
        assert type_of(data[:end]) in ("", *(EDS[:at] for at in range(len(EDS) + 1)))
    assert type_of(b"") == ""
    assert type_of(b"\x08\x01") == ""
    assert type_of(b"\xff" * 20) == ""
    assert type_of(b"\x12\x01\xff") == ""


async def test_a_broken_file_is_an_alarm(tmp_path: Path) -> None:
    async with serving(tmp_path, "grpc") as port, stream(port, DELTA) as envoy:
        await envoy.ask(CDS, node=Node("envoy-1"))
        assert await envoy.names() == ["a"]
        put(tmp_path / "resources", "b", cluster("b", connect_timeout="0s"))
        at, never = f"unix:{tmp_path}/s.sock", asyncio.Event()
        async with asyncio.timeout(20):
            while "reconciler_alarms_total 1.0" not in await status(at, "/metrics"):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(never.wait(), 0.05)
        put(tmp_path / "resources", "b", cluster("b"))
        assert await envoy.names() == ["b"]
