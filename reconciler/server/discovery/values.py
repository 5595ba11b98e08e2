"""What YAML and JSON have in common: a document as JSON's values, and the place of what is none.

A number that YAML alone writes so (`017`, `1_000`) and a boolean such as `on` are refused, with
the way to write what was meant (see `core.objects.yamlload`), and so are sets, bytes and the like.
A key that is a whole number, true or false becomes the text that JSON has in its place. What is
nested deeper than any message may be is refused here, before anything walks through it.
"""

from __future__ import annotations

import math
from typing import Any, Final

from reconciler.core.objects.yamlload import Plain

MAX_DEPTH: Final = 250
"""Values inside values. A message has at most 100 levels (`json_format`), and each of them may be
an entry of a list or a map, which is a level of its own; a wrapper comes on top."""


_LEAVES: Final = frozenset({str, int, float, bool, type(None)})


class Bad(ValueError):
    """path: "endpoints[0].priority", "" for the whole; title: what can be named of the resource."""

    def __init__(self, path: str, reason: str, title: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path, self.reason, self.title = path, reason, title


def plain(value: Any, path: str = "", depth: int = MAX_DEPTH) -> Any:
    """The value with texts as keys and with numbers as JSON has them; Bad: it has something else.

    One frame a level: the stack takes MAX_DEPTH of them wherever this is called.
    """
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is Plain:
        return _number(value, path)
    if kind is not dict and kind is not list:
        raise Bad(path, f"is of a kind that JSON does not have: {kind.__name__}")
    if depth == 0:
        raise Bad("", "nested too deeply")
    if kind is dict:
        fields: dict[str, Any] = {}
        for key, each in value.items():
            name = key if type(key) is str else _key(key, path)
            where = join(path, name)
            if name in fields:
                raise Bad(where, "is given twice")
            fields[name] = plain(each, where, depth - 1)
        return fields
    items: list[Any] = []
    for at, each in enumerate(value):
        items.append(plain(each, f"{path}[{at}]", depth - 1))
    return items


def _key(key: object, path: str) -> str:
    """path: of the mapping that it is in"""
    if isinstance(key, Plain):
        raise Bad(path, key.advice)
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(key)
    raise Bad(path, "a key must be a text")


def _number(value: Plain, path: str) -> float:
    if value.meaning != "a number":
        raise Bad(path, value.advice)
    try:
        found = float(value.text)
    except ValueError:  # .inf, 1_000.5
        found = math.inf
    if not math.isfinite(found):
        raise Bad(path, f"{value.text}: is no number in JSON")
    return found


def join(path: str, name: str) -> str:
    if not path or not name:
        return path or name
    return f"{path}{name}" if name.startswith("[") else f"{path}.{name}"
