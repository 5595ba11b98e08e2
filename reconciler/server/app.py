"""The server process, put together: objects, journal and plane → xDS service → status API.

Started in this order and stopped in the reverse one. It listens once the objects that are there at
the start have been read, so that no node is ever served half a cluster. A manifests directory that
can't be read at the start ends the process; later the last good state stays.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from reconciler import local, starting, tls
from reconciler.config import ServerConfig, parse_address
from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import Prefix
from reconciler.core.plane import PlaneConfig
from reconciler.core.reading import Reader
from reconciler.errors import ConfigError
from reconciler.server.cluster import Cluster
from reconciler.server.rotation import watch_certificate
from reconciler.server.status import Counted, Status
from reconciler.server.transport import TRANSPORTS
from reconciler.signals import stop_on_signals
from reconciler.tracefile import Head, recorder

if TYPE_CHECKING:
    from reconciler.server.discovery.beside import BesideAgents
    from reconciler.server.driver import Driver
    from reconciler.server.kubernetes.auth import TokenReviewer
    from reconciler.server.kubernetes.client import ApiClient

_GRACE_SECONDS = 5.0  # for streams to end at a stop


async def run(config: ServerConfig, *, ready: Callable[[int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is told the port (0 for a Unix socket).

    Raises JournalError, ConfigError, UnavailableError; JournalConflict when another server took
    the journal over while this one ran.
    """
    log = structlog.get_logger("server")
    stop = asyncio.Event()
    keys = _keys(config)
    async with AsyncExitStack() as stack:
        stop_on_signals(stack, stop)

        cluster = await _cluster(config, stack, stop, log)
        plane, driver = cluster.plane, cluster.driver
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        loaded = asyncio.Event()
        runs = [tasks.create_task(each(loaded)) for each in cluster.runs]
        with starting.kept(stack):
            await _first(loaded, runs)

        if keys is not None:
            tasks.create_task(watch_certificate(keys, driver.alarm, log, stop), name="certificate")
        tokens = await _tokens(config, cluster.client, stack, log)
        client = cluster.client or (tokens.client if tokens is not None else None)
        files = await _files(config, driver, stack, tasks, stop, log)
        service = TRANSPORTS[config.transport](
            driver if files is None else files.hub,
            parse_address(config.listen),
            keys,
            cluster=config.cluster_name,
            tokens=tokens,
            token_listen=parse_address(config.token_listen) if config.token_listen else None,
            max_stream_age=config.max_stream_age,
            refused=lambda peer, status, reason: log.warning(
                "stream refused", peer=peer, status=status, reason=reason
            ),
            **({} if files is None else files.served()),
        )
        driver.serve(service)
        if files is not None:
            files.parts.driver.serve(service)
        await service.start()
        stack.push_async_callback(service.stop, _GRACE_SECONDS, config.stream_drain)
        if files is not None:
            stack.push_async_callback(files.parts.more.serving, False)

        reader = Reader(plane, cluster.problems)

        def unready() -> str:
            return plane.deposed or ("" if plane.revision else "nothing is published yet")

        counted = Counted(
            traffic=service.traffic,
            alarms=lambda: driver.alarms,
            refused=service.refused,
            certificate=keys.expires if keys is not None else lambda: 0.0,
            reviews=tokens.results if tokens is not None else {},
            requests=client.requests if client is not None else {},
            files=files.parts.counted if files is not None else None,
        )
        status = Status(reader, counted, unready)
        await stack.enter_async_context(local.serve(status.routes(), parse_address(config.status)))
        if config.metrics:
            where = parse_address(config.metrics)
            await stack.enter_async_context(local.serve(status.public(), where))
        log.info("serving", listen=config.listen, port=service.port, status=config.status)
        if ready is not None:
            ready(service.port)

        stopped = tasks.create_task(stop.wait(), name="stop")
        ends: set[asyncio.Future[Any]] = {stopped, driver.failed}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        log.info("stopping")
        stop.set()
        for run in runs:
            run.cancel()
        if driver.failed.done():
            driver.failed.result()


def plane_config(config: ServerConfig) -> PlaneConfig:
    """The core's own configuration; ConfigError for label rules that can't be read."""
    return PlaneConfig(
        intake=IntakeConfig(
            filter=label_filter(config.label, config.label_filter_file),
            cluster_name=config.cluster_name,
            named_ports=config.named_ports,
            cluster_cidrs=tuple(map(prefix, config.cluster_cidr)),
            drain_seconds=config.drain_seconds,
        ),
        scope=config.scope,
        absent_grace=config.absent_grace,
        closed_grace=config.closed_grace,
        policy_capacity=config.policy_capacity,
    )


def label_filter(rules: tuple[str, ...], file: str) -> LabelFilter:
    """The built-in rules or those of the file, then the user's."""
    try:
        found = LabelFilter.default()
        if file:
            found = LabelFilter.from_file(json.loads(Path(file).read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--label-filter-file {file}: {error}") from None
    try:
        return found.with_user_rules(list(rules))
    except ValueError as error:
        raise ConfigError(f"--label: {error}") from None


def prefix(text: str) -> Prefix:
    network = ipaddress.ip_network(text)
    return Prefix(network.network_address.packed, network.prefixlen)


def _keys(config: ServerConfig) -> tls.KeyFiles | None:
    if config.insecure:
        return None
    return tls.KeyFiles(config.tls_cert, config.tls_key, config.tls_ca)


async def _tokens(
    config: ServerConfig, client: ApiClient | None, stack: AsyncExitStack, log: Any
) -> TokenReviewer | None:
    if config.node_auth == "certificate" and not config.token_listen:
        return None
    from reconciler.server.kubernetes.auth import TokenReviewer
    from reconciler.server.kubernetes.client import ApiClient

    if client is None:
        client = await ApiClient.connect(config.kubeconfig, config.kube_context)
        stack.push_async_callback(client.close)
    reviewer = TokenReviewer(
        client,
        audience=config.token_audience,
        service_account=config.agent_service_account,
        log=log,
    )
    stack.push_async_callback(reviewer.close)
    return reviewer


async def _files(
    config: ServerConfig,
    driver: Driver,
    stack: AsyncExitStack,
    tasks: asyncio.TaskGroup,
    stop: asyncio.Event,
    log: Any,
) -> BesideAgents | None:
    """What serves other xDS types beside the agents', if that is wanted."""
    if not config.discovery_resources:
        return None
    from reconciler.server.discovery.beside import BesideAgents

    found = await BesideAgents.start(config, driver, stack, stop, log)
    following = tasks.create_task(found.parts.follow(), name="xds-resources")

    async def end() -> None:
        following.cancel()
        await asyncio.wait([following])

    stack.push_async_callback(end)
    return found


async def _first(loaded: asyncio.Event, runs: list[asyncio.Task[None]]) -> None:
    """Until the first objects are in, or reading them failed."""
    waiting = asyncio.create_task(loaded.wait())
    ends: set[asyncio.Task[Any]] = {waiting, *runs}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for run in runs:
        if run.done() and not loaded.is_set():
            run.result()


async def _cluster(
    config: ServerConfig, stack: AsyncExitStack, stop: asyncio.Event, log: Any
) -> Cluster:
    """Where the objects are from, where the journal is, and the plane between them."""
    trace = recorder(config.record_trace, Head("server", "server"), stack)
    if config.kubernetes:
        from reconciler.server.kubernetes.parts import cluster
    else:
        from reconciler.server.embedded import cluster
    found = await cluster(config, plane_config(config), stack, stop, trace, log)
    if trace is not None:
        trace.tell(lambda reason: found.driver.alarm("trace", config.record_trace, reason))
    return found
