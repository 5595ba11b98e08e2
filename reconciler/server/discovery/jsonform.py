"""A message from its JSON form, and of one that is wrong: which field, and why.

json_format does the reading, and names the field in its own errors. Others it lets through as
Python raised them (`KeyError: 'value'`): nothing that is written may end a server, so where such an
error comes from is found by reading each field alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf import any_pb2, json_format, message_factory
from google.protobuf.message import Error, Message

from reconciler.probe.messages import message_class
from reconciler.server.discovery.values import Bad, join

Descriptor = Any  # two classes, of which one is in C; the stubs have the other

_MAX_MESSAGES: Final = 100
"""Messages inside messages."""

_LET_THROUGH: Final = (
    TypeError, ValueError, AttributeError, LookupError, ArithmeticError, Error,
)  # fmt: skip
"""What json_format raises beside its own errors."""

_ANY: Final = any_pb2.Any.DESCRIPTOR.full_name
_WHOLE: Final = frozenset(
    f"google.protobuf.{name}"
    for name in ("Any", "Duration", "FieldMask", "ListValue", "Struct", "Timestamp", "Value")
)
_WRAPPERS: Final = "google/protobuf/wrappers.proto"


def read_message(value: dict[str, Any], cls: type[Message]) -> Message:
    """What a mapping says; its `@type` is of this class. Bad: what of it is wrong."""
    if _is_whole(cls.DESCRIPTOR):
        packed: Any = _read(value, any_pb2.Any)
        return cls.FromString(packed.value)
    return _read({key: each for key, each in value.items() if key != "@type"}, cls)


def _is_whole(descriptor: Descriptor) -> bool:
    """Written as one value (in an Any: under `value`), and not field by field."""
    return descriptor.full_name in _WHOLE or descriptor.file.name == _WRAPPERS


def _read(value: Any, cls: type[Message]) -> Message:
    unknown = tuple(_unknown(value, ""))
    try:
        return _parsed(value, cls)
    except json_format.ParseError as error:
        raise _bad(str(error), cls.DESCRIPTOR.name, unknown) from None
    except _LET_THROUGH as error:
        raise _place(value, cls, error) from None


def _parsed(value: Any, cls: type[Message]) -> Message:
    return json_format.ParseDict(value, cls(), max_recursion_depth=_MAX_MESSAGES)


def _unknown(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, type URL) of what looks like an Any whose type is nowhere. All others are imported, so
    that json_format finds them; in a Struct it is data, so only json_format can refuse it."""
    if isinstance(value, dict):
        type_url = value.get("@type")
        if isinstance(type_url, str) and message_class(type_url) is None:
            yield path, type_url
        for key, each in value.items():
            yield from _unknown(each, join(path, key))
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _unknown(each, f"{path}[{at}]")


# ------------------------------------------------------------------------- json_format's errors


_CHAIN: Final = re.compile(r"Failed to parse (\S+) field: (.*)\Z", re.DOTALL)
_AT: Final = re.compile(r' at "?[A-Za-z_]\w*((?:\.|\[)[^"\s]*?)?"?\.*\Z')
_HELP: Final = re.compile(r"\s*Available Fields\(except extensions\):.*\Z", re.DOTALL)
_NO_TYPE: Final = "Can not find message descriptor by type_url: "


def _bad(text: str, type: str, unknown: Iterable[tuple[str, str]]) -> Bad:
    """An error as field and reason: it has the field twice, once as a chain of errors and, of most,
    once more at the end."""
    fields = []
    while chain := _CHAIN.match(text):
        fields.append(chain[1])
        text = chain[2]
    text = _HELP.sub("", text).strip()
    for path, type_url in unknown:
        if _flat(text) == _flat(f"{_NO_TYPE}{type_url} at {join(type, path)}"):
            return Bad(join(path, "@type"), f"{type_url.rpartition('/')[2]}: there is no such type")
    at = _AT.search(text)
    path = ".".join(fields)
    if at is not None:
        text, path = text[: at.start()], (at[1] or "").lstrip(".") or path
    return Bad(path, f"{text.rstrip('.')} ({type})" if not path else text.rstrip("."))


def _flat(text: str) -> str:
    """Without the difference between `map[key]` and `map.key`."""
    return re.sub(r"[\[\].]+", ".", text).rstrip(".")


# ------------------------------------------------------------------------- what it lets through


def _place(value: Any, cls: type[Message], error: Exception) -> Bad:
    """Where in a value this error comes from, as far down as there are fields."""
    descriptor: Descriptor = cls.DESCRIPTOR
    if descriptor.full_name == _ANY and isinstance(value, dict):
        return _place_in_any(value, error)
    if isinstance(value, dict) and not _is_whole(descriptor):
        for key, each in value.items():
            for path, alone, item, inner in _pieces(descriptor, key, each):
                found = _error_of(alone, cls)
                if found is not None:
                    bad = Bad("", f"can't be read: {found}")
                    if inner is not None:
                        bad = _place(item, inner, found)
                    return Bad(join(path, bad.path), bad.reason)
    return Bad("", f"is no {descriptor.name}: {error}")


def _place_in_any(value: dict[str, Any], error: Exception) -> Bad:
    type_url = value.get("@type")
    cls = message_class(type_url) if isinstance(type_url, str) else None
    if cls is None:
        return Bad("@type", "is no type URL")
    if not _is_whole(cls.DESCRIPTOR):
        return _place({key: each for key, each in value.items() if key != "@type"}, cls, error)
    if "value" not in value:
        return Bad("value", f"is missing: a {cls.DESCRIPTOR.full_name} is written there")
    bad = _place(value["value"], cls, error)
    return Bad(join("value", bad.path), bad.reason)


def _pieces(
    descriptor: Descriptor, key: str, value: Any
) -> Iterator[tuple[str, dict[str, Any], Any, type[Message] | None]]:
    """Path, a message with nothing else, value and class (None: no message) of all in a field."""
    field = next((each for each in descriptor.fields if key in (each.name, each.json_name)), None)
    of = None if field is None else field.message_type
    if of is not None and of.GetOptions().map_entry:
        of = of.fields_by_name["value"].message_type
    inner = None if of is None else message_factory.GetMessageClass(of)
    if field is not None and field.is_repeated and isinstance(value, dict):
        for name, each in value.items():
            yield f"{key}[{name}]", {key: {name: each}}, each, inner
    elif field is not None and field.is_repeated and isinstance(value, list):
        for at, each in enumerate(value):
            yield f"{key}[{at}]", {key: [each]}, each, inner
    else:
        yield key, {key: value}, value, inner


def _error_of(value: Any, cls: type[Message]) -> Exception | None:
    try:
        _parsed(value, cls)
    except json_format.ParseError:
        return None
    except _LET_THROUGH as error:
        return error
    return None
