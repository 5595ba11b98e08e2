"""Messages of any type: found by their type URL, their names, and as plain values for people.

The xDS protos are many, and Python registers a message when its module is imported, so modules are
imported when a type of theirs is first seen: all of the type's own proto package, which is where a
message is. A type that is nowhere is shown as base64.
"""

from __future__ import annotations

import base64
import importlib
import importlib.util
import pkgutil
from functools import lru_cache
from typing import Any, Final

import msgspec
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message

from reconciler.probe.services import TYPE_PREFIX

_PACKAGES: Final = {"reconciler.v1": "reconciler.wire"}
"""Proto package → Python package, where they differ."""

_ROOTS: Final = frozenset(
    {"cel", "envoy", "google", "opencensus", "opentelemetry", "udpa", "validate", "xds"}
    | {name.partition(".")[0] for name in _PACKAGES}
)
"""What type names begin with of which there are packages to import (those of xds-protos, and ours).
A type name comes from peers and files, and to import is to run: no other one is looked for, and
none with `__init__` in it or the like."""

NAME_FIELDS: Final = ("name", "cluster_name")
"""Where a resource has its name; ClusterLoadAssignment alone has the other one."""

WRAPPER: Final = TYPE_PREFIX + discovery_pb2.Resource.DESCRIPTOR.full_name
"""Type URL of what a resource with a time to live is in."""


class Unnamed(msgspec.Struct, frozen=True):
    """Why a resource's name can't be read."""

    reason: str


@lru_cache(maxsize=4096)
def message_class(type_url: str) -> type[Message] | None:
    """The class of a message by its type URL; None: no package here has it."""
    name = type_url.rpartition("/")[2]
    pool = descriptor_pool.Default()
    try:
        descriptor = pool.FindMessageTypeByName(name)
    except KeyError:
        _import_package(name.rpartition(".")[0])
        try:
            descriptor = pool.FindMessageTypeByName(name)
        except KeyError:
            return None
    return message_factory.GetMessageClass(descriptor)


def unpack(any_: any_pb2.Any) -> Message | None:
    """The message in an Any; None: its type is nowhere, or the bytes are none of it."""
    found = message_class(any_.type_url)
    if found is None:
        return None
    message = found()
    try:
        message.ParseFromString(any_.value)
    except DecodeError:
        return None
    return message


def name_of(any_: any_pb2.Any) -> str | Unnamed:
    """The name of a resource in a SotW response, which says it only inside of the message."""
    message = unpack(any_)
    if message is None:
        return Unnamed(f"{any_.type_url}: not known here, or not a message of it")
    for field in NAME_FIELDS:
        if field in message.DESCRIPTOR.fields_by_name:
            return str(getattr(message, field))
    return Unnamed(f"{any_.type_url}: has no field {' or '.join(NAME_FIELDS)}")


def plain(any_: any_pb2.Any) -> dict[str, Any]:
    """An Any as json_format writes one: `@type`, and the fields beside it. Where the type has a
    form of its own (Duration, StringValue) it is `value`; what can't be written is that in base64.
    """
    message = unpack(any_)
    if message is not None:
        _load_nested(message)
        try:
            return json_format.MessageToDict(any_, preserving_proto_field_name=True)
        except (TypeError, ValueError, json_format.Error, DecodeError):
            pass  # an Any inside of it that is not known, or contents that JSON has no form for
    return {"@type": any_.type_url, "value": base64.b64encode(any_.value).decode()}


def unwrap(any_: any_pb2.Any) -> discovery_pb2.Resource | None:
    """What a SotW response has in a wrapper, as for a TTL; None: it is in none that can be read."""
    wrapper = discovery_pb2.Resource()
    if not any_.Is(wrapper.DESCRIPTOR):
        return None
    try:
        any_.Unpack(wrapper)
    except DecodeError:
        return None
    return wrapper


def _import_package(name: str) -> None:
    """Import every protobuf module of a proto package, or of what it is nested in."""
    parts = name.split(".")
    if parts[0] not in _ROOTS or any(part.startswith("_") for part in parts):
        return
    while name:
        path = _PACKAGES.get(name, name)
        try:
            spec = importlib.util.find_spec(path)
        except (ImportError, ValueError):
            spec = None
        if spec is not None and spec.submodule_search_locations:
            for module in pkgutil.iter_modules(spec.submodule_search_locations):
                if module.name.endswith("_pb2"):
                    importlib.import_module(f"{path}.{module.name}")
            return
        name = name.rpartition(".")[0]


def _load_nested(message: Message) -> None:
    """Register the types of all Anys inside of a message, for json_format."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            entries: Any = value.values()
            if field.message_type.fields_by_name["value"].message_type is None:
                continue
        else:
            entries = value if field.is_repeated else (value,)
        for each in entries:
            if isinstance(each, any_pb2.Any):
                inner = unpack(each)
                if inner is not None:
                    _load_nested(inner)
            else:
                _load_nested(each)
