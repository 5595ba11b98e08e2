"""Resources from the bytes of one message, each checked like those of `documents`.

The message is an `envoy.service.discovery.v3.DiscoveryResponse`, of which only `resources` is read:
what the document `{"resources": [...]}` is in JSON, for controllers that have messages and not
texts. A resource may be in its wrapper here too. Fields that the protos here don't know are served
as they came; types that they don't know are refused, also inside of a resource, as in a document.
With fields of its own that they don't know it is some other message: nothing is taken of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from reconciler.errors import Rejected
from reconciler.probe.messages import NAME_FIELDS, WRAPPER
from reconciler.probe.services import message_name
from reconciler.server.discovery.documents import (
    UNREAD,
    UNWRAPPED,
    WRAPPED,
    Around,
    Found,
    Parsed,
    class_of,
    found_in,
    seconds_of,
)
from reconciler.server.discovery.values import Bad, join


def parse_binary(data: bytes, name: str, known: Mapping[bytes, Found] | None = None) -> Parsed:
    """Every resource of it, as `documents.parse` has those of a file.

    known: of the message before: what is in it byte for byte is not read a second time
    """
    response = discovery_pb2.DiscoveryResponse()
    try:
        response.ParseFromString(data)
    except DecodeError:
        return _none(name, "is no")
    if len(UnknownFieldSet(response)):
        return _none(name, "has fields that are none of")
    found: list[Found] = []
    problems: list[Rejected] = []
    keys: dict[bytes, Found] = {}
    for at, each in enumerate(response.resources):
        key = _key(each)
        one = (known or {}).get(key)
        if one is None:
            try:
                one = _resource(each, f"{name}#1")
            except Bad as bad:
                where = join(f"resources[{at}]", bad.path)
                problems.append(Rejected(f"{name}#1", bad.title, where, bad.reason))
                continue
        keys[key] = one
        found.append(one)
    return Parsed(tuple(found), tuple(problems), keys)


def _none(name: str, reason: str) -> Parsed:
    full = discovery_pb2.DiscoveryResponse.DESCRIPTOR.full_name
    return Parsed(problems=(Rejected(name, "", "", f"{reason} {full}"),))


def _key(written: any_pb2.Any) -> bytes:
    written_as = f"{written.type_url}\n".encode() + written.value
    return hashlib.blake2b(written_as, digest_size=16).digest()


def _resource(written: any_pb2.Any, source: str) -> Found:
    if written.type_url != WRAPPER:
        return _found(written, source, UNWRAPPED)
    wrapper = discovery_pb2.Resource()
    try:
        wrapper.ParseFromString(written.value)
    except DecodeError:
        raise Bad("value", f"is no {wrapper.DESCRIPTOR.full_name}") from None
    for field, _ in wrapper.ListFields():
        if field.name not in WRAPPED:
            raise Bad(field.name, UNREAD)
    if not wrapper.HasField("resource"):
        raise Bad("resource", "a resource is expected")
    try:
        ttl = seconds_of(wrapper.ttl) if wrapper.HasField("ttl") else None
    except Bad as bad:
        raise Bad("ttl", bad.reason) from None
    return _found(wrapper.resource, source, Around(wrapper.name or None, ttl, "resource"))


def _found(written: any_pb2.Any, source: str, around: Around) -> Found:
    type_url = written.type_url
    try:
        message = class_of(type_url)()
    except Bad as bad:
        raise Bad(join(around.at, "type_url"), bad.reason, _title(type_url, around.name)) from None
    try:
        message.ParseFromString(written.value)
    except DecodeError:
        reason = f"is no {message.DESCRIPTOR.full_name}"
        raise Bad(join(around.at, "value"), reason, _title(type_url, around.name)) from None
    try:
        return found_in(message, type_url, source, around, "")
    except Bad as bad:
        own = (str(getattr(message, field, "")) for field in NAME_FIELDS)
        name = next(filter(None, own), around.name)
        raise Bad(bad.path, bad.reason, _title(type_url, name)) from None


def _title(type_url: str, name: str | None) -> str:
    return f"{message_name(type_url)} {name or ''}".strip()
