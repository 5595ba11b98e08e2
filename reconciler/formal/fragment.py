"""Is a module inside the fragment of TLA+ that Apalache takes? Found before the tool is asked.

TLC takes all of these, so nothing but this (or the tool, if it is there) would tell:

    type        a CONSTANT or VARIABLE without `\\* @type: …;` right before its name
    recursive   RECURSIVE, or a function that is defined by itself; use a fold or a comprehension
    unbounded   \\E, \\A or CHOOSE without `\\in`
    infinite    a variable that ranges over Int, Nat, Real or STRING
    sequences   Seq(S): infinite. Bound the elements instead: \\A i \\in DOMAIN s : s[i] \\in S
    range       a..b where a or b is no constant, as in 2..Len(s). With constants c and d around
                them: {i \\in c..d : a <= i /\\ i <= b}; or \\E i \\in DOMAIN s : i >= 2 /\\ …
    temporal    \\EE, \\AA

The types of operators are for the tool's own checker.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.formal.source import (
    CLOSE,
    KEYWORDS,
    OPEN,
    Definition,
    Source,
    Token,
    closing,
    opening,
    read_sources,
)

INFINITE: Final = frozenset(("Int", "Nat", "Real", "STRING"))
_QUANTIFIERS: Final = frozenset(("\\E", "\\A", "\\exists", "\\forall", "CHOOSE"))
_ARITHMETIC: Final = frozenset(("+", "-", "*", "^", "%", "\\div"))
_NUMERIC: Final = frozenset(("(", ")", ",", *_ARITHMETIC))


class Finding(msgspec.Struct, frozen=True, order=True):
    """One place that Apalache would refuse."""

    path: Path
    line: int
    column: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.rule}: {self.text}"


def lint(module: Path, libraries: Iterable[Path] = ()) -> list[Finding]:
    """Findings in the module and in all that it extends, each place once, in order."""
    sources = read_sources(module, libraries)
    return sorted({one for source in sources for one in _lint(source, sources)})


def _lint(source: Source, family: Sequence[Source]) -> Iterable[Finding]:
    folding = _Folding(family)

    def finding(token: Token, rule: str, text: str) -> Finding:
        return Finding(source.path, token.line, token.column, rule, text)

    for declaration in source.declarations:
        if not declaration.type:
            name = declaration.name
            yield finding(name, "type", f"{declaration.kind} {name.text} has no @type")
    for definition in source.definitions.values():
        name = definition.name
        if definition.function and any(token.text == name.text for token in definition.body):
            yield finding(name, "recursive", f"function {name.text} is defined by itself")
    tokens = source.tokens
    for at, token in enumerate(tokens):
        if token.kind == "string":
            continue
        if token.text == "RECURSIVE":
            yield finding(token, "recursive", "RECURSIVE operators")
        elif token.text in ("\\EE", "\\AA"):
            yield finding(token, "temporal", f"{token.text} is not supported")
        elif token.text == "Seq" and _text(tokens, at + 1) == "(":
            yield finding(token, "sequences", "Seq(S) is infinite")
        elif token.text == "..":
            for bound in (_left(tokens, at), _right(tokens, at)):
                if not folding.constant(bound):
                    words = " ".join(word.text for word in bound)
                    yield finding(token, "range", f"the bound {words} is not constant")
        elif token.text in _QUANTIFIERS:
            end = _bound_names(tokens, at + 1)
            if _text(tokens, end) != "\\in":
                yield finding(token, "unbounded", f"{token.text} without \\in")
            elif _infinite(tokens, end + 1):
                yield finding(token, "infinite", f"ranges over {_text(tokens, end + 1)}")
        elif token.text in ("{", "["):
            end = _bound_names(tokens, at + 1)
            if end > at + 1 and _text(tokens, end) == "\\in" and _infinite(tokens, end + 1):
                yield finding(token, "infinite", f"ranges over {_text(tokens, end + 1)}")


def _text(tokens: Sequence[Token], at: int) -> str:
    return tokens[at].text if at < len(tokens) else ""


def _bound_names(tokens: Sequence[Token], at: int) -> int:
    """Index behind `x`, `x, y` or `<<x, y>>`."""
    if _text(tokens, at) == "<<":
        return closing(tokens, at) + 1
    while at < len(tokens) and tokens[at].kind == "name" and tokens[at].text not in KEYWORDS:
        at += 1
        if _text(tokens, at) != ",":
            break
        at += 1
    return at


def _infinite(tokens: Sequence[Token], at: int) -> bool:
    """Is the set at `at` an infinite one and nothing else (not `Nat \\cap S`)?"""
    return _text(tokens, at) in INFINITE and _text(tokens, at + 1) in (":", ",", "|->", "}", "]")


def _right(tokens: Sequence[Token], at: int) -> Sequence[Token]:
    """The right bound of the range at `at`: what binds closer than `..`."""
    end = at + 1
    while end < len(tokens):
        if _text(tokens, end) == "-":  # negative
            end += 1
        end = _primary(tokens, end)
        if _text(tokens, end) not in _ARITHMETIC:
            break
        end += 1
    return tokens[at + 1 : end]


def _primary(tokens: Sequence[Token], at: int) -> int:
    """Index behind a number, name, call, application, field or parenthesis."""
    if _text(tokens, at) == "(":
        return closing(tokens, at) + 1
    at += 1
    while _text(tokens, at) in ("(", "[", ".", "'", "!"):
        at = (
            closing(tokens, at) + 1
            if _text(tokens, at) in ("(", "[")
            else at + 1 + (_text(tokens, at) != "'")
        )
    return at


def _left(tokens: Sequence[Token], at: int) -> Sequence[Token]:
    start = at
    while start > 0:
        before = tokens[start - 1]
        if before.text in (")", "]"):
            start = opening(tokens, start - 1)
        elif before.kind in ("name", "number"):
            if before.text in KEYWORDS:
                break
            start -= 1
        elif before.text in _ARITHMETIC or before.text in (".", "'", "!"):
            start -= 1
        else:
            break
    return tokens[start:at]


class _Folding:
    """Which expressions the tool can fold to a number: made of numbers, constants and operators of
    such. A parameter is one if it is at every call, since operators are expanded."""

    def __init__(self, family: Sequence[Source]) -> None:
        self._constants = {
            one.name.text
            for source in family
            for one in source.declarations
            if one.kind == "CONSTANT"
        }
        self._definitions: dict[str, Definition] = {}
        self._calls: dict[str, list[tuple[Sequence[Token], ...]]] = {}
        self._home: dict[int, Definition] = {}
        for source in reversed(family):
            self._definitions.update(source.definitions)
        for source in family:
            for definition in source.definitions.values():
                self._home.update((id(token), definition) for token in definition.body)
            for at, token in enumerate(source.tokens):
                if token.text in self._definitions and _text(source.tokens, at + 1) == "(":
                    end = closing(source.tokens, at + 1)
                    arguments = _arguments(source.tokens[at + 2 : end])
                    if _text(source.tokens, end + 1) != "==":
                        self._calls.setdefault(token.text, []).append(arguments)

    def constant(self, expression: Sequence[Token], depth: int = 0) -> bool:
        return bool(expression) and all(self._token(token, depth) for token in expression)

    def _token(self, token: Token, depth: int) -> bool:
        if token.kind == "number" or token.text in _NUMERIC or token.text in self._constants:
            return True
        if token.kind != "name" or depth > _DEPTH:
            return False
        home = self._home.get(id(token))
        if home is not None and token.text in home.parameters and not home.function:
            place = home.parameters.index(token.text)
            given = self._calls.get(home.name.text, [])
            return bool(given) and all(
                place < len(arguments) and self.constant(arguments[place], depth + 1)
                for arguments in given
            )
        used = self._definitions.get(token.text)
        if used is None or used.function:
            return False
        return self.constant(used.body, depth + 1)


_DEPTH: Final = 8


def _arguments(tokens: Sequence[Token]) -> tuple[Sequence[Token], ...]:
    """Cut at the commas that are in no bracket."""
    found: list[Sequence[Token]] = []
    start = depth = 0
    for at, token in enumerate(tokens):
        depth += (token.text in OPEN) - (token.text in CLOSE)
        if token.text == "," and depth == 0:
            found.append(tokens[start:at])
            start = at + 1
    return (*found, tokens[start:])
