"""TLC's configuration files (.cfg): what they say, and writing a changed one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal.module import Module, blank_comments, definition

_PLURAL: Final = {
    "CONSTANTS": "CONSTANT",
    "INVARIANTS": "INVARIANT",
    "PROPERTIES": "PROPERTY",
    "CONSTRAINTS": "CONSTRAINT",
    "ACTION_CONSTRAINTS": "ACTION_CONSTRAINT",
}
_KEYWORDS: Final = (
    *("SPECIFICATION", "INIT", "NEXT", "CONSTANT", "INVARIANT", "PROPERTY", "CONSTRAINT"),
    *("ACTION_CONSTRAINT", "SYMMETRY", "VIEW", "CHECK_DEADLOCK", "ALIAS", "POSTCONDITION"),
)
_KEYWORD: Final = re.compile(
    rf"(?<![\w.])({'|'.join([*_PLURAL, *_KEYWORDS])})(?!\w)(?!\s*(?:=|<-))"
)
_PREDICATE: Final = re.compile(r"\s*(?:/\\\s*)?(\w+)\s*/\\\s*\[\]\s*\[\s*(\w+)\s*\]_")
_FIRST: Final = re.compile(r"\s*(?:/\\\s*)?(\w+)\s*/\\")


class Config(msgspec.Struct, frozen=True):
    """A configuration; `sections` are the texts behind each keyword (in the singular)."""

    path: Path
    sections: Mapping[str, tuple[str, ...]]

    def names(self, keyword: str) -> tuple[str, ...]:
        """The names listed under a keyword."""
        return tuple(name for text in self.sections.get(keyword, ()) for name in text.split())

    @property
    def properties(self) -> tuple[str, ...]:
        """Everything that TLC checks under this configuration: invariants, then properties."""
        return self.names("INVARIANT") + self.names("PROPERTY")

    def behaviour(self, modules: Sequence[Module]) -> tuple[str, str]:
        """Names of the initial predicate and of the next-state relation. Raises ConfigError."""
        init, following = self.names("INIT"), self.names("NEXT")
        if init and following:
            return init[0], following[0]
        given = self.names("SPECIFICATION")
        if not given:
            raise ConfigError(f"{self.path}: neither SPECIFICATION nor INIT and NEXT")
        name, seen = given[0], set[str]()
        while name not in seen:
            seen.add(name)
            module, text = definition(modules, name)
            found = _PREDICATE.match(text)
            if found is not None:
                return found.group(1), found.group(2)
            other = _FIRST.match(text)
            if other is None:
                break
            name = other.group(1)
        raise ConfigError(f"{module.path}: {name} is not of the form Init /\\ [][Next]_vars")

    def text(self, keywords: Sequence[str]) -> str:
        """The sections of these keywords as the text of a configuration."""
        return "".join(
            f"{keyword}\n{text}\n"
            for keyword in keywords
            for text in self.sections.get(keyword, ())
        )


def read(path: Path) -> Config:
    """The configuration of a file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    code = blank_comments(text)
    found = list(_KEYWORD.finditer(code))
    if code[: found[0].start() if found else len(code)].strip():
        raise ConfigError(f"{path}: does not begin with a keyword such as SPECIFICATION")
    sections: dict[str, list[str]] = {}
    for match, following in zip(found, [*found[1:], None], strict=True):
        end = following.start() if following else len(code)
        keyword = _PLURAL.get(match.group(1), match.group(1))
        sections.setdefault(keyword, []).append(code[match.end() : end].strip())
    return Config(path, {keyword: tuple(texts) for keyword, texts in sections.items()})
