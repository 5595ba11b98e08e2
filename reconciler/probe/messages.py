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
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError, Message

_PACKAGES: Final = {"reconciler.v1": "reconciler.wire"}
"""Proto package → Python package, where they differ."""

_NAME_FIELDS: Final = ("name", "cluster_name")
"""Where a resource has its name; ClusterLoadAssignment alone has the other one."""


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
    for field in _NAME_FIELDS:
        if field in message.DESCRIPTOR.fields_by_name:
            return str(getattr(message, field))
    return Unnamed(f"{any_.type_url}: has no field {' or '.join(_NAME_FIELDS)}")


def plain(any_: any_pb2.Any) -> dict[str, Any]:
    """An Any as json_format writes one: `@type`, and the fields beside it (or `value`: base64)."""
    message = unpack(any_)
    if message is not None:
        _load_nested(message)
        try:
            fields = json_format.MessageToDict(message, preserving_proto_field_name=True)
        except (TypeError, ValueError):  # an Any inside of it, of a type that is nowhere
            pass
        else:
            return {"@type": any_.type_url, **fields}
    return {"@type": any_.type_url, "value": base64.b64encode(any_.value).decode()}


def from_plain(value: dict[str, Any]) -> any_pb2.Any:
    """The reverse of `plain` for known types; ValueError says what is wrong."""
    for type_url in _types_in(value):
        message_class(type_url)
    found = any_pb2.Any()
    try:
        json_format.ParseDict(value, found)
    except (json_format.ParseError, TypeError) as error:
        raise ValueError(str(error)) from None
    return found


def unwrap(any_: any_pb2.Any) -> discovery_pb2.Resource | None:
    """What a SotW response has in a wrapper, as for a TTL; None: it is not wrapped."""
    wrapper = discovery_pb2.Resource()
    if not any_.Is(wrapper.DESCRIPTOR):
        return None
    any_.Unpack(wrapper)
    return wrapper


def _import_package(name: str) -> None:
    """Import every protobuf module of a proto package, or of what it is nested in."""
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


def _types_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("@type"), str):
            yield value["@type"]
        for each in value.values():
            yield from _types_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from _types_in(each)
