"""Values of TLA+ as Python values, and their two texts: TLA+ as TLC prints it, and ITF (JSON).

    TLA+                         here
    7, TRUE, "a"                 int, bool, str
    n1 (a model value)           ModelValue, a str that prints without quotes
    {1, 2}, 1..2                 frozenset
    <<1, 2>>                     tuple
    [a |-> 1], (n1 :> 1)         Record: records and functions are one thing, as in TLA+

Equal values of TLA+ are equal here: a function whose domain is 1..n *is* a tuple, so `function`
and the parsers make one of it, and the empty function is (). Values are immutable and hashable.

Sets that TLC leaves unexpanded (`SUBSET S`, `[S -> T]`) are refused: write the set out in the spec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class ModelValue(str):
    """A value that is only itself, as a configuration's `Nodes = {n1, n2}` makes them.

    Equal to the string of its name: code that is driven by a spec need not know the difference.
    """

    __slots__ = ()


class Record(Mapping["Value", "Value"]):
    """A record or a function: an immutable mapping with a hash.

    Made of any mapping, or of fields by name: `Record(kind="ack", number=3)`.
    """

    __slots__ = ("_hash", "_items")

    def __init__(self, items: Mapping[Any, Value] | None = None, /, **fields: Value) -> None:
        self._items: dict[Value, Value] = dict(items or {})
        self._items.update(fields)
        self._hash: int | None = None

    def __getitem__(self, key: Value) -> Value:
        return self._items[key]

    def __iter__(self) -> Iterator[Value]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return self._items == other._items
        return NotImplemented

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self._items.items()))
        return self._hash

    def __repr__(self) -> str:
        return f"Record({self._items!r})"

    def __deepcopy__(self, memo: object) -> Record:
        return self

    def __reduce__(self) -> tuple[type[Record], tuple[dict[Value, Value]]]:
        return Record, (self._items,)

    def replaced(self, items: Mapping[Any, Value] | None = None, /, **fields: Value) -> Record:
        """This record with some fields changed or added."""
        return Record({**self._items, **(items or {}), **fields})


Value = int | bool | str | tuple["Value", ...] | frozenset["Value"] | Record


class TlaSyntaxError(ValueError):
    """A text that is not a value; `at` is the offset of what was not understood."""

    def __init__(self, reason: str, text: str, at: int) -> None:
        super().__init__(f"{reason} at offset {at}: {text[at : at + 40]!r}")
        self.at = at


def function(items: Mapping[Any, Value] | Iterable[tuple[Value, Value]]) -> Value:
    """The function with these values; a tuple if its domain is 1..n, as in TLA+."""
    pairs = dict(items)
    if all(type(key) is int for key in pairs) and set(pairs) == set(range(1, len(pairs) + 1)):
        return tuple(pairs[at] for at in range(1, len(pairs) + 1))
    return Record(pairs)


def freeze(value: Any) -> Value:
    """Any nest of dict, list, tuple, set, str, int and bool as a Value. Raises TypeError."""
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return function({freeze(key): freeze(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, set | frozenset):
        return frozenset(freeze(item) for item in value)
    raise TypeError(f"{value!r} is not a value of TLA+")


def order(value: Value) -> tuple[Any, ...]:
    """A key that sorts any values: by kind, then by content."""
    if isinstance(value, bool):
        return (0, value)
    if isinstance(value, int):
        return (1, value)
    if isinstance(value, str):
        return (2, str(value))
    if isinstance(value, tuple):
        return (3, len(value), tuple(map(order, value)))
    if isinstance(value, frozenset):
        return (4, len(value), tuple(sorted(map(order, value))))
    return (5, len(value), tuple(sorted((order(key), order(item)) for key, item in value.items())))


def model_values(value: Value) -> Iterator[str]:
    """Names of all model values in it, with repetitions."""
    if isinstance(value, ModelValue):
        yield str(value)
    elif isinstance(value, tuple | frozenset):
        for item in value:
            yield from model_values(item)
    elif isinstance(value, Record):
        for key, item in value.items():
            yield from model_values(key)
            yield from model_values(item)


# ------------------------------------------------------------------------------------ TLA+ text

_ESCAPES: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\f": "\\f", '"': '\\"', "\\": "\\\\"}
_PLAIN: Final = {text[1]: char for char, text in _ESCAPES.items()}


def to_tla(value: Value, part: Callable[[Value], str] | None = None) -> str:
    """TLA+ text of a value: the same for equal values. Functions need the module TLC (:>, @@).

    part: writes what the value is made of, in place of this
    """
    part = part or to_tla
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, ModelValue):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_ESCAPES.get(char, char) for char in value) + '"'
    if isinstance(value, tuple):
        return "<<" + ", ".join(map(part, value)) + ">>"
    if isinstance(value, frozenset):
        return "{" + ", ".join(map(part, sorted(value, key=order))) + "}"
    pairs = sorted(value.items(), key=lambda pair: order(pair[0]))
    if not pairs:
        return "<<>>"
    if all(is_field(key) for key in value):
        return "[" + ", ".join(f"{key} |-> {part(item)}" for key, item in pairs) + "]"
    return "(" + " @@ ".join(f"{part(key)} :> {part(item)}" for key, item in pairs) + ")"


def is_field(key: Value) -> bool:
    """Whether it can be the name of a record's field."""
    return isinstance(key, str) and not isinstance(key, ModelValue) and bool(IDENTIFIER.match(key))


_TOKEN: Final = re.compile(
    r"""\s*(?: (?P<int>-?\d+) | (?P<string>"(?:[^"\\]|\\.)*") | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark><<|>>|\|->|:>|@@|\.\.|[\[\](){},]) )""",
    re.VERBOSE | re.DOTALL,
)


def parse_tla(text: str) -> Value:
    """The value that TLC printed as `text`. Raises TlaSyntaxError with the offset."""
    value, end = parse_prefix(text, 0)
    if text[end:].strip():
        raise TlaSyntaxError("more than one value", text, end)
    return value


def parse_prefix(text: str, start: int) -> tuple[Value, int]:
    """The value that begins at `start`, and the offset behind it."""
    parser = _Parser(text, start)
    return parser.value(), parser.at


class _Parser:
    """Recursive descent over one text; `at` is the offset behind what was read."""

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self.at = at

    def _next(self) -> tuple[str, str]:
        found = _TOKEN.match(self._text, self.at)
        if found is None or found.lastgroup is None:
            raise TlaSyntaxError("not a value", self._text, self.at)
        self.at = found.end()
        return found.lastgroup, found.group(found.lastgroup)

    def _peek(self, mark: str) -> bool:
        found = _TOKEN.match(self._text, self.at)
        if found is not None and found.group("mark") == mark:
            self.at = found.end()
            return True
        return False

    def _expect(self, mark: str) -> None:
        if not self._peek(mark):
            raise TlaSyntaxError(f"expected {mark}", self._text, self.at)

    def value(self) -> Value:
        start = self.at
        kind, token = self._next()
        if kind == "int":
            if self._peek(".."):
                return frozenset(range(int(token), self._integer() + 1))
            return int(token)
        if kind == "string":
            return re.sub(r"\\(.)", lambda m: _PLAIN.get(m[1], m[1]), token[1:-1], flags=re.DOTALL)
        if kind == "name":
            return {"TRUE": True, "FALSE": False}.get(token, ModelValue(token))
        if token == "<<":
            return tuple(self._items(">>"))
        if token == "{":
            return frozenset(self._items("}"))
        if token == "[":
            return self._record()
        if token == "(":
            return self._function()
        raise TlaSyntaxError("not a value", self._text, start)

    def _integer(self) -> int:
        kind, token = self._next()
        if kind != "int":
            raise TlaSyntaxError("expected a number", self._text, self.at)
        return int(token)

    def _items(self, close: str) -> Iterator[Value]:
        if self._peek(close):
            return
        yield self.value()
        while not self._peek(close):
            self._expect(",")
            yield self.value()

    def _record(self) -> Value:
        fields: dict[str, Value] = {}
        while True:
            kind, name = self._next()
            if kind != "name":
                raise TlaSyntaxError("expected a field", self._text, self.at)
            self._expect("|->")
            fields[name] = self.value()
            if self._peek("]"):
                return Record(fields)
            self._expect(",")

    def _function(self) -> Value:
        pairs: dict[Value, Value] = {}
        while True:
            key = self.value()
            self._expect(":>")
            pairs[key] = self.value()
            if self._peek(")"):
                return function(pairs)
            self._expect("@@")


# ------------------------------------------------------------------------------------------ ITF


def to_itf(value: Value) -> Any:
    """ITF's JSON of a value. A model value is written as its name, here and as a key."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return {"#bigint": str(value)}
    if isinstance(value, str):
        return str(value)
    if isinstance(value, tuple):
        return {"#tup": [to_itf(item) for item in value]}
    if isinstance(value, frozenset):
        return {"#set": [to_itf(item) for item in sorted(value, key=order)]}
    pairs = sorted(value.items(), key=lambda pair: order(pair[0]))
    if pairs and all(isinstance(key, str) and IDENTIFIER.match(key) for key in value):
        return {str(key): to_itf(item) for key, item in pairs}
    return {"#map": [[to_itf(key), to_itf(item)] for key, item in pairs]}


def from_itf(json: Any) -> Value:
    """The value of an ITF's JSON, as this module or Apalache writes it. Raises ValueError.

    A sequence and a tuple are the same here; a variant is the record that it is written as.
    """
    if isinstance(json, bool | int | str):
        return json
    if isinstance(json, list):
        return tuple(from_itf(item) for item in json)
    if not isinstance(json, dict):
        raise ValueError(f"not a value of ITF: {json!r}")
    match json:
        case {"#bigint": str(number)}:
            return int(number)
        case {"#tup": list(items)}:
            return tuple(from_itf(item) for item in items)
        case {"#set": list(items)}:
            return frozenset(from_itf(item) for item in items)
        case {"#map": list(pairs)}:
            return function([(from_itf(key), from_itf(item)) for key, item in pairs])
        case {"#unserializable": text}:
            raise ValueError(f"ITF holds no value, only its text: {text}")
    return Record({key: from_itf(item) for key, item in json.items()})
