"""What serves files over xDS, below the service that carries it: files → core, and what is beside.

`reconciler xds serve` is these parts on a port of their own (`app`), `reconciler server` has them
beside its agents (`beside`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

import grpc.aio
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

from reconciler import local
from reconciler.config import Address
from reconciler.errors import ConfigError, Rejected, UnavailableError
from reconciler.metrics import Values
from reconciler.server.discovery import push
from reconciler.server.discovery.csds import SERVICE as CSDS
from reconciler.server.discovery.csds import Csds
from reconciler.server.discovery.csds import Source as Clients
from reconciler.server.discovery.driver import Driver
from reconciler.server.discovery.files import Outcome, Watched
from reconciler.server.discovery.polls import Polls
from reconciler.server.discovery.status import Files, of_files

_SERVICES: Final = tuple(
    service.full_name
    for module in (
        ads_pb2, cds_pb2, eds_pb2, lds_pb2, rds_pb2, srds_pb2, rtds_pb2, sds_pb2,
        config_discovery_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)  # fmt: skip
"""Whose descriptors reflection gives."""


class Source(Protocol):
    """Where resources come from."""

    async def first(self) -> Outcome:
        """What there is to begin with."""

    async def follow(self, take: Callable[[Outcome], None]) -> None:
        """Give each change of it, until the stop; what `take` has returned from is in force."""


class Parts:
    """driver: `grpc.Hub` of the xDS methods; polls: what is asked without a stream; files: how
    looks at the files went; more: what is served beside xDS."""

    def __init__(
        self,
        name: str,
        source: Source,
        log: Any,
        *,
        open: bool,
        cluster: str,
        beside: Sequence[Clients] = (),
        **options: Any,
    ) -> None:
        """name: of the source, for problems"""
        self._name, self._source, self._log = name, source, log
        self.driver = Driver(log, **options)
        self.polls = Polls(self.driver, open=open, cluster=cluster)
        self.files = Files()
        self.more = More(*beside, self.driver, open=open)
        self.on_problem: Callable[[Rejected], None] | None = None

    @classmethod
    async def start(
        cls,
        source: str | Address,
        stop: asyncio.Event,
        stack: AsyncExitStack,
        log: Any,
        **options: Any,
    ) -> Parts:
        """As `prepare`, then as `begin`."""
        parts = await cls.prepare(source, stop, stack, log, **options)
        await parts.begin()
        return parts

    @classmethod
    async def prepare(
        cls,
        source: str | Address,
        stop: asyncio.Event,
        stack: AsyncExitStack,
        log: Any,
        *,
        open: bool,
        cluster: str,
        beside: Sequence[Clients] = (),
        **options: Any,
    ) -> Parts:
        """With nothing to serve yet, as long as the stack is. ConfigError: no such source.

        source: a directory, or the address on which resources are given (`push`)
        open: who reaches the clients' port may see what others are served
        cluster: whose nodes' SPIFFE IDs are believed
        beside: other clients of the same port, to be told of too
        options: of `core.discovery.Service`
        """
        given: Source
        if isinstance(source, Address):
            given = await push.listen(source, stop, stack, log)
        else:
            given = await stack.enter_async_context(Watched(source, stop))
        parts = cls(str(source), given, log, open=open, cluster=cluster, beside=beside, **options)
        stack.callback(parts.driver.stop)
        return parts

    async def begin(self) -> None:
        """Serve the first state, once there is one; ConfigError with all that is wrong with it."""
        first = await self._source.first()
        if first.state is None:
            raise ConfigError("\n  ".join([f"{self._name}:", *map(str, first.problems)]))
        self.files.good += 1
        self.driver.changed(first.state)

    def register(self, server: Any) -> None:
        """On the clients' port, beside the streams."""
        self.more.register(server)
        self.polls.register(server)

    def counted(self) -> Values:
        """Values of `families.FILES`."""
        return of_files(self.driver, self.files, self.polls.answered)

    async def follow(self) -> None:
        """Serve what changes, until `stop`; problems go to the log, and to `on_problem`."""
        await self._source.follow(self._take)

    def _take(self, outcome: Outcome) -> None:
        self.files.problems = outcome.problems
        if outcome.state is not None:
            self.files.good += 1
            self.driver.changed(outcome.state)
            self._log.info("serving what has changed", resources=outcome.state.count)
            return
        self.files.bad += 1
        for problem in outcome.problems:
            self._log.warning("resource refused, the last good state stays",
                              problem=str(problem))  # fmt: skip
            if self.on_problem is not None:
                self.on_problem(problem)


class More:
    """Health, CSDS and reflection. open: also the latter two on the clients' port."""

    def __init__(self, *clients: Clients, open: bool) -> None:
        self._health = health.aio.HealthServicer()
        self._csds = Csds(*clients)
        self._open = open

    def register(self, server: Any) -> None:
        """On the clients' port."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._open:
            self._register_open(server)

    async def serving(self, yes: bool) -> None:
        """What health checks are told, of the server and of each service."""
        status = health_pb2.HealthCheckResponse.SERVING
        if not yes:
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *_SERVICES):
            await self._health.set(name, status)

    async def admin(self, address: Address, stack: AsyncExitStack) -> None:
        """All of them on an address of their own, without TLS, as long as the stack is.

        UnavailableError when it can't be had."""
        if address.path:
            local.clear_socket(address.path)
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self._register_open(server)
        try:
            server.add_insecure_port(address.target)
        except RuntimeError:
            raise UnavailableError(f"{address.target}: can't listen there") from None
        await server.start()
        stack.push_async_callback(server.stop, 0.0)

    def _register_open(self, server: Any) -> None:
        self._csds.register(server)
        names = (*_SERVICES, CSDS, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflecting = reflection.aio.ReflectionServicer(names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, server)
