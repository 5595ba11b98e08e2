"""Requests without a stream: the unary `Fetch...` methods of the types' own services, and the same
as JSON over HTTP/1.1 (xDS protocol, "REST-JSON polling subscriptions").

    POST /v3/discovery:clusters    a DiscoveryRequest; 200: a DiscoveryResponse, 304: as before

Each is answered with all that it asks for, at once: there is no nonce, and no order among types.
Who polls over gRPC is sent it again each time, since there is no status for "as before". A refusal
(`error_detail`) is read over: there is no stream to remember it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import grpc.aio
import msgspec
from aiohttp import web
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format

from reconciler import local
from reconciler.core.discovery.service import Polled
from reconciler.core.xds.kept import Kept
from reconciler.errors import ProtocolError
from reconciler.probe.services import OWN, Service
from reconciler.server.proofs import prove

_KEPT_JSON: Final = 32 << 20
_KEPT_RESPONSES: Final = 256
_STATUS: Final = {"RESOURCE_EXHAUSTED": 413, "UNAVAILABLE": 503}
"""HTTP's, by gRPC's; 400 for all others: the request's fault."""


class Source(Protocol):
    def poll(self, type_url: str, request: bytes, node: str) -> Polled:
        """See `driver.Driver.poll`."""


class Polls:
    """answered: requests that were answered, by method or path"""

    def __init__(self, source: Source, *, open: bool, cluster: str) -> None:
        """open: who asks over gRPC is believed, else it must prove a node of the cluster."""
        self._source = source
        self._open, self._cluster = open, cluster
        self._json: Kept[bytes, bytes] = Kept(_KEPT_JSON, _KEPT_RESPONSES)
        self.answered: Counter[str] = Counter()

    def register(self, server: Any) -> None:
        """At a grpc.aio server, or what stands for one."""
        for service in OWN.values():
            if service.fetch:
                handler: Any = grpc.unary_unary_rpc_method_handler(self._fetcher(service))
                handlers = {service.fetch: handler}
                generic = grpc.method_handlers_generic_handler(service.name, handlers)
                server.add_generic_rpc_handlers((generic,))

    def routes(self) -> dict[str, local.Handler]:
        return {f"POST {each.path}": self._poster(each) for each in OWN.values() if each.path}

    def _fetcher(self, service: Service) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def fetch(request: bytes, context: Any) -> bytes:
            try:
                node = ""
                if not self._open:
                    node = (await prove(context, self._cluster, None, time.time)).node
                frame = self._source.poll(service.type_url, request, node).frame
            except ProtocolError as error:
                await context.abort(grpc.StatusCode[error.status], error.reason)
            self.answered[service.fetch] += 1
            return frame

        return fetch

    def _poster(self, service: Service) -> local.Handler:
        async def post(request: web.Request) -> web.StreamResponse:
            body = await request.read()
            try:
                asked = await local.reading(_read, body)
                polled = self._source.poll(service.type_url, asked, "")
            except (json_format.ParseError, ValueError, RecursionError) as error:
                return local.json({"error": f"not a DiscoveryRequest: {error}"}, 400)
            except ProtocolError as error:
                return local.json({"error": error.reason}, _STATUS.get(error.status, 400))
            self.answered[service.path] += 1
            if not polled.new:
                return web.Response(status=304)
            written = self._json.get(polled.frame)
            if written is None:
                written = await asyncio.to_thread(_written, polled.frame)
                self._json.put(polled.frame, written, len(polled.frame) + len(written))
            return web.Response(body=written, content_type=local.JSON_TYPE)

        return post


def _read(body: bytes) -> bytes:
    """A DiscoveryRequest; fields of a later version of the protocol are none of ours.

    ValueError, RecursionError or json_format.ParseError: it is none.
    """
    found = msgspec.json.decode(body, type=dict[str, Any])
    for refusal in ("error_detail", "errorDetail"):
        found.pop(refusal, None)  # may be of any type
    request = discovery_pb2.DiscoveryRequest()
    json_format.ParseDict(found, request, ignore_unknown_fields=True)
    data: bytes = request.SerializeToString()
    return data


def _written(frame: bytes) -> bytes:
    """A DiscoveryResponse as JSON. All types in it are known: its resources were checked."""
    response = discovery_pb2.DiscoveryResponse.FromString(frame)
    return json_format.MessageToJson(response, indent=None).encode()
