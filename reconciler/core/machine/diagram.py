"""Draws a machine for documents and the status page: mermaid or Graphviz text, made by hand."""

from __future__ import annotations

from typing import Literal

from reconciler.core.machine.model import Model, Transition

Format = Literal["mermaid", "dot"]


def diagram(model: Model, format: Format = "mermaid") -> str:
    """The machine as text, rows with the same two states joined into one arrow.

    A line of an arrow reads `trigger [guard] / effect, effect`.
    """
    arrows: dict[tuple[str, str], list[str]] = {}
    for row in model.transitions:
        arrows.setdefault((row.source, row.dest), []).append(_label(row))
    return _mermaid(model, arrows) if format == "mermaid" else _dot(model, arrows)


def _label(row: Transition) -> str:
    guard = f" [{row.guard}]" if row.guard else ""
    effects = f" / {', '.join(row.effects)}" if row.effects else ""
    return f"{row.trigger}{guard}{effects}"


def _mermaid(model: Model, arrows: dict[tuple[str, str], list[str]]) -> str:
    # A hyphen ends an identifier in mermaid, hence the alias.
    lines = [f"%% {model.name}: {model.summary}", "stateDiagram-v2"]
    for name, state in model.states.items():
        lines += [f"    %% {name}: {state.meaning}", f'    state "{name}" as {_alias(name)}']
    lines.append(f"    [*] --> {_alias(model.initial)}")
    for (source, dest), labels in arrows.items():
        lines.append(f"    {_alias(source)} --> {_alias(dest)} : {'<br/>'.join(labels)}")
    lines += [f"    {_alias(name)} --> [*]" for name, state in model.states.items() if state.final]
    return "\n".join(lines) + "\n"


def _alias(state: str) -> str:
    return state.replace("-", "_")


def _dot(model: Model, arrows: dict[tuple[str, str], list[str]]) -> str:
    lines = [
        f"digraph {_quoted(model.name)} {{",
        f"  tooltip={_quoted(model.summary)};",
        "  node [shape=box, style=rounded];",
        "  start [shape=point];",
        f"  start -> {_quoted(model.initial)};",
    ]
    for name, state in model.states.items():
        border = ", peripheries=2" if state.final else ""
        lines.append(f"  {_quoted(name)} [tooltip={_quoted(state.meaning)}{border}];")
    for (source, dest), labels in arrows.items():
        text = _quoted("\\n".join(labels))
        lines.append(f"  {_quoted(source)} -> {_quoted(dest)} [label={text}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
