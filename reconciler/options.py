"""Options of the processes: a class of fields makes flags, variables, file keys and documentation.

A field of a `Configuration` is a flag (`--drain-seconds`), a variable (`RECONCILER_DRAIN_SECONDS`)
and a key of the TOML file (`drain-seconds` in the class's table). Precedence: flag, variable, file,
default. The command line's options, the validation and the table in the documentation all come from
the class.

A wrong value is refused with the place that it came from and the field's name; nothing starts on
half a configuration. An unknown key in the file is wrong, so that a misspelt option can't be
silently off.
"""

from __future__ import annotations

import inspect
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from reconciler.errors import ConfigError

CONFIG_ENV = "RECONCILER_CONFIG"
TABLES = ("server", "agent", "xds")

Refuse = Callable[[str, str], typing.NoReturn]
"""(field, reason): raises the ConfigError that names where the field's value came from."""


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """table: of the file; variables: what their names begin with."""

    table: ClassVar[str]
    variables: ClassVar[str]

    def check(self, refuse: Refuse) -> None:
        """Refuse what no single field can tell; nothing, where a class does not say."""


C = TypeVar("C", bound=Configuration)


class Option(msgspec.Struct, frozen=True):
    """One field of a configuration, in all the forms that it is written in."""

    field: str
    flag: str
    env: str
    key: str
    type: Any
    kind: str  # "text", "number", "switch", "list" or "choice"
    choices: tuple[str, ...]
    default: Any
    help: str


class Loaded(msgspec.Struct, Generic[C], frozen=True):
    """A valid configuration, and where each field's value came from ("" for a default)."""

    config: C
    sources: dict[str, str]


def options(cls: type[Configuration]) -> tuple[Option, ...]:
    """The options in the order in which they are written."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in msgspec.structs.fields(cls):
        hint = hints[field.name]
        bare = _bare(hint)
        found.append(
            Option(
                field=field.name,
                flag="--" + field.encode_name.replace("_", "-"),
                env=cls.variables + field.name.upper(),
                key=field.name.replace("_", "-"),
                type=hint,
                kind=_kind(bare),
                choices=typing.get_args(bare) if typing.get_origin(bare) is Literal else (),
                default=field.default,
                help=next(
                    meta.description
                    for meta in hint.__metadata__
                    if isinstance(meta, Meta) and meta.description
                ),
            )
        )
    return tuple(found)


def _bare(hint: Any) -> Any:
    return _bare(hint.__origin__) if hasattr(hint, "__metadata__") else hint


def _kind(bare: Any) -> str:
    if typing.get_origin(bare) is Literal:
        return "choice"
    if typing.get_origin(bare) is tuple:
        return "list"
    return {bool: "switch", int: "number", float: "number"}.get(bare, "text")


def load(
    cls: type[C],
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: str | None = None,
) -> Loaded[C]:
    """Merge flags (None or an empty list: not given), environment and file; check everything.

    Raises ConfigError whose text begins with the source and the field:
    "RECONCILER_DEBOUNCE_MS: Expected `int` <= 60000".
    """
    path = file or environ.get(CONFIG_ENV) or ""
    from_file = _read(path, cls.table) if path else {}
    known = {option.key for option in options(cls)}
    for key in from_file:
        if key not in known:
            raise ConfigError(f"{path}: [{cls.table}] {key}: no such option")
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in options(cls):
        flag = flags.get(option.field)
        if flag is not None and flag != [] and flag != ():
            value, source = flag, option.flag
        elif environ.get(option.env):
            value, source = _from_env(option, environ[option.env]), option.env
        elif option.key in from_file:
            value, source = from_file[option.key], f"{path}: [{cls.table}] {option.key}"
        else:
            continue
        try:
            loose = source == option.env
            values[option.field] = msgspec.convert(value, option.type, strict=not loose)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{source}: {error}") from None
        sources[option.field] = source
    loaded = Loaded(cls(**values), sources)

    def refuse(field: str, reason: str) -> typing.NoReturn:
        named = next(o for o in options(cls) if o.field == field)
        raise ConfigError(f"{sources.get(field, named.flag)}: {reason}")

    loaded.config.check(refuse)
    return loaded


def _read(path: str, table: str) -> dict[str, Any]:
    try:
        data = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    for name, value in data.items():
        if name not in TABLES or not isinstance(value, dict):
            known = ", ".join(f"[{each}]" for each in TABLES)
            raise ConfigError(f"{path}: {name}: only the tables {known} are known")
    found: dict[str, Any] = data.get(table, {})
    return found


def _from_env(option: Option, text: str) -> Any:
    if option.kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if option.kind == "switch":
        return text.lower() if text.lower() in ("true", "false") else text
    return text


def typer_parameters(cls: type[Configuration]) -> list[inspect.Parameter]:
    """Keyword parameters, one an option, for a typer command; None means not given.

    Imported by the command line only, so that reading a configuration needs no typer.
    """
    import typer

    parameters = []
    for option in options(cls):
        kind: Any = {"switch": bool, "list": list[str]}.get(option.kind, str)
        if option.kind == "number":
            kind = _bare(option.type)
        names = (f"{option.flag}/--no-{option.key}",) if option.kind == "switch" else (option.flag,)
        choices = option.choices
        info = typer.Option(
            *names,
            help=f"{option.help} [env: {option.env}; default: {shown(option)}]",
            show_default=False,
            metavar="|".join(choices) if choices else None,
            autocompletion=_completing(choices) if choices else None,
        )
        parameters.append(
            inspect.Parameter(
                option.field,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, info],
            )
        )
    return parameters


def _completing(choices: tuple[str, ...]) -> Callable[[], list[str]]:
    def complete() -> list[str]:
        return list(choices)

    return complete


def shown(option: Option) -> str:
    """The default as the documentation writes it."""
    if option.kind == "switch":
        return "on" if option.default else "off"
    if option.kind == "list" or option.default == "":
        return "none"
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def docs_table(cls: type[Configuration]) -> str:
    """The options as a Markdown table, with a line for each."""
    rows = ["| flag | variable | key in the file | default | meaning |", "|---|---|---|---|---|"]
    for o in options(cls):
        flag = f"`{o.flag}`" + (f" / `--no-{o.key}`" if o.kind == "switch" else "")
        meaning = o.help + (f" One of `{'`, `'.join(o.choices)}`." if o.choices else "")
        rows.append(f"| {flag} | `{o.env}` | `{o.key}` | {shown(o)} | {meaning} |")
    return "\n".join(rows) + "\n"
