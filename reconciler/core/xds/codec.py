"""Delta xDS frames: bytes to plain values and back, with every resource serialised once.

A response is joined from bytes that were made when the resource was (protobuf allows a message to
be concatenated from its encoded fields), so streams that need the same response share one object.
Its nonce is a hash of what it says: the same nonce never means two things, on any stream of any
server, and an ACK of it is known by comparing bytes.

Field numbers are those of envoy/service/discovery/v3/discovery.proto and google/protobuf/any.proto.
"""

from __future__ import annotations

import hashlib
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import msgspec
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2

from reconciler.core.resources.encode import rejection
from reconciler.core.resources.parts import Part
from reconciler.core.resources.types import COMMIT, ENDPOINT, Resource
from reconciler.core.xds.kept import Kept
from reconciler.errors import ProtocolError, Refusal
from reconciler.wire import resources_pb2 as pb

MAX_RESPONSE: Final = 1 << 20
"""Bytes of resources and removals in one response; a quarter of gRPC's default limit for a
message."""

MAX_NAMES: Final = 100_000
"""Names in one request. More than any node view holds; a request beyond it is refused."""

_KEPT_BYTES: Final = 64 << 20
"""Responses that are kept to be shared: enough for several cuts that are under way at once."""

OWN: Final = frozenset({ENDPOINT, COMMIT})
"""Types whose resources are served to one node only."""

INSTANCE: Final = "instance"
"""Key of a node's metadata: another value means another process."""

_KEPT_ACKS: Final = 4096
_KEPT_ENTRIES: Final = 1 << 16


class Request(msgspec.Struct, frozen=True):
    """A DeltaDiscoveryRequest, or a DiscoveryRequest. node: its id, "" when not said.

    instance: which process of the node asks, `node.metadata["instance"]`; "" when not said
    initial: name → version that the client has; error: text of a NACK, None for none
    refusal: what our agents add to the text
    names:   of a DiscoveryRequest, in place of the two lists: all that the client asks for
    version: of a DiscoveryRequest: that of the last response that the client has accepted
    """

    type_url: str
    node: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: dict[str, str] = {}
    nonce: str = ""
    error: str | None = None
    refusal: Refusal | None = None
    names: tuple[str, ...] = ()
    version: str = ""
    instance: str = ""


class Received(msgspec.Struct, frozen=True):
    """One resource of a response, as a client gets it; body: bytes of the resource's message."""

    name: str
    version: str
    body: bytes


class Response(msgspec.Struct, frozen=True):
    """A DeltaDiscoveryResponse as a client reads it."""

    type_url: str
    nonce: str
    resources: tuple[Received, ...]
    removed: tuple[str, ...]


class Frame(msgspec.Struct, frozen=True):
    """An encoded response and the nonce that answers it."""

    type_url: str
    nonce: str
    data: bytes
    resources: int


# ------------------------------------------------------------------------------------- requests


def decode_request(data: bytes, max_names: int = MAX_NAMES) -> Request:
    """ProtocolError: INVALID_ARGUMENT for what is not a request or gives too many names,
    UNIMPLEMENTED for resource locators."""
    message = discovery_pb2.DeltaDiscoveryRequest()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError("INVALID_ARGUMENT", f"not a DeltaDiscoveryRequest: {error}") from None
    names = len(message.resource_names_subscribe) + len(message.resource_names_unsubscribe)
    if names > max_names or len(message.initial_resource_versions) > max_names:
        raise ProtocolError("INVALID_ARGUMENT", f"{message.type_url}: more than {max_names} names")
    if message.resource_locators_subscribe or message.resource_locators_unsubscribe:
        raise no_locators(message.type_url)
    failed = message.HasField("error_detail")
    return Request(
        type_url=sys.intern(message.type_url),  # kept with each stream
        node=message.node.id,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message if failed else None,
        refusal=refusal_of(message.error_detail) if failed else None,
        instance=_instance(message.node) if message.HasField("node") else "",
    )


def encode_request(request: Request) -> bytes:
    message = discovery_pb2.DeltaDiscoveryRequest(
        type_url=request.type_url,
        resource_names_subscribe=request.subscribe,
        resource_names_unsubscribe=request.unsubscribe,
        initial_resource_versions=request.initial,
        response_nonce=request.nonce,
    )
    if request.node:
        message.node.id = request.node
    if request.instance:
        message.node.metadata[INSTANCE] = request.instance
    if request.error is not None or request.refusal is not None:
        message.error_detail.code = code_pb2.INVALID_ARGUMENT
        message.error_detail.message = request.error or ""
        if request.refusal is not None:
            message.error_detail.details.add().Pack(rejection(request.refusal))
    data: bytes = message.SerializeToString(deterministic=True)
    return data


@lru_cache(maxsize=_KEPT_ACKS)
def ack(type_url: str, nonce: str) -> bytes:
    """The bytes of a plain ACK: what a client sends that has nothing else to say."""
    return encode_request(Request(type_url=type_url, nonce=nonce))


def no_locators(type_url: str) -> ProtocolError:
    """Without its locators such a request would read as one for everything."""
    reason = f"{type_url}: resource locators are not served; subscribe to names"
    return ProtocolError("UNIMPLEMENTED", reason)


def _instance(node: base_pb2.Node) -> str:
    """Only a string counts."""
    found: str = node.metadata.fields[INSTANCE].string_value if INSTANCE in node.metadata else ""
    return found


def refusal_of(status: status_pb2.Status) -> Refusal | None:
    for detail in status.details:
        found = pb.Rejection()
        if detail.Is(found.DESCRIPTOR):
            try:
                detail.Unpack(found)
            except DecodeError:
                return None
            return Refusal(found.type_url, found.name, found.reason, found.needed, found.limit)
    return None


# ------------------------------------------------------------------------------------ responses


def varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


_TAGS: Final = tuple(varint(number << 3 | 2) for number in range(16))
"""Of length-delimited fields."""

_SHORT: Final = tuple(varint(value) for value in range(1 << 14))
"""Lengths of nearly all fields."""


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field. number: below 16"""
    size = len(data)
    return _TAGS[number] + (_SHORT[size] if size < len(_SHORT) else varint(size)) + data


@lru_cache(maxsize=64)
def type_field(type_url: str) -> bytes:
    return field(1, type_url.encode())


def any_of(resource: Resource) -> bytes:
    """An `Any` {type_url: 1, value: 2}."""
    data = type_field(resource.type_url)
    return data + field(2, resource.body) if resource.body else data


def inner(resource: Resource, ttl: bytes = b"", *, body: bool = True) -> bytes:
    """A `Resource` {version: 1, resource: Any = 2, name: 3, ttl: 6}. ttl: the whole field"""
    said = field(1, resource.version.encode())
    if body:
        said += field(2, any_of(resource))
    return said + field(3, resource.name.encode()) + ttl


def runs(sizes: Iterable[int], limit: int) -> Iterator[tuple[int, int]]:
    """Where the responses begin and end that items of these sizes go in, in their order: each has
    as many as are within the limit, or one that is larger."""
    begin = end = total = 0
    for size in sizes:
        if end > begin and total + size > limit:
            yield begin, end
            begin, total = end, 0
        total += size
        end += 1
    if end > begin:
        yield begin, end


def sealed(type_url: str, fields: Iterable[bytes], said: int) -> Frame:
    """A response of these fields, and its nonce, which is a hash of them.

    said: how many resources it has, and names of others that are gone
    """
    body = b"".join(fields)
    nonce = urlsafe_b64encode(hashlib.sha256(body).digest()[:12]).decode()
    return Frame(type_url, nonce, body + field(5, nonce.encode()), said)


class Encoder:
    """Joins responses and keeps the latest ones, to be shared by all streams that need the same."""

    def __init__(self, limit: int = MAX_RESPONSE, keep: int = _KEPT_BYTES) -> None:
        """limit: bytes a response; keep: bytes of responses, and of resources."""
        self._limit = limit
        self._wrapped: Kept[tuple[str, str, str], bytes] = Kept(keep, _KEPT_ENTRIES)
        self._frames: Kept[tuple[str, bytes], tuple[Frame, ...]] = Kept(keep, _KEPT_ENTRIES)

    def frames(
        self, type_url: str, resources: Sequence[Resource], removed: Sequence[str] = ()
    ) -> tuple[Frame, ...]:
        """One response, or several where one would pass the limit. None of both: no response."""
        return self.joined(Part(type_url, tuple(resources), tuple(removed)))

    def joined(self, part: Part) -> tuple[Frame, ...]:
        """The same, of a part that others may have asked for already.

        Of types that are each node's own nothing is kept: there is nobody to share it with.
        """
        if part.type_url in OWN:
            return tuple(self._make(part))
        key = (part.type_url, part.digest)
        found = self._frames.get(key)
        if found is None:
            found = tuple(self._make(part))
            self._frames.put(key, found, sum(len(frame.data) for frame in found))
        return found

    def _make(self, part: Part) -> Iterator[Frame]:
        """Resources first, then what is gone."""
        put = [self._wrap(each) for each in part.put]
        gone = [field(6, name.encode()) for name in part.removed]
        named = field(4, part.type_url.encode())
        for begin, end in runs(map(len, (*put, *gone)), self._limit):
            removed = gone[max(0, begin - len(put)) : max(0, end - len(put))]
            yield sealed(part.type_url, (*put[begin:end], named, *removed), end - begin)

    def _wrap(self, resource: Resource) -> bytes:
        key = (resource.type_url, resource.name, resource.version)
        data = self._wrapped.get(key)
        if data is None:
            data = field(2, inner(resource))
            if resource.type_url not in OWN:
                self._wrapped.put(key, data, len(data))
        return data


def decode_response(data: bytes) -> Response:
    """ProtocolError INVALID_ARGUMENT for what is not a response, or repeats a name."""
    message = discovery_pb2.DeltaDiscoveryResponse()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError("INVALID_ARGUMENT", f"not a DeltaDiscoveryResponse: {error}") from None
    for each in message.resources:
        if each.resource.type_url != message.type_url:
            raise ProtocolError(
                "INVALID_ARGUMENT",
                f"{message.type_url}: resource {each.name} is a {each.resource.type_url}",
            )
    names = [each.name for each in message.resources] + list(message.removed_resources)
    if len(set(names)) != len(names):
        raise ProtocolError("INVALID_ARGUMENT", f"{message.type_url}: a name comes twice")
    return Response(
        type_url=message.type_url,
        nonce=message.nonce,
        resources=tuple(
            Received(each.name, each.version, each.resource.value) for each in message.resources
        ),
        removed=tuple(message.removed_resources),
    )
