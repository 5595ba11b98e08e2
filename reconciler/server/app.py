"""The server process, put together: journal → control plane → manifests → xDS service → status API.

Started in this order and stopped in the reverse one. It listens once the objects that are there at
the start have been read, so that no node is ever served half a cluster. A manifests directory that
can't be read at the start ends the process; later the last good state stays.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from reconciler import local, tls
from reconciler.config import ServerConfig, parse_address
from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import Prefix
from reconciler.core.plane import ControlPlane, PlaneConfig
from reconciler.core.reading import Reader
from reconciler.errors import ConfigError, Rejected
from reconciler.server.driver import Driver
from reconciler.server.grpc import XdsServer
from reconciler.server.journal import SqliteJournal
from reconciler.server.manifests import watch
from reconciler.server.rotation import watch_certificate
from reconciler.server.status import Counted, Status
from reconciler.tracefile import Head, recorder

if TYPE_CHECKING:
    from reconciler.server.kubernetes.auth import TokenReviewer

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
        _on_signals(stack, stop)

        thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        stack.callback(thread.shutdown)
        journal = SqliteJournal(_journal_path(config))
        in_thread = asyncio.get_running_loop().run_in_executor
        state = await in_thread(thread, journal.open)
        stack.push_async_callback(lambda: in_thread(thread, journal.close))
        log.info("journal open", epoch=state.epoch, identities=len(state.entries))

        trace = recorder(config.record_trace, Head("server", "server"), stack)
        plane = ControlPlane(plane_config(config), state, time.monotonic(), trace=trace)
        driver = Driver(plane, journal, thread, log, debounce=config.debounce_ms / 1000)
        stack.push_async_callback(driver.stop)
        if trace is not None:
            trace.tell(lambda reason: driver.alarm("trace", config.record_trace, reason))

        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        loaded = asyncio.Event()
        source = Source()
        objects = tasks.create_task(
            _objects(config, driver, source, loaded, stop, log), name="manifests"
        )
        await _first(loaded, objects)

        if keys is not None:
            tasks.create_task(watch_certificate(keys, driver.alarm, log, stop), name="certificate")
        tokens = await _tokens(config, stack, log)
        service = XdsServer(
            driver,
            parse_address(config.listen),
            keys,
            cluster=config.cluster_name,
            tokens=tokens,
            token_listen=parse_address(config.token_listen) if config.token_listen else None,
            max_stream_age=config.max_stream_age,
            refused=lambda peer, status, reason: log.warning(
                "stream refused", peer=peer, status=status, reason=reason
            ),
        )
        driver.serve(service)
        await service.start()
        stack.push_async_callback(service.stop, _GRACE_SECONDS)

        reader = Reader(plane, lambda: source.problems)

        def unready() -> str:
            return plane.deposed or ("" if plane.revision else "nothing is published yet")

        counted = Counted(
            traffic=service.traffic,
            alarms=lambda: driver.alarms,
            refused=service.refused,
            certificate=keys.expires if keys is not None else lambda: 0.0,
            reviews=tokens.results if tokens is not None else {},
            requests=tokens.client.requests if tokens is not None else {},
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


async def _tokens(config: ServerConfig, stack: AsyncExitStack, log: Any) -> TokenReviewer | None:
    if config.node_auth == "certificate" and not config.token_listen:
        return None
    from reconciler.server.kubernetes.auth import TokenReviewer
    from reconciler.server.kubernetes.client import ApiClient

    client = await ApiClient.connect()
    stack.push_async_callback(client.close)
    reviewer = TokenReviewer(
        client,
        audience=config.token_audience,
        service_account=config.agent_service_account,
        log=log,
    )
    stack.push_async_callback(reviewer.close)
    return reviewer


def _journal_path(config: ServerConfig) -> Path:
    path = Path(config.journal) if config.journal else Path(config.state_dir) / "journal.sqlite"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: {error.strerror}") from None
    return path


def _on_signals(stack: AsyncExitStack, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
        stack.callback(loop.remove_signal_handler, number)


async def _first(loaded: asyncio.Event, objects: asyncio.Task[None]) -> None:
    """Until the first objects are in, or reading them failed."""
    waiting = asyncio.create_task(loaded.wait())
    ends: set[asyncio.Task[Any]] = {waiting, objects}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if objects.done() and not loaded.is_set():
        objects.result()


class Source:
    """What a source of objects has to say beside the objects: the problems that stand."""

    problems: tuple[Rejected, ...] = ()


async def _objects(
    config: ServerConfig,
    driver: Driver,
    source: Source,
    loaded: asyncio.Event,
    stop: asyncio.Event,
    log: Any,
) -> None:
    if not config.manifests:
        driver.changed((), at_once=True)
        loaded.set()
        return
    async for batch in watch(config.manifests, stop):
        for problem in batch.problems:
            if problem not in source.problems:
                log.warning("problem", **msgspec.structs.asdict(problem))
        source.problems = batch.problems
        driver.changed(batch.changes, at_once=not loaded.is_set())
        loaded.set()
