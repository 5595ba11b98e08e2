"""The agent process, put together: datapath and cache → core → links → CNI, status → xDS stream.

What the kernel enforces is taken over first, and nothing is asked of a server before it. Stopping
(SIGTERM, SIGINT) leaves everything in force: maps, programs and attachments are pinned.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from reconciler import local, tls
from reconciler.address import parse_addresses
from reconciler.agent.applier import read_kernel
from reconciler.agent.cache import CacheFile
from reconciler.agent.cni_service import CniService
from reconciler.agent.driver import Driver
from reconciler.agent.grpc import XdsClient
from reconciler.agent.links import Device, Links
from reconciler.agent.memory import MemoryLinks
from reconciler.agent.status import Status
from reconciler.config import AgentConfig, parse_address
from reconciler.core.dataplane.adopt import Adopted
from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.effects import Options
from reconciler.core.dataplane.layout import MapId, MapSpec, map_specs
from reconciler.core.dataplane.records import CachedCut
from reconciler.core.policy.ir import Prefix
from reconciler.datapath.base import Datapath
from reconciler.errors import CacheError, ConfigError
from reconciler.signals import stop_on_signals
from reconciler.tracefile import Head, recorder

CACHE: Final = "cut.cache"


async def run(config: AgentConfig) -> None:
    """Enforce until SIGTERM or SIGINT. Raises ConfigError, DatapathError, UnavailableError."""
    log = structlog.get_logger("agent")
    stop = asyncio.Event()
    node = node_name(config)
    async with AsyncExitStack() as stack:
        stop_on_signals(stack, stop)

        datapath = open_datapath(config)
        stack.callback(datapath.close)
        kernel = read_kernel(datapath)
        cache = CacheFile(Path(config.cache_dir) / CACHE)
        cached = _cached(cache, node, kernel, log)
        log.info(
            "starting",
            node=node,
            datapath=datapath.name,
            enforced=kernel.revision,
            cached=cached.revision if cached else 0,
        )
        trace = recorder(config.record_trace, Head("agent", node), stack)
        core = AgentCore(
            node,
            datapath.limits,
            kernel,
            cached,
            time.monotonic(),
            Options(
                config.max_stale,
                tuple(map(_prefix, config.service_cidr)),
                secrets.token_hex(8),
            ),
            trace,
        )
        driver = Driver(core, datapath, cache, log)
        stack.push_async_callback(driver.stop)
        if trace is not None:
            trace.tell(lambda reason: driver.alarm("trace", config.record_trace, reason))
        server, *others = parse_addresses(config.server)
        client = XdsClient(
            driver,
            server,
            lambda: _usable_keys(config),
            token=(lambda: tls.load_token(config.token_file)) if config.token_file else None,
            others=tuple(others),
            server_name=config.tls_server_name,
        )
        stack.push_async_callback(client.stop)

        cni: CniService

        def appeared(device: Device) -> None:
            driver.link_added(cni.link(device))

        def gone(ifindex: int) -> None:
            cni.forget(ifindex)
            driver.link_removed(ifindex)

        # In memory there are no devices: the ones that the node has are nobody's.
        pattern = "" if config.datapath == "memory" else config.pod_interfaces
        links = Links(pattern, appeared, gone, kernel.attached)
        cni = CniService(driver, links, log)
        links.start()
        stack.callback(links.stop)
        driver.links_listed([cni.link(device) for device in links.known.values()])
        if config.datapath == "memory":
            driver.settled = MemoryLinks(core, driver.link_added, driver.link_removed).settle

        status = Status(driver, client, lambda: client.certificate_expires)
        where = parse_address(config.status)
        await stack.enter_async_context(local.serve(status.routes(), where))
        if config.metrics:
            where = parse_address(config.metrics)
            await stack.enter_async_context(local.serve(status.public(), where))
        if config.cni_socket:
            await stack.enter_async_context(cni.serve(config.cni_socket))

        driver.start(client)
        stopped = asyncio.create_task(stop.wait(), name="stop")
        ends: set[asyncio.Future[Any]] = {stopped, driver.failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        log.info("stopping")
        if driver.failed.done():
            driver.failed.result()


def _cached(cache: CacheFile, node: str, kernel: Adopted, log: Any) -> CachedCut | None:
    """The cut that the maps hold (or the newest, where they are empty) as the disk has it."""
    try:
        return cache.load(node, kernel.root if kernel.revision else None)
    except CacheError as error:
        log.error("cache", reason=str(error))
        return None


def node_name(config: AgentConfig) -> str:
    """Of the flag, else of the certificate or token, else the host's. ConfigError for none that
    fits: what the server serves is the proof's node, whatever name is claimed."""
    keys = _keys(config)
    certified = ""
    if config.token_file:
        where, certified = "token", tls.token_node(tls.load_token(config.token_file))
    elif keys is not None:
        where, certified = "certificate", tls.node_of(keys.certificate)
        if not certified:
            raise ConfigError(f"--tls-cert: {config.tls_cert} is not a node's certificate")
    if config.node and certified and config.node != certified:
        raise ConfigError(f"--node: {config.node}, but the {where} is for {certified}")
    name = config.node or certified or socket.gethostname().lower()
    if not tls.is_node_name(name):
        raise ConfigError(f"--node: {name!r} is not a node name")
    return name


def open_datapath(config: AgentConfig) -> Datapath:
    """The kernel's, or one in memory, with the configured capacities."""
    specs = _specs(config)
    if config.datapath == "memory":
        from reconciler.datapath.twin import TwinDatapath

        return TwinDatapath(specs, time.monotonic_ns)
    from reconciler.datapath.kernel import KernelDatapath

    return KernelDatapath(Path(config.pin_dir), specs, attach=config.attach)


def _specs(config: AgentConfig) -> dict[MapId, MapSpec]:
    return map_specs(
        addresses=config.max_addresses,
        endpoints=config.max_endpoints,
        groups=config.max_groups,
        policies=config.max_policies,
        conntrack=config.max_conntrack,
        fragments=config.max_fragments,
    )


def _keys(config: AgentConfig) -> tls.KeyPair | None:
    if config.insecure:
        return None
    return tls.load(config.tls_cert, config.tls_key, config.tls_ca)


def _usable_keys(config: AgentConfig) -> tls.KeyPair | None:
    """For a connection now; ConfigError when the certificate has expired, or the like."""
    keys = _keys(config)
    if keys is not None:
        tls.check(keys, (config.tls_cert, config.tls_key, config.tls_ca), time.time())
    return keys


def _prefix(text: str) -> Prefix:
    network = ipaddress.ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)
