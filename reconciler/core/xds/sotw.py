"""State-of-the-world xDS frames: requests to the values of the delta variant, and responses.

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

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from reconciler.core.xds.codec import (
    MAX_NAMES,
    Frame,
    Request,
    field,
    no_locators,
    refusal_of,
    sealed,
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


def version_of(held: Iterable[tuple[str, str]], *, wildcard: bool) -> str:
    """version_info of a subscription. held: (name, version), by ascending name; wildcard: it is to
    everything (whoever had the same by name may not say that it has all there is)"""
    total = hashlib.sha256(b"*" if wildcard else b"")
    for name, version in held:
        total.update(f"{len(name)} {name} {version}\n".encode())
    return urlsafe_b64encode(total.digest()[:12]).decode()


def join(type_url: str, version: str, wrapped: Sequence[bytes]) -> Frame:
    """A response of resources that are wrapped already."""
    fields = (field(1, version.encode()), *wrapped, field(4, type_url.encode()))
    return sealed(type_url, fields, len(wrapped))
