"""YAML documents as plain values, with the traps of YAML 1.1 kept visible.

YAML 1.1 reads `on` as true, `010` as 8 and `1.10` as 1.1. Such a scalar becomes a `Plain`, which
keeps its text: where the API wants something else, the problem can say what was read and how to
write it; in fields that nobody reads it does no harm. Keys given twice are refused, as kubectl
does: the last one would win silently. So are aliases that stand for very much, or for themselves: a
few lines can say more than fits into any memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import yaml

_INT: Final = re.compile(r"[-+]?(0|[1-9][0-9]*|0x[0-9a-fA-F]+)")
_NUMBER: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_TAG: Final = "tag:yaml.org,2002:"


MAX_REPEATED: Final = 1_000_000
"""Values of one document that its aliases may stand for, beyond those that are written."""

_MAX_BITS: Final = 14_000
"""Of an integer: a little fewer than the 4,300 digits that Python reads and writes."""


class Plain(msgspec.Struct, frozen=True):
    """An unquoted scalar that YAML 1.1 reads as `meaning`, such as "a boolean (true)"."""

    text: str
    meaning: str

    @property
    def advice(self) -> str:
        return f'{self.text} is {self.meaning} in YAML: write "{self.text}" in quotes'


class YamlError(Exception):
    """The text isn't YAML; the message says where."""


def load_documents(data: bytes) -> Iterator[Any]:
    """Every document of the text in order, empty ones as None; YamlError when one can't be read."""
    loader = _Measured if b"&" in data else _Loader
    try:
        yield from yaml.load_all(data, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise YamlError(where + (error.problem or error.context or "can't be read")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise YamlError(" ".join(str(error).split())) from None
    except RecursionError:
        raise YamlError("nested too deeply") from None


class _Loader(yaml.CSafeLoader):
    """The C parser with constructors of our own."""


def _scalar(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _wrong(node)
    return str(node.value)


def _wrong(node: yaml.Node) -> yaml.constructor.ConstructorError:
    what = repr(node.value)
    if not isinstance(node, yaml.ScalarNode):
        what = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    tag = node.tag.removeprefix(_TAG)
    return yaml.constructor.ConstructorError(None, None, f"{what} is no !!{tag}", node.start_mark)


def _check(loader: Any, node: yaml.ScalarNode, *kinds: str) -> None:
    """What has its tag written before it need not be of that kind."""
    if loader.resolve(yaml.ScalarNode, node.value, (True, False)) not in {
        _TAG + kind for kind in kinds
    }:
        raise _wrong(node)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(node)
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != f"{_TAG}merge":
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} is given twice", key.start_mark
                )
            seen.add((key.tag, key.value))
    result: dict[Any, Any] = {}
    yield result
    result.update(loader.construct_mapping(node))


def _bool(loader: _Loader, node: yaml.ScalarNode) -> object:
    text = _scalar(node)
    if text in ("true", "false"):
        return text == "true"
    _check(loader, node, "bool")
    value = "true" if text.lower() in ("true", "yes", "on") else "false"
    return Plain(text, f"a boolean ({value})")


def _int(loader: _Loader, node: yaml.ScalarNode) -> object:
    text = _scalar(node)
    try:
        if _INT.fullmatch(text):
            value = int(text, 16 if "x" in text else 10)
            return value if value.bit_length() <= _MAX_BITS else Plain(text, "a number")
        _check(loader, node, "int")
        if ":" in text or text.lstrip("+-").replace("_", "") in ("0x", "0b"):
            return text  # base 60 in YAML 1.1, or without a digit: a text to kubectl
        return Plain(text, f"the number {loader.construct_yaml_int(node)}")
    except ValueError:  # of too many digits
        return Plain(text, "a number")


def _number(loader: _Loader, node: yaml.ScalarNode) -> object:
    text = _scalar(node)
    if not _NUMBER.match(text):
        _check(loader, node, "float", "int")
    return text if ":" in text else Plain(text, "a number")


def _text(loader: _Loader, node: yaml.ScalarNode) -> object:
    return _scalar(node)


_Loader.add_constructor(f"{_TAG}map", _mapping)
_Loader.add_constructor(f"{_TAG}bool", _bool)
_Loader.add_constructor(f"{_TAG}int", _int)
_Loader.add_constructor(f"{_TAG}float", _number)
_Loader.add_constructor(f"{_TAG}timestamp", _text)
_Loader.add_constructor(f"{_TAG}value", _text)
_Loader.add_implicit_resolver(f"{_TAG}float", _NUMBER, list("-+.0123456789"))


class _Measured(_Loader):
    """For texts with anchors."""

    def construct_document(self, node: yaml.Node) -> Any:
        sizes: dict[int, int] = {}
        if _size(node, sizes) - len(sizes) > MAX_REPEATED:
            raise yaml.constructor.ConstructorError(
                None, None, f"aliases stand for more than {MAX_REPEATED} values", node.start_mark
            )
        return super().construct_document(node)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values it is, with what aliases stand for. sizes: of each node, by its id"""
    known = sizes.get(id(node))
    if known is not None:
        if not known:
            raise yaml.constructor.ConstructorError(
                None, None, "an alias stands for what it is in", node.start_mark
            )
        return known
    sizes[id(node)] = 0
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_size(each, sizes) for each in node.value)
    elif isinstance(node, yaml.MappingNode):
        size += sum(_size(key, sizes) + _size(value, sizes) for key, value in node.value)
    sizes[id(node)] = size
    return size
