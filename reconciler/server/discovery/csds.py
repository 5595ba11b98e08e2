"""CSDS: what each client was sent, and what it made of it (`envoy.service.status.v3`).

One `ClientConfig` a stream (`client_scope` says which), in it every resource that the stream asks
for: its version, both statuses (`config_status` as the server sees it, `client_status` as the
client answered), and the text and version of a NACK. Matchers choose clients by node id and
metadata.

A `Secret`'s content is never shown; `exclude_resource_contents` leaves out all content.

| in words | config_status | client_status |
|---|---|---|
| acked | SYNCED | ACKED |
| sent, not answered | STALE | REQUESTED |
| refused | ERROR | NACKED |
| not sent yet | NOT_SENT | REQUESTED |
| asked for by name, and there is none | NOT_SENT | DOES_NOT_EXIST |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

import grpc.aio
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from google.protobuf import json_format

from reconciler.core.discovery.types import SDS, ClientState, ResourceState
from reconciler.core.labels.re2 import compile_re2
from reconciler.core.resources.types import Resource
from reconciler.errors import ProtocolError
from reconciler.probe.services import message_name

SERVICE: Final = csds_pb2.DESCRIPTOR.services_by_name["ClientStatusDiscoveryService"].full_name

_ServerSide = csds_pb2.ConfigStatus.Value
_ClientSide = config_dump_shared_pb2.ClientResourceStatus.Value

_STATUSES: Final = {
    "acked": (_ServerSide("SYNCED"), _ClientSide("ACKED")),
    "sent": (_ServerSide("STALE"), _ClientSide("REQUESTED")),
    "nacked": (_ServerSide("ERROR"), _ClientSide("NACKED")),
    "waiting": (_ServerSide("NOT_SENT"), _ClientSide("REQUESTED")),
    "absent": (_ServerSide("NOT_SENT"), _ClientSide("DOES_NOT_EXIST")),
}

_AT_ONCE: Final = 500
"""Resources that are looked at before others have their turn: a few milliseconds."""


class Source(Protocol):
    """Where streams are kept: `clients` as `core.discovery.Service` has them; `content`: what a
    view's resource is now (view, type URL, name); `unix`: the core's time → Unix time."""

    def clients(self) -> Iterable[ClientState]: ...

    def content(self, view: str, type_url: str, name: str) -> Resource | None: ...

    def unix(self, seconds: float) -> float: ...


class Csds(csds_pb2_grpc.ClientStatusDiscoveryServiceServicer):  # type: ignore[misc]
    """sources: whose clients are told of."""

    def __init__(self, *sources: Source) -> None:
        self._sources = sources

    def register(self, server: grpc.aio.Server) -> None:
        csds_pb2_grpc.add_ClientStatusDiscoveryServiceServicer_to_server(self, server)

    async def FetchClientStatus(self, request: Any, context: Any) -> Any:
        """The status now."""
        try:
            return await self.answer(request)
        except ProtocolError as error:
            await context.abort(grpc.StatusCode[error.status], error.reason)

    async def StreamClientStatus(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        """The status at each request."""
        async for request in requests:
            yield await self.FetchClientStatus(request, context)

    async def answer(self, request: Any) -> Any:
        """A ClientStatusResponse; ProtocolError INVALID_ARGUMENT for what can't match.

        Of many clients it is long: others are served while it is made.
        """
        try:
            matchers = [_node_matcher(each) for each in request.node_matchers]
        except ValueError as error:
            raise ProtocolError("INVALID_ARGUMENT", str(error)) from None
        response = csds_pb2.ClientStatusResponse()
        since = 0
        contents = not request.exclude_resource_contents
        told = ((source, client) for source in self._sources for client in source.clients())
        for source, client in told:
            since += 1 + sum(len(each.resources) for each in client.types)
            if not matchers or any(holds(client) for holds in matchers):
                self._add(response, source, client, contents)
            if since > _AT_ONCE:
                since = 0
                await asyncio.sleep(0)
        return response

    def _add(self, response: Any, source: Source, client: ClientState, contents: bool) -> None:
        config = response.config.add()
        config.node.id = client.proven or client.node.id
        config.node.cluster = client.node.cluster
        config.node.client_features.extend(sorted(client.node.features))
        if client.node.metadata:
            json_format.ParseDict(dict(client.node.metadata), config.node.metadata)
        of = "ADS" if client.service is None else message_name(client.service)
        config.client_scope = f"stream {client.stream}: {client.variant.value} {of}"
        for state in client.types:
            for resource in state.resources:
                found = config.generic_xds_configs.add(type_url=state.type_url)
                _fill(found, resource, source.unix)
                if contents and state.type_url != SDS:
                    held = source.content(client.view, state.type_url, resource.name)
                    _show(found, state.type_url, resource, held)


def _fill(found: Any, resource: ResourceState, unix: Callable[[float], float]) -> None:
    found.name = resource.name
    found.version_info = resource.version
    found.config_status, found.client_status = _STATUSES[resource.status]
    if resource.updated_at:
        _stamp(found.last_updated, unix(resource.updated_at))
    if resource.status == "nacked":
        found.error_state.details = resource.reason
        found.error_state.version_info = resource.refused_version
        if resource.refused_at:
            _stamp(found.error_state.last_update_attempt, unix(resource.refused_at))


def _show(found: Any, type_url: str, resource: ResourceState, held: Resource | None) -> None:
    """The content, where it is still known: only the newest version is."""
    if held is None:
        return
    if held.version == resource.version:
        found.xds_config.type_url, found.xds_config.value = type_url, held.body
    if resource.status == "nacked" and held.version == resource.refused_version:
        failed = found.error_state.failed_configuration
        failed.type_url, failed.value = type_url, held.body


def _stamp(field: Any, seconds: float) -> None:
    field.FromNanoseconds(int(seconds * 1e9))


# --------------------------------------------------------------------------------- matchers


def _node_matcher(matcher: Any) -> Callable[[ClientState], bool]:
    """ValueError names what is not supported."""
    by_id = _text(matcher.node_id) if matcher.HasField("node_id") else None
    structs = [_struct(each) for each in matcher.node_metadatas]

    def holds(client: ClientState) -> bool:
        if by_id is not None and not by_id(client.proven or client.node.id):
            return False
        return all(each(client.node.metadata) for each in structs)

    return holds


def _text(matcher: Any) -> Callable[[Any], bool]:
    kind = matcher.WhichOneof("match_pattern")
    fold = matcher.ignore_case
    if kind == "safe_regex":
        try:
            pattern = compile_re2(matcher.safe_regex.regex)
        except ValueError as error:
            raise ValueError(f"safe_regex: {error}") from None
        return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None
    tests: Mapping[str, Callable[[str, str], bool]] = {
        "exact": str.__eq__,
        "prefix": str.startswith,
        "suffix": str.endswith,
        "contains": str.__contains__,
    }
    if kind not in tests:
        raise ValueError("a string is matched by exact, prefix, suffix, contains or safe_regex")
    test, wanted = tests[kind], getattr(matcher, kind)
    wanted = wanted.lower() if fold else wanted
    return lambda value: (
        isinstance(value, str) and bool(test(value.lower() if fold else value, wanted))
    )


def _struct(matcher: Any) -> Callable[[Mapping[str, Any]], bool]:
    path = [segment.key for segment in matcher.path]
    value = _value(matcher.value)

    def holds(metadata: Mapping[str, Any]) -> bool:
        at: Any = metadata
        for key in path:
            at = at.get(key, _ABSENT) if isinstance(at, Mapping) else _ABSENT
        return value(at)

    return holds


_ABSENT: Final = object()


def _value(matcher: Any) -> Callable[[Any], bool]:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "null_match":
        return lambda value: value is None
    if kind == "bool_match":
        return lambda value: value is matcher.bool_match
    if kind == "present_match":
        return lambda value: (value is not _ABSENT) is matcher.present_match
    if kind == "string_match":
        return _text(matcher.string_match)
    if kind == "double_match":
        return _number(matcher.double_match)
    if kind == "list_match":
        one = _value(matcher.list_match.one_of)
        return lambda value: isinstance(value, list) and any(map(one, value))
    if kind == "or_match":
        several = [_value(each) for each in matcher.or_match.value_matchers]
        return lambda value: any(each(value) for each in several)
    raise ValueError("a value is matched by null, bool, present, string, double, list or or_match")


def _number(matcher: Any) -> Callable[[Any], bool]:
    exact = matcher.WhichOneof("match_pattern") == "exact"

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if exact:
            return bool(value == matcher.exact)
        return bool(matcher.range.start <= value < matcher.range.end)

    return holds
