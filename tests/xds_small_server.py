"""A small xDS server of both variants that can be told to be wrong, each way by a name.

It is what the conformance suite's scenarios are tried on: without a fault all must pass, and each
fault must be caught by the scenario that is meant to. It is written for that alone: it computes
every stream's diff anew, and keeps what it sent in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from typer.testing import CliRunner

from reconciler.cli import build
from reconciler.probe.messages import name_of, unwrap
from reconciler.probe.services import AGGREGATED, FULL_STATE, OWN
from reconciler.testing.conformance.adapters import NotSupported
from tests.packing import pack

METHODS: Final = {
    f"/{service.name}/{method}": (method.startswith("Delta"), service.type_url)
    for service in (AGGREGATED, *OWN.values())
    for method in (service.sotw, service.delta)
    if method
}
ORDER: Final = [OWN[name].type_url for name in ("CDS", "EDS", "LDS", "RDS")]
TTL: Final = "xds.config.supports-resource-ttl"
SOTW_TTL: Final = "xds.config.supports-resource-in-sotw"

FAULTS: Final = frozenset(
    (
        "a name twice",
        "absent names unsaid",
        "all names",
        "delta requests have stale nonces",
        "initial removals unsaid",
        "initial versions unread",
        "left beside star is no question",
        "nack sent again",
        "nack told by version",
        "names that are not there forgotten",
        "no heartbeats",
        "no names is everything",
        "no nonce",
        "no version",
        "one subscription for all streams",
        "one writer for all",
        "part of the state",
        "removals and additions in any order",
        "removals unsaid",
        "resubscribing does nothing",
        "sent twice",
        "stale nonces count",
        "star is a name",
        "star takes names with it",
        "ttl to all",
        "unsubscribing does nothing",
        "versions of a run",
        "versions of streams before",
        "wildcard of the beginning",
    )
)


class Kept:
    """One resource. ttl: seconds"""

    def __init__(self, body: any_pb2.Any, ttl: float | None) -> None:
        self.body, self.ttl = body, ttl
        self.version = hashlib.sha256(body.value + str(ttl).encode()).hexdigest()[:12]


class Subscription:
    """One type on one stream. sent: name → version that the client was sent (or says it has)"""

    def __init__(self) -> None:
        self.asked = self.named = self.star = False
        self.names: set[str] = set()
        self.sent: dict[str, str] = {}
        self.nonce = self.version = ""
        self.ever: set[str] = set()  # names that were ever sent

    def wants(self, name: str) -> bool:
        return self.star or name in self.names


class Open:
    def __init__(self, delta: bool) -> None:
        self.delta = delta
        self.types: dict[str, Subscription] = {}
        self.features: set[str] = set()
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.last: dict[str, Any] = {}
        self.first = True


class SmallServer:
    """Also the adapter of itself."""

    def __init__(self, faults: Iterable[str] = (), *, ttl: bool = True) -> None:
        self.faults = frozenset(faults)
        assert self.faults <= FAULTS
        self.methods: Mapping[str, tuple[bool, str]] = METHODS
        self.state: dict[str, dict[str, Kept]] = {}
        self.streams: list[Open] = []
        self.requests: list[Any] = []
        self.requested = asyncio.Event()
        self.restarts = True
        self._ttl = ttl
        self._nonces = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self.salt = ""

    # ------------------------------------------------------------------------------- adapter

    async def __aenter__(self) -> SmallServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def put(self, resources: Sequence[Mapping[str, Any]]) -> None:
        state: dict[str, dict[str, Kept]] = {}
        for each in resources:
            any_, ttl = pack(dict(each)), None
            wrapper = unwrap(any_)
            if wrapper is not None:
                if not self._ttl:
                    raise NotSupported("no times to live")
                any_, ttl = wrapper.resource, wrapper.ttl.ToNanoseconds() / 1e9
            name = name_of(any_)
            assert isinstance(name, str)
            state.setdefault(any_.type_url, {})[name] = Kept(any_, ttl)
        self.state = state
        order = ORDER[::-1] if "removals and additions in any order" in self.faults else ORDER
        for stream in list(self.streams):
            for type_url in sorted(stream.types, key=lambda t: order.index(t) if t in order else 9):
                self._publish(stream, type_url, stream.types[type_url])

    async def restart(self) -> None:
        if not self.restarts:
            raise NotSupported("not restarted")
        if "versions of a run" in self.faults:
            self.salt += "x"
        for stream in list(self.streams):
            stream.queue.put_nowait(b"")
        while self.streams:
            await asyncio.sleep(0)

    # ------------------------------------------------------------------------------- streams

    def service(self, details: Any) -> Any:
        if details.method not in self.methods:
            return None
        delta, own = self.methods[details.method]

        async def serve(_: object, context: Any) -> None:
            await self._serve(context, delta, own)

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _serve(self, context: Any, delta: bool, own: str) -> None:
        stream = Open(delta)
        self.streams.append(stream)
        reader = asyncio.create_task(self._read(stream, context, delta, own))
        try:
            while frame := await stream.queue.get():
                if "one writer for all" in self.faults:
                    async with self._lock:
                        await context.write(frame)
                else:
                    await context.write(frame)
        finally:
            self.streams.remove(stream)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, stream: Open, context: Any, delta: bool, own: str) -> None:
        kind: Any = discovery_pb2.DeltaDiscoveryRequest if delta else discovery_pb2.DiscoveryRequest
        while (frame := await context.read()) is not grpc.aio.EOF:
            request = kind.FromString(frame)
            self.requests.append(request)
            self.requested.set()
            if stream.first:
                stream.features = set(request.node.client_features)
                stream.first = False
            type_url = request.type_url or own
            if "one subscription for all streams" in self.faults:
                shared = self.streams[0].types
                stream.types = shared
            subscription = stream.types.setdefault(type_url, Subscription())
            (self._delta if delta else self._sotw)(stream, type_url, subscription, request)
            if "sent twice" in self.faults and type_url in stream.last:
                stream.queue.put_nowait(stream.last[type_url].SerializeToString())
        stream.queue.put_nowait(b"")

    def _delta(self, stream: Open, type_url: str, sub: Subscription, request: Any) -> None:
        faults, there = self.faults, self.state.get(type_url, {})
        stale = request.response_nonce and request.response_nonce != sub.nonce
        if stale and "delta requests have stale nonces" in faults:
            return
        first, sub.asked = not sub.asked, True
        added, gone = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
        if first:
            if "initial versions unread" not in faults:
                sub.sent = dict(request.initial_resource_versions)
            if not added and not gone:
                sub.star = True
        if "*" in added and "star is a name" not in faults:
            sub.star = True
            added.discard("*")
        resend = set() if first else set(added)
        if "resubscribing does nothing" in faults:
            resend -= set(sub.sent)
        if "unsubscribing does nothing" in faults:
            gone = set()
        sub.names |= added
        sub.named = sub.named or bool(added)
        if "*" in gone:
            sub.star = False
            gone.discard("*")
            if "star takes names with it" in faults:
                sub.names.clear()
        sub.names -= gone
        if sub.star and "left beside star is no question" not in faults:
            resend |= gone
        if "no names is everything" in faults and not sub.names:
            sub.star = True
        sub.sent = {n: v for n, v in sub.sent.items() if sub.wants(n) or n in added}
        removed = {n for n in (*sub.sent, *added, *resend) if n not in there}
        if "absent names unsaid" in faults:
            removed &= set(sub.sent)
        if first and "initial removals unsaid" in faults:
            sub.sent = {n: v for n, v in sub.sent.items() if n in there}
            removed -= set(request.initial_resource_versions)
        if request.HasField("error_detail") and "nack sent again" in faults:
            resend |= set(sub.sent)
        put = {
            n: kept
            for n, kept in there.items()
            if (sub.wants(n) or "all names" in faults)
            and (n in resend or self._version(kept) != sub.sent.get(n))
        }
        self._send_delta(stream, type_url, sub, put, removed)

    def _sotw(self, stream: Open, type_url: str, sub: Subscription, request: Any) -> None:
        faults, there = self.faults, self.state.get(type_url, {})
        nonce = request.response_nonce
        if nonce and nonce != sub.nonce and "stale nonces count" not in faults:
            return
        first, sub.asked = not sub.asked, True
        names = set(request.resource_names)
        legacy = not names and (not sub.named or "no names is everything" in faults)
        sub.named = sub.named or bool(names)
        star = legacy or ("*" in names and "star is a name" not in faults)
        if "unsubscribing does nothing" in faults:
            names |= sub.names
            star = star or sub.star
        before = {n for n in there if sub.wants(n)}
        sub.star, sub.names = star, names - {"*"}
        new = {n for n in there if sub.wants(n)} - before
        if "resubscribing does nothing" in faults:
            new -= sub.ever
        else:
            sub.sent = {n: v for n, v in sub.sent.items() if sub.wants(n)}
        again = request.HasField("error_detail") and "nack sent again" in faults
        if "nack told by version" in faults and nonce:
            again = again or request.version_info != sub.version
        unchanged = request.version_info == self._whole(type_url)
        if first and unchanged and "versions of streams before" in faults:
            return
        if first or new or again:
            if type_url in FULL_STATE and "part of the state" not in faults:
                new = {n for n in there if sub.wants(n)}
            if again:
                new |= set(sub.sent) & set(there)
            if new or first:
                self._send_sotw(stream, type_url, sub, new)

    def _publish(self, stream: Open, type_url: str, sub: Subscription) -> None:
        there, faults = self.state.get(type_url, {}), self.faults
        everything = {n for n in there if sub.wants(n)}
        if "wildcard of the beginning" in faults and sub.star:
            everything &= set(sub.sent) | sub.names
        if "all names" in faults:
            everything = set(there)
        if "names that are not there forgotten" in faults:
            everything &= set(sub.sent)
        changed = {n for n in everything if self._version(there[n]) != sub.sent.get(n)}
        removed = sub.sent.keys() - set(there)
        if "removals unsaid" in faults and not stream.delta:
            removed = set()
        if stream.delta:
            put = {n: there[n] for n in changed}
            self._send_delta(stream, type_url, sub, put, {n for n in removed if sub.wants(n)})
        elif type_url in FULL_STATE and "part of the state" not in faults:
            if changed or removed:
                self._send_sotw(stream, type_url, sub, everything)
        else:
            sub.sent = {n: v for n, v in sub.sent.items() if n in there}
            if changed:
                self._send_sotw(stream, type_url, sub, changed)

    # ----------------------------------------------------------------------------- responses

    def _version(self, kept: Kept) -> str:
        return kept.version + self.salt

    def _whole(self, type_url: str) -> str:
        """The version of all resources of a type."""
        versions = sorted(self._version(kept) for kept in self.state.get(type_url, {}).values())
        return hashlib.sha256("".join(versions).encode()).hexdigest()[:12]

    def _send_delta(
        self,
        stream: Open,
        type_url: str,
        sub: Subscription,
        put: Mapping[str, Kept],
        removed: Iterable[str],
    ) -> None:
        if "removals unsaid" in self.faults:
            removed = set(removed) - set(sub.sent)
        removed = sorted(removed)
        if not put and not removed:
            return
        response = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url)
        for name, kept in put.items():
            version = self._version(kept)
            each = response.resources.add(name=name, version=version, resource=kept.body)
            if kept.ttl is not None and (TTL in stream.features or "ttl to all" in self.faults):
                each.ttl.FromNanoseconds(int(kept.ttl * 1e9))
                self._heartbeat(stream, type_url, name, kept)
            sub.sent[name] = version
        for name in removed:
            sub.sent.pop(name, None)
        response.removed_resources.extend(removed)
        self._send(stream, type_url, sub, response)

    def _send_sotw(
        self, stream: Open, type_url: str, sub: Subscription, names: Iterable[str]
    ) -> None:
        there = self.state.get(type_url, {})
        response = discovery_pb2.DiscoveryResponse(type_url=type_url)
        response.version_info = sub.version = self._whole(type_url)
        sub.sent = {} if type_url in FULL_STATE else sub.sent
        for name in names:
            kept = there[name]
            sub.sent[name] = self._version(kept)
            sub.ever.add(name)
            if kept.ttl is None or not {TTL, SOTW_TTL} <= stream.features:
                response.resources.add().CopyFrom(kept.body)
                continue
            wrapped = discovery_pb2.Resource(name=name, version=kept.version, resource=kept.body)
            wrapped.ttl.FromNanoseconds(int(kept.ttl * 1e9))
            response.resources.add().Pack(wrapped)
            self._heartbeat(stream, type_url, name, kept)
        self._send(stream, type_url, sub, response)

    def _heartbeat(self, stream: Open, type_url: str, name: str, kept: Kept) -> None:
        if "no heartbeats" in self.faults:
            return
        assert kept.ttl is not None

        async def beat(seconds: float) -> None:
            while stream in self.streams and self.state.get(type_url, {}).get(name) is kept:
                await asyncio.sleep(seconds)
                each = discovery_pb2.Resource(name=name, version=self._version(kept))
                each.ttl.FromNanoseconds(int(seconds * 2e9))
                sub = stream.types[type_url]
                if stream.delta:
                    delta = discovery_pb2.DeltaDiscoveryResponse(type_url=type_url)
                    delta.resources.add().CopyFrom(each)
                    self._send(stream, type_url, sub, delta)
                    continue
                sotw = discovery_pb2.DiscoveryResponse(type_url=type_url, version_info=sub.version)
                each.version = kept.version
                sotw.resources.add().Pack(each)
                self._send(stream, type_url, sub, sotw)

        task = asyncio.create_task(beat(kept.ttl / 2))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self, stream: Open, type_url: str, sub: Subscription, response: Any) -> None:
        faults = self.faults
        if "no nonce" not in faults:
            response.nonce = sub.nonce = f"nonce-{next(self._nonces)}"
        if "no version" in faults and stream.delta:
            for each in response.resources:
                each.version = ""
        elif "no version" in faults:
            response.version_info = ""
        if "a name twice" in faults and response.resources:
            response.resources.add().CopyFrom(response.resources[0])
        stream.last[type_url] = response
        stream.queue.put_nowait(response.SerializeToString())

    def stop_heartbeats(self) -> None:
        for task in self._tasks:
            task.cancel()


@asynccontextmanager
async def small_server(
    faults: Iterable[str] = (), *, ttl: bool = True
) -> AsyncIterator[tuple[SmallServer, int]]:
    """One that listens on a port of loopback."""
    small = SmallServer(faults, ttl=ttl)
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((small,))  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield small, port
    finally:
        small.stop_heartbeats()
        await server.stop(0)


async def xds_cli(*arguments: str) -> tuple[int, str, str]:
    """`reconciler xds ...` on a thread, as this loop serves it: exit code, and both outputs."""
    done = await asyncio.to_thread(CliRunner().invoke, build(), ["xds", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr
