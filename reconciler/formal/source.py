"""TLA+ source as tokens: positions, comments, declarations with their types, top-level definitions.

Not a parser of TLA+ (TLC's is the judge of syntax): enough to ask where something is used and what
an operator expands to. Text that is no TLA+ gives tokens too, never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import msgspec

from reconciler.errors import ConfigError

_TOP: Final = (
    "ASSUME ASSUMPTION AXIOM CONSTANT CONSTANTS EXTENDS INSTANCE LOCAL MODULE RECURSIVE THEOREM "
    "VARIABLE VARIABLES"
)
_INNER: Final = (
    "ACTION BY CASE CHOOSE DOMAIN ELSE ENABLED EXCEPT IF IN LAMBDA LET OTHER SF_ SUBSET THEN "
    "UNCHANGED UNION WF_ WITH"
)
_SECTIONS: Final = frozenset(_TOP.split())
KEYWORDS: Final = _SECTIONS.union(_INNER.split())
_TOKEN: Final = re.compile(
    r"""
    (?P<line>\\\*[^\n]*)
  | (?P<block>\(\*)
  | (?P<string>"(?:[^"\\\n]|\\.)*"?)
  | (?P<rule>-{4,}|={4,})
  | (?P<name>[0-9]*[A-Za-z_][A-Za-z0-9_]*)
  | (?P<number>[0-9]+)
  | (?P<op>\\[A-Za-z]+|\|->|<=>|\.\.\.|[|:]:=|==|=>|=<|<=|>=|/=|->|<-|<<|>>|<>|~>|\[\]|/\\|\\/|\.\.
        |::|:>|@@|\|\||\|-|-\||[^\s])
    """,
    re.VERBOSE,
)
_TYPE: Final = re.compile(r"@type:\s*([^;]*);")
OPEN: Final = {"(": ")", "[": "]", "{": "}", "<<": ">>"}
CLOSE: Final = {end: start for start, end in OPEN.items()}

Kind = Literal["name", "number", "string", "rule", "op", "comment"]


class Token(msgspec.Struct, frozen=True):
    """Line and column count from 1, as TLC's and Apalache's messages do."""

    kind: Kind
    text: str
    line: int
    column: int


class Declaration(msgspec.Struct, frozen=True):
    """A CONSTANT or a VARIABLE; `type` is its annotation's text, None without one."""

    kind: Literal["CONSTANT", "VARIABLE"]
    name: Token
    type: str | None


class Definition(msgspec.Struct, frozen=True):
    """A top-level `name(parameters) == body`; a function `name[x \\in S] == body` is `recursive`
    if its body uses the name."""

    name: Token
    parameters: tuple[str, ...]
    body: tuple[Token, ...]
    function: bool


class Source:
    """One module file."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.all_tokens = tuple(_tokens(text))

    @cached_property
    def tokens(self) -> tuple[Token, ...]:
        """Without comments, up to the end of the module."""
        code = [token for token in self.all_tokens if token.kind != "comment"]
        for at, token in enumerate(code):
            if token.kind == "rule" and token.text.startswith("="):
                return tuple(code[: at + 1])
        return tuple(code)

    @cached_property
    def extends(self) -> tuple[str, ...]:
        for at, token in enumerate(self.tokens):
            if token.text == "EXTENDS":
                return tuple(_listed(self.tokens, at + 1))
        return ()

    @cached_property
    def declarations(self) -> tuple[Declaration, ...]:
        return tuple(_declarations(self.all_tokens))

    @cached_property
    def definitions(self) -> Mapping[str, Definition]:
        return {one.name.text: one for one in _definitions(self.tokens)}


def read_source(path: Path) -> Source:
    """Raises ConfigError for a file that can't be read."""
    try:
        return Source(path, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None


def read_sources(module: Path, libraries: Iterable[Path] = ()) -> tuple[Source, ...]:
    """The module and what it extends, itself first, as far as files of those names are there.

    They are looked for in `libraries`, then in the module's own folder.
    """
    folders = (*libraries, module.parent)
    found: dict[Path, Source] = {}
    todo = [module]
    while todo:
        path = todo.pop(0)
        if path in found:
            continue
        found[path] = read_source(path)
        for name in found[path].extends:
            candidates = (folder / f"{name}.tla" for folder in folders)
            file = next((candidate for candidate in candidates if candidate.is_file()), None)
            if file is not None:
                todo.append(file)
    return tuple(found.values())


def closing(tokens: Sequence[Token], at: int) -> int:
    """Index of the bracket that closes the one at `at`, or the last index if none does."""
    depth = 0
    for index in range(at, len(tokens)):
        depth += (tokens[index].text in OPEN) - (tokens[index].text in CLOSE)
        if depth <= 0:
            return index
    return len(tokens) - 1


def opening(tokens: Sequence[Token], at: int) -> int:
    """Index of the bracket that the one at `at` closes, or 0."""
    depth = 0
    for index in range(at, -1, -1):
        depth += (tokens[index].text in CLOSE) - (tokens[index].text in OPEN)
        if depth <= 0:
            return index
    return 0


def _tokens(text: str) -> Iterable[Token]:
    at, line, start = 0, 1, 0  # start: offset at which the current line begins
    while True:
        found = _TOKEN.search(text, at)
        if found is None:
            return
        end = found.end()
        kind: Kind
        if found.lastgroup == "block":
            end = _block_end(text, found.start())
            kind = "comment"
        elif found.lastgroup == "line":
            kind = "comment"
        else:
            kind = found.lastgroup  # type: ignore[assignment]
        breaks = text.count("\n", at, found.start())
        if breaks:
            line += breaks
            start = text.rfind("\n", at, found.start()) + 1
        body = text[found.start() : end]
        yield Token(kind, body, line, found.start() - start + 1)
        if "\n" in body:
            line += body.count("\n")
            start = text.rfind("\n", 0, end) + 1
        at = end


def _block_end(text: str, at: int) -> int:
    """Comments nest."""
    depth = 0
    for mark in re.finditer(r"\(\*|\*\)", text[at:]):
        depth += 1 if mark.group() == "(*" else -1
        if depth == 0:
            return at + mark.end()
    return len(text)


def _listed(tokens: Sequence[Token], at: int) -> Iterable[str]:
    """The names of `a, b, c` from `at` on."""
    while at < len(tokens) and tokens[at].kind == "name" and tokens[at].text not in KEYWORDS:
        yield tokens[at].text
        if at + 1 >= len(tokens) or tokens[at + 1].text != ",":
            return
        at += 2


def _declarations(tokens: Sequence[Token]) -> Iterable[Declaration]:
    at = 0
    while at < len(tokens):
        word = tokens[at].text if tokens[at].kind == "name" else ""
        at += 1
        if word not in ("CONSTANT", "CONSTANTS", "VARIABLE", "VARIABLES"):
            continue
        annotation: str | None = None
        while at < len(tokens):
            token = tokens[at]
            if token.kind == "comment":
                found = _TYPE.search(token.text)
                annotation = found[1].strip() if found else annotation
                at += 1
                continue
            if token.kind != "name" or token.text in KEYWORDS:
                break
            kind: Literal["CONSTANT", "VARIABLE"]
            kind = "CONSTANT" if word.startswith("C") else "VARIABLE"
            yield Declaration(kind, token, annotation)
            annotation = None
            at += 1
            if at < len(tokens) and tokens[at].text == "(":  # an operator: Op(_, _)
                at = closing(tokens, at) + 1
            while at < len(tokens) and tokens[at].kind == "comment":
                at += 1
            if at >= len(tokens) or tokens[at].text != ",":
                break
            at += 1


def _definitions(tokens: Sequence[Token]) -> Iterable[Definition]:
    """Definitions at the top: outside of LET … IN and of any bracket."""
    starts: list[tuple[int, int]] = []  # (index of the name, index of ==)
    ends: list[int] = []
    depth = 0
    for at, token in enumerate(tokens):
        if token.text in OPEN or token.text == "LET":
            depth += 1
        elif token.text in CLOSE or token.text == "IN":
            depth -= 1
        elif depth == 0 and token.text == "==":
            head = at - 1
            if head >= 0 and tokens[head].text in (")", "]"):
                head = opening(tokens, head) - 1
            if head >= 0 and tokens[head].kind == "name":
                starts.append((head, at))
                ends.append(head)
        elif depth <= 0 and (token.kind == "rule" or token.text in _SECTIONS):
            ends.append(at)
            depth = 0
    ends.append(len(tokens))
    for head, equals in starts:
        end = min(end for end in ends if end > equals)
        inside = tokens[head + 2 : equals - 1]
        function = equals > head + 1 and tokens[head + 1].text == "["
        parameters = tuple(token.text for token in inside if token.kind == "name" and not function)
        yield Definition(tokens[head], parameters, tuple(tokens[equals + 1 : end]), function)
