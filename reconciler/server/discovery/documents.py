"""Resources from the documents of one file, each checked against its proto.

A document is a resource as the JSON form of its proto, with `@type` beside its fields; or a list of
such; or a mapping with one key, `resources`, and such a list in it (as Envoy's own files have). A
resource that is to end unless it is renewed is written in its wrapper:

    "@type": type.googleapis.com/envoy.service.discovery.v3.Resource
    ttl: 30s
    resource: {"@type": ..., ...}

The wrapper may also say the `name`, and must where the type has no field for it. In all others the
name is the field `name`, or `cluster_name` (ClusterLoadAssignment).

What breaks a rule of the proto's own (see `rules`) is refused like what is not of the type.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

import msgspec
from google.protobuf import duration_pb2
from google.protobuf.message import EncodeError, Message

from reconciler.core.discovery.types import Lasting
from reconciler.core.objects.yamlload import YamlError, load_documents
from reconciler.errors import Rejected
from reconciler.probe.messages import NAME_FIELDS, WRAPPER, message_class
from reconciler.probe.services import TYPE_PREFIX, message_name
from reconciler.server.discovery.forms import of_duration
from reconciler.server.discovery.jsonform import read_message
from reconciler.server.discovery.rules import violations
from reconciler.server.discovery.values import Bad, join, plain

WRAPPED: Final = frozenset({"name", "ttl", "resource"})
"""Fields of a wrapper that are read."""

_ALL: Final = "'*' means all resources of a type, and can't name one"

UNREAD: Final = "only name, ttl and resource are read of a wrapper"


class Found(Lasting, frozen=True):
    """One resource of a file, as it is served.

    version: hash of all that a client gets
    source:  file and document, "clusters.yaml#2"
    """

    source: str = ""

    @property
    def title(self) -> str:
        """As problems name it: "Cluster shop"."""
        return f"{message_name(self.type_url)} {self.name}"


class Around(msgspec.Struct, frozen=True):
    """What a wrapper says of the resource in it. at: where that is, in what was written"""

    name: str | None = None
    ttl: float | None = None
    at: str = ""


UNWRAPPED: Final = Around()


class Parsed(msgspec.Struct, frozen=True):
    """What a file holds. known: hash of what was written → what it is, for the next time."""

    found: tuple[Found, ...] = ()
    problems: tuple[Rejected, ...] = ()
    known: dict[bytes, Found] = {}


def parse(data: bytes, file: str, known: Mapping[bytes, Found] | None = None) -> Parsed:
    """Every resource of a file. What is bad in one hides nothing of the others.

    known: of the file as it was: to see that a resource is as before costs less than to check it
    """
    found: list[Found] = []
    problems: list[Rejected] = []
    keys: dict[bytes, Found] = {}
    try:
        for number, document in enumerate(_documents(data, file), 1):
            source = f"{file}#{number}"
            for path, written in _resources(document):
                try:
                    value = plain(written)
                    key = _key(value)
                    before = (known or {}).get(key)
                    if before is None:
                        each = _resource(value, source)
                    elif before.source == source:
                        each = before
                    else:
                        each = msgspec.structs.replace(before, source=source)
                except Bad as bad:
                    where = join(path, bad.path)
                    problems.append(Rejected(source, bad.title, where, bad.reason))
                else:
                    keys[key] = each
                    found.append(each)
    except YamlError as error:
        problems.append(Rejected(file, "", "", str(error)))
    return Parsed(tuple(found), tuple(problems), keys)


def _key(value: Any) -> bytes:
    try:
        return hashlib.blake2b(msgspec.json.encode(value), digest_size=16).digest()
    except (OverflowError, RecursionError) as error:
        raise Bad("", f"can't be a resource: {error}") from None


def _documents(data: bytes, file: str) -> Iterator[Any]:
    """Raises YamlError for what is no YAML or JSON at all. None: a document of YAML is empty."""
    if file.lower().endswith(".json"):
        try:
            document = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise YamlError(str(error)) from None
        except RecursionError:
            raise YamlError("nested too deeply") from None
        if document is None:
            raise YamlError("null: a resource is expected, or a list of them")
        yield document
    else:
        yield from load_documents(data)


def _resources(document: Any) -> Iterator[tuple[str, Any]]:
    """Only what is left empty, and an empty list, mean that there are none."""
    prefix = ""
    if isinstance(document, dict) and set(document) == {"resources"}:
        document, prefix = document["resources"], "resources"
    if document is None:
        return
    if isinstance(document, list):
        for at, each in enumerate(document):
            yield f"{prefix}[{at}]", each
    else:
        yield prefix, document


# ------------------------------------------------------------------------------- one resource


def _resource(value: Any, source: str) -> Found:
    if not isinstance(value, dict):
        raise Bad("", "a resource is a mapping with @type")
    if value.get("@type") != WRAPPER:
        return _named(value, source, UNWRAPPED)
    for key in value.keys() - WRAPPED - {"@type"}:
        raise Bad(str(key), UNREAD)
    name, inner = value.get("name"), value.get("resource")
    if name is not None and not isinstance(name, str):
        raise Bad("name", "a text is expected")
    if not isinstance(inner, dict):
        raise Bad("resource", "a resource is expected, as a mapping with @type")
    return _named(inner, source, Around(name, _ttl(value.get("ttl")), "resource"))


def _named(value: dict[str, Any], source: str, around: Around) -> Found:
    type_url = value.get("@type")
    title = _title(type_url, value, around.name)
    try:
        message = _message(type_url, value)
    except Bad as bad:
        raise Bad(join(around.at, bad.path), bad.reason, title) from None
    return found_in(message, str(type_url), source, around, title)


def found_in(message: Message, type_url: str, source: str, around: Around, title: str) -> Found:
    """A resource by its message, checked. Bad: what it breaks."""
    try:
        name = _name(message, around.name)
    except Bad as bad:
        raise Bad(join(around.at, bad.path), bad.reason, title) from None
    for path, reason in violations(message):
        raise Bad(join(around.at, path), reason, title)
    try:
        body = message.SerializeToString(deterministic=True)
    except EncodeError as error:  # proto2: a field that is required
        raise Bad(around.at, str(error), title) from None
    return Found(type_url, name, _version(body, around.ttl), body, around.ttl, source)


def class_of(type_url: object) -> type[Message]:
    """Of a resource; Bad: there is none."""
    if not isinstance(type_url, str) or not type_url.startswith(TYPE_PREFIX):
        raise Bad("", f"is missing, or no type URL ({TYPE_PREFIX}...)")
    if type_url == WRAPPER:
        raise Bad("", "a wrapper has no other one in it")
    found = message_class(type_url)
    if found is None:
        raise Bad("", f"{type_url.removeprefix(TYPE_PREFIX)}: there is no such type")
    return found


def _message(type_url: object, value: dict[str, Any]) -> Message:
    try:
        cls = class_of(type_url)
    except Bad as bad:
        raise Bad("@type", bad.reason) from None
    return read_message(value, cls)


@cache
def _name_field(descriptor: Any) -> str | None:
    return next((name for name in NAME_FIELDS if name in descriptor.fields_by_name), None)


def _name(message: Any, given: str | None) -> str:
    field = _name_field(message.DESCRIPTOR)
    if field is None:
        if not given:
            reason = "has no name: write it in an envoy.service.discovery.v3.Resource with one"
            raise Bad("", f"{message.DESCRIPTOR.name} {reason}")
        if given == "*":
            raise Bad("", _ALL)
        return given
    own = str(getattr(message, field))
    if not own:
        raise Bad(field, "is required: it is the resource's name")
    if own == "*":
        raise Bad(field, _ALL)
    if given not in (None, own):
        raise Bad(field, f"is {own!r}, and the wrapper's name is {given!r}")
    return own


def _ttl(value: object) -> float | None:
    if value is None:
        return None
    found = duration_pb2.Duration()
    try:
        found.FromJsonString(value)  # type: ignore[arg-type]  # what is no text is an error
    except (ValueError, AttributeError, TypeError, ArithmeticError):
        raise Bad("ttl", f'{value!r} is no duration, such as "30s"') from None
    try:
        return seconds_of(found)
    except Bad as bad:
        raise Bad("ttl", bad.reason) from None


def seconds_of(ttl: duration_pb2.Duration) -> float:
    """Bad: it ends at once, or has no form in JSON."""
    if reason := of_duration(ttl):
        raise Bad("", reason)
    seconds = ttl.seconds + ttl.nanos / 1e9
    if seconds <= 0:
        raise Bad("", "must be more than 0s")
    return seconds


def _version(body: bytes, ttl: float | None) -> str:
    """Equal wherever the same is served. Short, since clients that reconnect list them all."""
    salt = b"" if ttl is None else f"ttl {ttl!r} ".encode()
    return urlsafe_b64encode(hashlib.sha256(salt + body).digest()[:12]).decode()


def _title(type_url: object, value: dict[str, Any], given: str | None) -> str:
    """What the resource calls itself, before anything of it is known to be right."""
    named = [str(value[key]) for key in (*NAME_FIELDS, "clusterName") if value.get(key)]
    name = named[0] if named else given or ""
    return f"{message_name(type_url)} {name}".strip() if isinstance(type_url, str) else name
