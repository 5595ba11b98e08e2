"""What a message must also fulfil beside its types: the rules that Envoy's protos carry.

They are field options (`validate/validate.proto`, protoc-gen-validate) that Envoy's own build makes
checks from; a resource that breaks one is refused by Envoy as a whole. Here they are read from the
descriptors, so that such a resource is refused before any client sees it, with the field's name.
Messages inside an `Any` are looked at too; one that can't be is refused. So is what has no form in
JSON (`forms`), whether a field has a rule or not.

Not looked at: rules about the present time (none of Envoy's has any). A text's `pattern` is RE2;
the little of it that Python can't say (`core.labels.re2`) is left out.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Any, Final

from google.protobuf import any_pb2, struct_pb2
from google.protobuf.message import Message
from validate import validate_pb2

from reconciler.core.labels.re2 import compile_re2
from reconciler.probe.messages import message_class, unpack
from reconciler.server.discovery.forms import FORMS, of_number
from reconciler.server.discovery.values import join

Descriptor = Any  # two classes, of which one is in C; the stubs have the other
FieldDescriptor = Any

ANY: Final = any_pb2.Any.DESCRIPTOR.full_name
_VALUE: Final = struct_pb2.Value.DESCRIPTOR.full_name
_SECONDS: Final = ("duration", "timestamp")
_DEPTH: Final = 100
"""Messages inside messages; json_format allows as many."""

Check = Callable[[Any], str]
"""A field's value → what is wrong with it, "" for nothing."""


Problem = tuple[str, str]
"""Field and reason."""


def violations(message: Message) -> list[Problem]:
    """(field as "load_assignment.endpoints[0].priority", reason) of each rule that is broken."""
    found: list[Problem] = []
    _look(message, _DEPTH, found)
    return found


def _look(message: Message, depth: int, found: list[Problem]) -> None:
    """Most messages break nothing, so a path is only made of what does, on the way back."""
    if depth == 0:
        found.append(("", "nested too deeply"))
        return
    rules = _compiled(message.DESCRIPTOR)
    if rules.whole is not None:
        rules.whole(message, depth, found)
        return
    for name, present, check in rules.fields:
        if present and not message.HasField(name):
            continue
        if reason := check(getattr(message, name)):
            found.append((name, reason))
    for name in rules.required:
        if not message.HasField(name):
            found.append((name, "is required"))
    for oneof, names in rules.oneofs:
        if message.WhichOneof(oneof) is None:
            found.append((oneof, f"is required: one of {', '.join(names)}"))
    if not rules.inner:
        return
    for field, value in message.ListFields():
        shape = rules.inner.get(field.name)
        if shape is None:
            continue
        each: Iterable[tuple[Any, Message]]
        if shape is _ONE:
            each = ((None, value),)
        elif shape is _LIST:
            each = enumerate(value)
        else:
            each = sorted(value.items(), key=lambda item: str(item[0]))
        for key, one in each:
            begin = len(found)
            _look(one, depth - 1, found)
            if len(found) > begin:
                name = field.name if key is None else f"{field.name}[{key}]"
                found[begin:] = [(join(name, path), reason) for path, reason in found[begin:]]


def _look_into(packed: Any, depth: int, found: list[Problem]) -> None:
    inner = unpack(packed)
    if inner is not None:
        _look(inner, depth - 1, found)
    elif reason := _why_none(packed):
        found.append(("", reason))


def _why_none(packed: Any) -> str:
    """Of an Any without a message; "" when it is empty, which is no message either."""
    type_url = packed.type_url
    if not type_url:
        return "is a message without its type" if packed.value else ""
    cls = message_class(type_url)
    if cls is None:
        return f"{type_url.rpartition('/')[2]}: there is no such type"
    return f"is no {cls.DESCRIPTOR.full_name}"


# ------------------------------------------------------------------------------ rules of a type


class _Shape(Enum):
    ONE = 1
    LIST = 2
    MAP = 3


_ONE, _LIST, _MAP = _Shape  # by names of their own, as `core.discovery.types.DELTA`


class _Rules:
    """Of one message type. fields: (name, only when it is set, check); inner: fields that hold
    messages which are to be looked at; whole: how to look at what is not looked at by fields."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, bool, Check]] = []
        self.required: list[str] = []
        self.oneofs: list[tuple[str, tuple[str, ...]]] = []
        self.inner: dict[str, _Shape] = {}
        self.whole: Callable[[Any, int, list[Problem]], None] | None = None


@cache
def _compiled(descriptor: Descriptor) -> _Rules:
    found = _Rules()
    if descriptor.full_name == ANY:
        found.whole = _look_into
    elif form := FORMS.get(descriptor.full_name):
        found.whole = _formed(form)
    elif descriptor.full_name == _VALUE:
        found.fields.append(("number_value", True, of_number))
    options = descriptor.GetOptions()
    if options.Extensions[validate_pb2.disabled] or options.Extensions[validate_pb2.ignored]:
        return found
    for oneof in descriptor.oneofs:
        if oneof.GetOptions().Extensions[validate_pb2.required]:
            found.oneofs.append((oneof.name, tuple(field.name for field in oneof.fields)))
    for field in descriptor.fields:
        rules = field.GetOptions().Extensions[validate_pb2.rules]
        if _holds_messages(field) and not rules.message.skip:
            shape = _LIST if field.is_repeated else _ONE
            found.inner[field.name] = _MAP if _is_map(field) else shape
        kind = rules.WhichOneof("type")
        needed = rules.message.required or (kind and getattr(getattr(rules, kind), "required", 0))
        if needed and field.containing_oneof is None:  # a member of a oneof only says "if it is me"
            found.required.append(field.name)
        if kind:
            check = _check(field, kind, getattr(rules, kind))
            found.fields.append((field.name, field.has_presence, check))
    return found


def _formed(check: Check) -> Callable[[Any, int, list[Problem]], None]:
    def look(message: Any, _: int, found: list[Problem]) -> None:
        if reason := check(message):
            found.append(("", reason))

    return look


def _is_map(field: FieldDescriptor) -> bool:
    entry = field.message_type
    return entry is not None and bool(entry.GetOptions().map_entry)


def _holds_messages(field: FieldDescriptor) -> bool:
    if _is_map(field):
        return field.message_type.fields_by_name["value"].message_type is not None
    return field.message_type is not None


def _check(field: FieldDescriptor, kind: str, rules: Any) -> Check:
    if kind == "repeated":
        return _all(_repeated(field, rules), rules)
    if kind == "map":
        return _all(_map(rules), rules)
    if kind in _SECONDS:
        return _nanos(_all(_compared(rules, _span), rules))
    if kind == "any":
        return _all(_listed(rules, lambda each: each), rules, of=lambda value: value.type_url)
    if field.message_type is not None:  # a wrapper such as UInt32Value
        return _all(_scalar(None, kind, rules), rules, of=lambda value: value.value)
    return _all(_scalar(field, kind, rules), rules)


def _all(checks: Iterable[Check], rules: Any, of: Callable[[Any], Any] | None = None) -> Check:
    kept, lenient = tuple(checks), getattr(rules, "ignore_empty", False)

    def run(value: Any) -> str:
        found = value if of is None else of(value)
        if lenient and not found:
            return ""
        return next((reason for check in kept if (reason := check(found))), "")

    return run


def _must(holds: Callable[[Any], bool], reason: str) -> Check:
    return lambda value: "" if holds(value) else reason


# ------------------------------------------------------------------------------ kinds of values


def _scalar(field: FieldDescriptor | None, kind: str, rules: Any) -> Iterator[Check]:
    if kind == "string":
        yield from _text(rules)
    elif kind == "bytes":
        yield from _sized(rules, ("len", "min_len", "max_len"), len, "bytes")
    elif kind == "enum":
        yield from _listed(rules, lambda each: each)
        if rules.defined_only and field is not None:
            numbers = frozenset(field.enum_type.values_by_number)
            yield _must(lambda value: value in numbers, "is not a value of its enum")
        if rules.HasField("const"):
            yield _must(lambda value: value == rules.const, f"must be {rules.const}")
    elif kind == "bool":
        if rules.HasField("const"):
            yield _must(lambda value: value == rules.const, f"must be {str(rules.const).lower()}")
    else:
        yield from _compared(rules, lambda each: each)


def _compared(rules: Any, read: Callable[[Any], Any]) -> Iterator[Check]:
    """Numbers, and what is read as one. A range whose ends are crossed means what is outside."""
    yield from _listed(rules, read)
    if rules.HasField("const"):
        yield _equal(read(rules.const))
    bounds: list[tuple[Callable[[Any], bool], str]] = []
    ends: dict[str, Any] = {}
    for name, words in (("gt", "more than"), ("gte", "at least"), ("lt", "less than"),
                        ("lte", "at most")):  # fmt: skip
        if rules.HasField(name):
            end = ends[name[:2]] = read(getattr(rules, name))
            bounds.append((_beyond(name, end), f"{words} {_shown(end)}"))
    if not bounds:
        return
    together: Callable[[Iterable[object]], bool] = all
    word = " and "
    if len(ends) == 2 and ends["gt"] > ends["lt"]:
        together, word = any, " or "
    reason = "must be " + word.join(text for _, text in bounds)
    yield _must(lambda value: together(holds(value) for holds, _ in bounds), reason)


def _equal(expected: Any) -> Check:
    return _must(lambda value: value == expected, f"must be {_shown(expected)}")


def _beyond(name: str, end: Any) -> Callable[[Any], bool]:
    return {
        "gt": lambda value: value > end,
        "gte": lambda value: value >= end,
        "lt": lambda value: value < end,
        "lte": lambda value: value <= end,
    }[name]


class _Nanos(int):
    """Nanoseconds of a duration or time stamp."""


def _span(value: Any) -> _Nanos:
    return _Nanos(value.seconds * 1_000_000_000 + value.nanos)


def _nanos(check: Check) -> Check:
    return lambda value: check(_span(value))


def _shown(value: Any) -> str:
    if isinstance(value, _Nanos):
        return f"{value / 1e9:g}s"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(rules: Any, read: Callable[[Any], Any]) -> Iterator[Check]:
    allowed = tuple(read(each) for each in getattr(rules, "in"))
    if allowed:
        words = ", ".join(map(_shown, allowed))
        yield _must(lambda value: value in allowed, f"must be one of {words}")
    refused = tuple(read(each) for each in rules.not_in)
    if refused:
        words = ", ".join(map(_shown, refused))
        yield _must(lambda value: value not in refused, f"must be none of {words}")


def _sized(
    rules: Any, names: tuple[str, str, str], size: Callable[[Any], int], unit: str
) -> Iterator[Check]:
    exact, least, most = names
    if exact and rules.HasField(exact):
        count = getattr(rules, exact)
        yield _must(lambda value: size(value) == count, f"must have {count} {unit}")
    if rules.HasField(least):
        low = getattr(rules, least)
        yield _must(lambda value: size(value) >= low, f"must have at least {low} {unit}")
    if rules.HasField(most):
        high = getattr(rules, most)
        yield _must(lambda value: size(value) <= high, f"must have at most {high} {unit}")


def _repeated(field: FieldDescriptor, rules: Any) -> Iterator[Check]:
    yield from _sized(rules, ("", "min_items", "max_items"), len, "items")
    if rules.unique:
        yield _must(
            lambda value: len({_key(each) for each in value}) == len(value), "has an item twice"
        )
    kind = rules.items.WhichOneof("type")
    if kind:
        yield _each(_item(field, kind, rules.items), lambda value: value)


def _item(field: FieldDescriptor, kind: str, rules: Any) -> Check:
    within = getattr(rules, kind)
    if kind in _SECONDS:
        return _nanos(_all(_compared(within, _span), within))
    if field.message_type is not None and kind != "any":
        return _all(_scalar(None, kind, within), within, of=lambda value: value.value)
    return (
        _check(field, kind, within) if kind == "any" else _all(_scalar(field, kind, within), within)
    )


def _key(value: Any) -> Any:
    return value.SerializeToString(deterministic=True) if isinstance(value, Message) else value


def _each(check: Check, values: Callable[[Any], Iterable[Any]]) -> Check:
    def run(value: Any) -> str:
        for at, each in enumerate(values(value)):
            if reason := check(each):
                return f"item {at} {reason}"
        return ""

    return run


def _map(rules: Any) -> Iterator[Check]:
    yield from _sized(rules, ("", "min_pairs", "max_pairs"), len, "pairs")
    sides: Mapping[str, Callable[[Any], Iterable[Any]]] = {
        "keys": lambda value: value.keys(),
        "values": lambda value: value.values(),
    }
    for side, values in sides.items():
        inner = getattr(rules, side)
        kind = inner.WhichOneof("type")
        if kind in ("string", "bytes", "bool") or (kind and hasattr(getattr(inner, kind), "gte")):
            within = getattr(inner, kind)
            if kind not in _SECONDS:
                yield _each(_all(_scalar(None, kind, within), within), values)


# ------------------------------------------------------------------------------ texts


def _text(rules: Any) -> Iterator[Check]:
    yield from _sized(rules, ("len", "min_len", "max_len"), len, "characters")
    yield from _sized(
        rules, ("len_bytes", "min_bytes", "max_bytes"), lambda value: len(value.encode()), "bytes"
    )
    yield from _listed(rules, lambda each: each)
    if rules.HasField("const"):
        yield _must(lambda value: value == rules.const, f"must be {rules.const!r}")
    if rules.HasField("prefix"):
        yield _must(lambda value: value.startswith(rules.prefix), f"must begin {rules.prefix!r}")
    if rules.HasField("suffix"):
        yield _must(lambda value: value.endswith(rules.suffix), f"must end {rules.suffix!r}")
    if rules.HasField("contains"):
        yield _must(lambda value: rules.contains in value, f"must have {rules.contains!r} in it")
    if rules.HasField("not_contains"):
        no = rules.not_contains
        yield _must(lambda value: no not in value, f"must not have {no!r} in it")
    if rules.pattern:
        found = _compiled_re2(rules.pattern)
        if found is not None:
            yield _must(lambda value: bool(found.search(value)), f"must match {rules.pattern}")
    form = rules.WhichOneof("well_known")
    if form == "well_known_regex":
        yield _HEADERS[rules.well_known_regex, rules.strict]
    elif form in _FORMS and getattr(rules, form):
        yield _must(_FORMS[form], f"must be {_WORDS[form]}")


def _compiled_re2(pattern: str) -> re.Pattern[str] | None:
    try:
        return compile_re2(pattern)
    except ValueError:
        return None


def _header(pattern: str, what: str) -> Check:
    compiled = re.compile(pattern)
    return _must(lambda value: bool(compiled.search(value)), f"is no {what} of an HTTP header")


_HEADERS: Final[Mapping[tuple[int, bool], Check]] = {
    (0, True): lambda _: "",
    (0, False): lambda _: "",
    (1, True): _header(r"\A:?[0-9a-zA-Z!#$%&'*+-.^_|~`]+\Z", "name"),
    (1, False): _header(r"\A[^\x00\n\r]+\Z", "name"),
    (2, True): _header(r"\A[^\x00-\x08\x0a-\x1f\x7f]*\Z", "value"),
    (2, False): _header(r"\A[^\x00\n\r]*\Z", "value"),
}


def _is_address(text: str, *versions: int) -> bool:
    try:
        return ipaddress.ip_address(text).version in versions
    except ValueError:
        return False


_HOST: Final = re.compile(
    r"(?=.{1,253}\Z)([a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?\.)*"
    r"[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?\.?\Z"
)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def _is_host(text: str) -> bool:
    return _HOST.match(text) is not None


def _is_uri(text: str, *, absolute: bool) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme) or not absolute


_FORMS: Final[Mapping[str, Callable[[str], bool]]] = {
    "email": lambda text: "@" in text and _is_host(text.rpartition("@")[2]),
    "hostname": _is_host,
    "ip": lambda text: _is_address(text, 4, 6),
    "ipv4": lambda text: _is_address(text, 4),
    "ipv6": lambda text: _is_address(text, 6),
    "uri": lambda text: _is_uri(text, absolute=True),
    "uri_ref": lambda text: _is_uri(text, absolute=False),
    "address": lambda text: _is_host(text) or _is_address(text, 4, 6),
    "uuid": lambda text: _UUID.fullmatch(text) is not None,
}

_WORDS: Final = {
    "email": "an email address",
    "hostname": "a host name",
    "ip": "an IP address",
    "ipv4": "an IPv4 address",
    "ipv6": "an IPv6 address",
    "uri": "a URI",
    "uri_ref": "a URI reference",
    "address": "a host name or an IP address",
    "uuid": "a UUID",
}
