"""gRPC's own client (`xds:///`): finds a real service through the server, follows its changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.integration.xds_processes import (
    PREFIX,
    Replica,
    cluster,
    endpoints,
    put,
    routes,
)

CLIENT = """
import sys
import grpc

with grpc.insecure_channel("xds:///shop") as channel:
    who = channel.unary_unary("/test.Who/Ask", bytes, bytes)
    for line in sys.stdin:
        answer = who(b"", timeout=30, wait_for_ready=line.strip() == "first")
        print(answer.decode(), flush=True)
"""
"""A process of its own: gRPC reads the bootstrap file once. One call for each line."""


class _Who(grpc.GenericRpcHandler):
    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def service(self, details: Any) -> Any:
        if details.method != "/test.Who/Ask":
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._name)


def backend(name: str, stack: ExitStack) -> int:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Who(name),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    stack.callback(lambda: server.stop(0).wait())
    return port


def api_listener(name: str, route: str) -> dict[str, Any]:
    """As gRPC wants it: named like the target, no address, routes over ADS."""
    manager = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": f"{PREFIX}extensions.filters.http.router.v3.Router"}
    return {
        "@type": f"{PREFIX}config.listener.v3.Listener",
        "name": name,
        "api_listener": {
            "api_listener": {
                "@type": PREFIX + manager,
                "stat_prefix": name,
                "rds": {
                    "route_config_name": route,
                    "config_source": {"ads": {}, "resource_api_version": "V3"},
                },
                "http_filters": [{"name": "router", "typed_config": router}],
            }
        },
    }


class Shop:
    def __init__(self, home: Path, ports: dict[str, int], stack: ExitStack) -> None:
        self.ports = ports
        self.files = home / "resources"
        self.files.mkdir()
        put(self.files, "listener", api_listener("shop", "shop-routes"))
        self.to("blue", "blue")
        self.replica = Replica(self.files, home / "a")
        stack.callback(self.replica.process.end)
        bootstrap = {
            "xds_servers": [
                {
                    "server_uri": f"127.0.0.1:{self.replica.port}",
                    "channel_creds": [{"type": "insecure"}],
                    "server_features": ["xds_v3"],
                }
            ],
            "node": {"id": "grpc-client"},
        }
        environment = {**os.environ, "GRPC_XDS_BOOTSTRAP_CONFIG": json.dumps(bootstrap)}
        self.client = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            bufsize=1,
        )
        stack.callback(self.end)

    def to(self, name: str, colour: str) -> None:
        """Routes to a cluster of that name, which is one backend."""
        load = endpoints(name, self.ports[colour])
        for locality in load["endpoints"]:  # gRPC leaves out what has no weight
            locality |= {"locality": {"zone": "z"}, "load_balancing_weight": 1}
        parts = [cluster(name), load, routes("shop-routes", name)]
        for host in parts[2]["virtual_hosts"]:
            host["routes"][0]["match"] = {"prefix": ""}
        put(self.files, "shop", *parts)

    def ask(self, word: str = "") -> str:
        """Who answers a call; "" when the client has ended, as it does when a call fails."""
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.write(f"{word}\n")
        return self.client.stdout.readline().strip()

    def until(self, colour: str, most: int = 20_000) -> set[str]:
        seen = set()
        for _ in range(most):
            seen.add(self.ask())
            assert "" not in seen, "a call failed"
            if colour in seen:
                return seen
        raise AssertionError(f"{most} calls, and none was answered by {colour}")

    def end(self) -> None:
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.close()
        try:
            self.client.wait(10)
        finally:
            self.client.kill()
            self.client.wait()
            self.client.stdout.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    with ExitStack() as stack:
        ports = {name: backend(name, stack) for name in ("blue", "green")}
        found = Shop(tmp_path_factory.mktemp("shop"), ports, stack)
        assert found.ask("first") == "blue"
        yield found


def test_no_call_fails_while_endpoints_change(shop: Shop) -> None:
    shop.to("blue", "green")
    assert shop.until("green") <= {"blue", "green"}
    shop.to("blue", "blue")
    assert shop.until("blue") <= {"blue", "green"}


def test_no_call_fails_while_the_route_goes_to_a_new_cluster(shop: Shop) -> None:
    shop.to("other", "green")
    assert shop.until("green") <= {"blue", "green"}
    assert shop.ask() == "green"
    shop.to("blue", "blue")
    assert shop.until("blue") <= {"blue", "green"}
