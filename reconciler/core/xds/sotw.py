"""State-of-the-world xDS frames: bytes to the values of the delta variant and back.

A DiscoveryRequest becomes the same `Request`, whose `names` are the whole list that the client
asks for. A DiscoveryResponse is joined from bytes that were made once a resource, as in delta.

version_info is a hash over (name, version) of everything that the client's subscription holds, not
a counter: every replica says the same, so a client that reconnects to another one with the version
of what is there need not be sent it again. Of the responses that only together say it all (types
whose responses need not be complete may be split) none but the last one has it: whoever was cut off
in between has not got that version.

Field numbers are those of envoy/service/discovery/v3/discovery.proto.
"""

from __future__ import annotations

import hashlib
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Sequence
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from reconciler.core.resources.types import Resource
from reconciler.core.xds.codec import (
    MAX_NAMES,
    Frame,
    Received,
    Request,
    Response,
    field,
    no_locators,
    refusal_of,
    type_field,
)
from reconciler.errors import ProtocolError


def decode_request(data: bytes, max_names: int = MAX_NAMES) -> Request:
    """ProtocolError: as `codec.decode_request`."""
    message = discovery_pb2.DiscoveryRequest()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ProtocolError("INVALID_ARGUMENT", f"not a DiscoveryRequest: {error}") from None
    if len(message.resource_names) > max_names:
        raise ProtocolError("INVALID_ARGUMENT", f"{message.type_url}: more than {max_names} names")
    if message.resource_locators:
        raise no_locators(message.type_url)
    failed = message.HasField("error_detail")
    return Request(
        type_url=sys.intern(message.type_url),
        node=message.node.id,
        nonce=message.response_nonce,
        error=message.error_detail.message if failed else None,
        refusal=refusal_of(message.error_detail) if failed else None,
        names=tuple(message.resource_names),
        version=message.version_info,
    )


def encode_request(request: Request) -> bytes:
    message = discovery_pb2.DiscoveryRequest(
        version_info=request.version,
        resource_names=request.names,
        type_url=request.type_url,
        response_nonce=request.nonce,
    )
    if request.node:
        message.node.id = request.node
    if request.error is not None:
        message.error_detail.code = code_pb2.INVALID_ARGUMENT
        message.error_detail.message = request.error
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def wrap(resource: Resource) -> bytes:
    """Field `resources` (2) of a response: an Any {type_url: 1, value: 2}."""
    data = type_field(resource.type_url)
    if resource.body:
        data += field(2, resource.body)
    return field(2, data)


def version_of(held: Iterable[tuple[str, str]], *, wildcard: bool) -> str:
    """version_info of a subscription. held: (name, version), by ascending name; wildcard: it is to
    everything (whoever had the same by name may not say that it has all there is)"""
    total = hashlib.sha256(b"*" if wildcard else b"")
    for name, version in held:
        total.update(f"{len(name)} {name} {version}\n".encode())
    return urlsafe_b64encode(total.digest()[:12]).decode()


def join(type_url: str, version: str, wrapped: Sequence[bytes]) -> Frame:
    """A response of resources that are wrapped already; its nonce is a hash of what it says."""
    body = b"".join((field(1, version.encode()), *wrapped, field(4, type_url.encode())))
    nonce = urlsafe_b64encode(hashlib.sha256(body).digest()[:12]).decode()
    return Frame(type_url, nonce, body + field(5, nonce.encode()), len(wrapped))


def decode_response(data: bytes) -> tuple[str, Response]:
    """version_info, and the response as a client reads it: what is in it has no names of its own,
    unless it is wrapped in a `Resource`; then its name and version are told, otherwise "".

    ProtocolError INVALID_ARGUMENT for what is not a response.
    """
    message = discovery_pb2.DiscoveryResponse()
    try:
        message.ParseFromString(data)
        received = tuple(_received(each) for each in message.resources)
    except DecodeError as error:
        raise ProtocolError("INVALID_ARGUMENT", f"not a DiscoveryResponse: {error}") from None
    return message.version_info, Response(message.type_url, message.nonce, received, ())


def _received(resource: Any) -> Received:
    if not resource.Is(discovery_pb2.Resource.DESCRIPTOR):
        return Received("", "", resource.value)
    inner = discovery_pb2.Resource.FromString(resource.value)
    return Received(inner.name, inner.version, inner.resource.value)
