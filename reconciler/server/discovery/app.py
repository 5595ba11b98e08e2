"""`reconciler xds serve`, put together: files → core → gRPC, with CSDS, health and reflection.

It listens once the files have been read; files that are wrong then end the process, later the last
good state stays. A stop says so to health checks, ends the streams one after the other
(`--drain`), and serves them until then.

CSDS shows what others are served. So where clients come over TLS, it is not on their port but on
`--admin`, which is for this machine only.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final

import grpc.aio
import structlog
from envoy.service.cluster.v3 import cds_pb2
from envoy.service.discovery.v3 import ads_pb2
from envoy.service.endpoint.v3 import eds_pb2
from envoy.service.extension.v3 import config_discovery_pb2
from envoy.service.listener.v3 import lds_pb2
from envoy.service.route.v3 import rds_pb2, srds_pb2
from envoy.service.runtime.v3 import rtds_pb2
from envoy.service.secret.v3 import sds_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from reconciler import local, tls
from reconciler.config import Address, DiscoveryConfig, parse_address
from reconciler.errors import ConfigError, UnavailableError
from reconciler.server.discovery.csds import SERVICE as CSDS
from reconciler.server.discovery.csds import Csds
from reconciler.server.discovery.driver import Driver
from reconciler.server.discovery.files import Outcome, watch
from reconciler.server.discovery.status import Files, Status
from reconciler.server.rotation import watch_certificate
from reconciler.server.transport import TRANSPORTS

_GRACE_SECONDS: Final = 5.0
"""For the last streams to end at a stop."""

_SERVICES: Final = tuple(
    service.full_name
    for module in (
        ads_pb2, cds_pb2, eds_pb2, lds_pb2, rds_pb2, srds_pb2, rtds_pb2, sds_pb2,
        config_discovery_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)  # fmt: skip
"""Whose descriptors reflection gives."""


async def run(config: DiscoveryConfig, *, ready: Callable[[int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is told the port (0 for a Unix socket).

    Raises ConfigError (also: what is wrong with the files) and UnavailableError.
    """
    log = structlog.get_logger("xds")
    stop = asyncio.Event()
    keys = None
    if not config.insecure:
        keys = tls.KeyFiles(config.tls_cert, config.tls_key, config.tls_ca)
    async with AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)
        outcomes = await stack.enter_async_context(aclosing(watch(config.resources, stop)))
        driver = Driver(
            log,
            response_bytes=config.response_bytes,
            initial_rate=config.initial_rate or None,
        )
        stack.callback(driver.stop)
        files = Files()
        _first(await anext(outcomes), config, driver, files)

        more = _More(driver, open=keys is None)
        service = TRANSPORTS[config.transport](
            driver,
            parse_address(config.listen),
            keys,
            methods=driver.methods(),
            named=False,
            drained=driver.drained,
            options=_options(config),
            add=more.register,
            cluster=config.cluster_name,
            max_stream_age=config.max_stream_age,
            max_streams=config.max_streams,
            refused=lambda peer, status, reason: log.warning(
                "stream refused", peer=peer, status=status, reason=reason
            ),
        )
        driver.serve(service)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        if config.admin:
            await _admin(more, parse_address(config.admin), stack)
        if keys is not None:
            tasks.create_task(watch_certificate(keys, _alarm(log), log, stop), name="certificate")
        status = Status(
            driver,
            files,
            service.traffic,
            service.refused,
            keys.expires if keys is not None else lambda: 0.0,
            lambda: "the server is shutting down" if stop.is_set() else "",
        )
        for where, routes in ((config.status, status.routes), (config.metrics, status.public)):
            if where:
                served = local.serve(routes(), parse_address(where))
                await stack.enter_async_context(served)
        await service.start()
        # From here on everything goes on, health checks too, until the last stream has ended.
        stack.push_async_callback(service.stop, _GRACE_SECONDS, config.drain)
        watching = tasks.create_task(_follow(outcomes, driver, files, log), name="files")
        await more.serving(True)
        log.info("serving", listen=config.listen, port=service.port,
                 resources=driver.state.count)  # fmt: skip
        if ready is not None:
            ready(service.port)

        await stop.wait()
        log.info("stopping", streams=sum(each.streams for each in service.traffic.values()))
        await more.serving(False)
        watching.cancel()


def _first(outcome: Outcome, config: DiscoveryConfig, driver: Driver, files: Files) -> None:
    if outcome.state is None:
        lines = "\n".join(f"  {problem}" for problem in outcome.problems)
        raise ConfigError(f"{config.resources}:\n{lines}")
    files.good += 1
    driver.changed(outcome.state)


async def _follow(outcomes: AsyncIterator[Outcome], driver: Driver, files: Files, log: Any) -> None:
    async for outcome in outcomes:
        files.problems = outcome.problems
        if outcome.state is None:
            files.bad += 1
            for problem in outcome.problems:
                log.warning("resource refused, the last good state stays", problem=str(problem))
        else:
            files.good += 1
            driver.changed(outcome.state)
            log.info("serving what has changed", resources=outcome.state.count)


def _options(config: DiscoveryConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.keepalive_time_ms", int(config.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(config.keepalive_timeout * 1000)),
    ]


def _alarm(log: Any) -> Callable[[str, str, str], None]:
    return lambda kind, object, text: log.warning("alarm", kind=kind, object=object, text=text)


class _More:
    """What is served beside xDS. open: also on the clients' port, where all may see everything."""

    def __init__(self, driver: Driver, *, open: bool) -> None:
        self._health = health.aio.HealthServicer()
        self._csds = Csds(driver.clients, driver.content, driver.unix)
        self._open = open

    def register(self, server: grpc.aio.Server) -> None:
        """On the clients' port."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._open:
            self.register_open(server)

    def register_open(self, server: grpc.aio.Server) -> None:
        self._csds.register(server)
        names = (*_SERVICES, CSDS, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflecting = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, server)

    def register_admin(self, server: grpc.aio.Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.register_open(server)

    async def serving(self, yes: bool) -> None:
        """What health checks are told, of the server and of each service."""
        status = health_pb2.HealthCheckResponse.SERVING
        if not yes:
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *_SERVICES):
            await self._health.set(name, status)


async def _admin(more: _More, address: Address, stack: AsyncExitStack) -> None:
    if address.path:
        local.clear_socket(address.path)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    more.register_admin(server)
    try:
        server.add_insecure_port(address.target)
    except RuntimeError:
        raise UnavailableError(f"{address.target}: can't listen there") from None
    await server.start()
    stack.push_async_callback(server.stop, 0.0)
