"""What tools need to know of a TLA+ module without a parser of TLA+: names and the list of actions.

A spec is read by the habits that specs here keep (and `lint` holds them to): one definition
starts in the first column, `CONSTANTS` and `VARIABLES` are lists of names, and the next-state
relation is flat, one action a line:

    Next ==
        \\/ \\E n \\in Nodes, k \\in 1..Max : Send(n, k)
        \\/ Crash

so that each step of a behaviour is one action with arguments, which a generated module can record.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from reconciler.errors import ConfigError

STANDARD: Final = frozenset(
    (
        *("Naturals", "Integers", "Reals", "Sequences", "FiniteSets", "Bags", "TLC", "TLCExt"),
        *("Toolbox", "Randomization", "Apalache", "Variants", "Option"),
    )
)
_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_CALL: Final = re.compile(rf"({_WORD})\s*(?:\((.*)\))?\s*\Z", re.DOTALL)
_SECTION: Final = re.compile(
    r"^\s*(CONSTANTS?|VARIABLES?)\b(.*?)(?=^\s*(?:CONSTANTS?|VARIABLES?|ASSUME|LOCAL|INSTANCE"
    rf"|RECURSIVE|THEOREM)\b|^{_WORD}(?:\([^)]*\))?\s*==|^\s*----|^\s*====)",
    re.MULTILINE | re.DOTALL,
)


class Action(msgspec.Struct, frozen=True):
    """One line of a flat next-state relation.

    text:  the whole line without its `\\/`
    name:  the action's operator
    args:  its arguments, as they are written
    """

    text: str
    name: str
    args: tuple[str, ...]


class Module(msgspec.Struct, frozen=True):
    """One module file; `code` is its text with comments blanked (offsets and lines are kept)."""

    name: str
    path: Path
    text: str
    code: str
    extends: tuple[str, ...]
    constants: tuple[str, ...]
    variables: tuple[str, ...]

    def definition(self, name: str) -> str | None:
        """What `name` is defined as (comments blanked), None if it is not defined here."""
        found = re.search(
            rf"^{name}(?:\([^)]*\))?\s*==(.*?)"
            rf"(?=^{_WORD}(?:\([^)]*\))?\s*==|^(?:CONSTANT|VARIABLE|ASSUME|THEOREM|RECURSIVE|LOCAL)"
            r"|^\s*-{4}|^\s*={4})",
            self.code,
            re.MULTILINE | re.DOTALL,
        )
        return found.group(1).strip("\n") if found else None


def read(path: Path) -> Module:
    """The module of a file. Raises ConfigError if it is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    code = blank_comments(text)
    head = re.search(rf"-{{4,}}\s*MODULE\s+({_WORD})\s*-{{4,}}", code)
    if head is None:
        raise ConfigError(f"{path}: no `---- MODULE name ----`")
    extends = re.search(rf"^\s*EXTENDS\s+({_WORD}(?:\s*,\s*{_WORD})*)", code, re.MULTILINE)
    names: dict[str, list[str]] = {"CONSTANT": [], "VARIABLE": []}
    for section in _SECTION.finditer(code):
        # an operator among the constants, `Op(_)`, is not a value and is left out
        listed = re.sub(rf"{_WORD}\s*\([^)]*\)", "", section.group(2))
        names[section.group(1).rstrip("S")] += re.findall(_WORD, listed)
    return Module(
        name=head.group(1),
        path=path,
        text=text,
        code=code,
        extends=tuple(re.split(r"\s*,\s*", extends.group(1))) if extends else (),
        constants=tuple(names["CONSTANT"]),
        variables=tuple(names["VARIABLE"]),
    )


def blank_comments(text: str) -> str:
    """The text with each comment replaced by spaces; strings are left alone."""
    out, depth, at = list(text), 0, 0
    while at < len(text):
        two = text[at : at + 2]
        if two == "(*" or (two == "*)" and depth):
            depth += 1 if two == "(*" else -1
            out[at] = out[at + 1] = " "
            at += 2
        elif depth:
            if text[at] != "\n":
                out[at] = " "
            at += 1
        elif two == "\\*":
            while at < len(text) and text[at] != "\n":
                out[at] = " "
                at += 1
        elif text[at] == '"':
            at += 1
            while at < len(text) and text[at] not in '"\n':
                at += 2 if text[at] == "\\" else 1
            at += 1
        else:
            at += 1
    return "".join(out)


def family(path: Path, libraries: Sequence[Path] = ()) -> tuple[Module, ...]:
    """The module and all that it extends, itself first; standard modules are left out.

    libraries: folders that are searched before the module's own.
    """
    found: dict[str, Module] = {}
    wanted = [path]
    while wanted:
        module = read(wanted.pop(0))
        if module.name in found:
            continue
        found[module.name] = module
        for name in module.extends:
            files = [folder / f"{name}.tla" for folder in (*libraries, module.path.parent)]
            file = next((file for file in files if file.is_file()), None)
            if file is not None:
                wanted.append(file)
            elif name not in STANDARD:
                raise ConfigError(f"{module.path}: extends {name}, which is not found")
    return tuple(found.values())


def constants(modules: Sequence[Module]) -> tuple[str, ...]:
    """Names of all constants that are values, in the order of their declaration."""
    return tuple(dict.fromkeys(name for module in modules for name in module.constants))


def variables(modules: Sequence[Module]) -> tuple[str, ...]:
    """Names of all variables, in the order of their declaration."""
    return tuple(dict.fromkeys(name for module in modules for name in module.variables))


def definition(modules: Sequence[Module], name: str) -> tuple[Module, str]:
    """The first module that defines `name`, and as what. Raises ConfigError."""
    for module in modules:
        text = module.definition(name)
        if text is not None:
            return module, text
    raise ConfigError(f"{modules[0].path}: no definition of {name}")


def actions(modules: Sequence[Module], name: str = "Next") -> tuple[Action, ...]:
    """The actions of a flat next-state relation. Raises ConfigError with the line that is not."""
    module, text = definition(modules, name)
    lines: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("\\/"):
            lines.append(line.strip()[2:].strip())
        elif line.strip():
            if not lines:
                raise ConfigError(
                    f"{module.path}: {name}: expected `\\/ \\E x \\in S : Action(x)`, "
                    f"not {line.strip()!r}"
                )
            lines[-1] += " " + line.strip()
    if not lines:
        raise ConfigError(f"{module.path}: {name} has no actions")
    return tuple(_action(module, name, line) for line in lines)


def _action(module: Module, name: str, line: str) -> Action:
    rest = line
    while rest.startswith("\\E"):
        parts = split(rest, ":", limit=1)
        if len(parts) != 2:
            raise ConfigError(f"{module.path}: {name}: {line!r} has no `:` behind its \\E")
        rest = parts[1].strip()
    found = _CALL.match(rest)
    if found is None:
        raise ConfigError(f"{module.path}: {name}: {rest!r} is not one action with its arguments")
    args = tuple(part.strip() for part in split(found.group(2), ",")) if found.group(2) else ()
    return Action(text=line, name=found.group(1), args=args)


def split(text: str, mark: str, limit: int = -1) -> list[str]:
    """The text cut at each `mark` that is inside no bracket and no string."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        if text[at] == '"':
            at = text.find('"', at + 1)
            if at < 0:
                break
        elif text.startswith("<<", at) or text[at] in "([{":
            depth += 1
            at += text.startswith("<<", at)
        elif text.startswith(">>", at) or text[at] in ")]}":
            depth -= 1
            at += text.startswith(">>", at)
        elif depth == 0 and text[at] == mark and text[at : at + 2] not in (":>", ":="):
            parts.append(text[start:at])
            start = at + 1
            if len(parts) == limit:
                break
        at += 1
    return [*parts, text[start:]]
