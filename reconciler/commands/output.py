"""How commands print: columns as kubectl's, or JSON, YAML and CSV without any colour.

Data goes to standard output, one-line errors to standard error. Exit codes:

    0  done
    1  it ran and the answer is no: problems found, verdicts differ, a check of the demo failed
    2  wrong usage or configuration
    3  a server, agent or socket could not be reached
"""

from __future__ import annotations

import csv
import enum
import inspect
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import msgspec

from reconciler.errors import ConfigError

FAILED: Final = 1
MAX_CELL: Final = 100


class Format(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


Column = tuple[str, Callable[[Mapping[str, Any]], object]]


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner with what goes on, on standard error; nothing without a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


def with_json(function: Callable[..., Any]) -> Callable[..., Any]:
    """A typer command that has `-o`, with `--json` for `-o json`."""
    import typer

    def command(*, as_json: bool = False, **values: Any) -> Any:
        return function(**(values | {"output": Format.JSON} if as_json else values))

    said = Annotated[bool, typer.Option("--json", help="The same as -o json.")]
    signature = inspect.signature(function, eval_str=True)
    assert "output" in signature.parameters, f"{function} has no -o"
    parameters = [
        *(each.replace(kind=each.KEYWORD_ONLY) for each in signature.parameters.values()),
        inspect.Parameter(
            "as_json",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=said,
        ),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__doc__ = function.__doc__  # the help text, where none is given
    return command


def emit(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], form: Format) -> None:
    """Print rows; machine forms have every field, the table these columns."""
    if form is Format.TABLE:
        print(table([name for name, _ in columns], [[f(row) for _, f in columns] for row in rows]))
    elif form is Format.CSV:
        print(as_csv(rows), end="")
    else:
        emit_value(rows, form)


def emit_value(value: object, form: Format) -> None:
    """One value as JSON (or YAML)."""
    plain = msgspec.to_builtins(value)
    if form is Format.YAML:
        sys.stdout.write(msgspec.yaml.encode(plain).decode())
    elif form is Format.JSON:
        print(msgspec.json.format(msgspec.json.encode(plain), indent=2).decode())
    else:
        raise ConfigError(f"-o {form}: this command prints table, json and yaml")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as kubectl prints them: capitals, three spaces, no frames."""
    text = [[_cell(value) for value in row] for row in rows]
    widths = [
        max(len(name), *(len(row[at]) for row in text)) if text else len(name)
        for at, name in enumerate(header)
    ]
    lines = [
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in ([name.upper() for name in header], *text)
    ]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "<none>"
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value)) or "<none>"
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def revision(number: int) -> str:
    """A revision as epoch.sequence: 4294967299 is 1.3."""
    return f"{number >> 32}.{number & 0xFFFFFFFF}" if number else "none"
