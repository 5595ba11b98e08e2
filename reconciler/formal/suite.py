"""The manifest of a folder of specs: what is checked, how, and what each spec stands for.

specs.toml:

    [[spec]]
    name = "Allocation"                        # specs/Allocation.tla
    rules = ["R1", "R2"]                       # what it upholds, for people
    machines = { identity = "life" }           # models/identity.toml <- variable: key -> state
    adapter = "package.module:Adapter"         # spec -> code, for replay
    trace = "package.module:TRACE"             # code -> spec, for traces

    [[spec.run]]
    module = "MCAllocation"                    # specs/mc/MCAllocation.tla
    config = "MCAllocationLive"                # specs/mc/….cfg; the module's name by default
    kind = "liveness"                          # safety, liveness, graph, refinement or deep
    seconds = 60                               # of a processor: the most that it may take
    states = 1000                              # fewer distinct states fail: nothing was searched
    machines = ["identity"]                    # graph: compared with these only; all by default
    also = ["MCAllocationSmall"]               # graph: the rows of these graphs count with its own

    [[spec.symbolic]]                          # what Apalache is asked, where it is there
    module = "APAllocation"                    # specs/mc/APAllocation.tla
    constants = "ConstInit"                    # the operator that gives the constants values
    invariants = ["UniqueNumbers"]             # checked on all behaviours of up to `length` steps
    length = 8
    inductive = "IndInv"                       # kept by every step; then the invariants follow
    seconds = 600                              # for each query

mutants/<Name>.toml, one file a spec:

    [[mutant]]
    name = "free-without-clear"
    run = "MCAllocation"                       # the configuration it is checked under
    find = "text that occurs once in specs/<Name>.tla"
    replace = "what stands there instead"
    falls = "ReuseIsSafe"                      # a property, or a list: any of them
    # survives = "why no property needs it; the largest constants tried"    instead of falls
    # file = "mc/MCAllocation.tla"             if the text is in another file than specs/<Name>.tla
    # ci = true                                quick enough to run with every test

Everything that is unknown, missing or twice is refused with file, entry and field.
"""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal import config


class Kind(enum.StrEnum):
    """What a run is for. Deep ones are run on request only."""

    SAFETY = "safety"
    LIVENESS = "liveness"
    GRAPH = "graph"
    REFINEMENT = "refinement"
    DEEP = "deep"


class Run(msgspec.Struct, frozen=True):
    """One model and its bounds. `config` names it: no two runs of a spec share one."""

    spec: str
    module: Path
    config: Path
    kind: Kind
    seconds: float
    states: int
    properties: tuple[str, ...]
    machines: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.config.stem


class Symbolic(msgspec.Struct, frozen=True):
    """Questions to a symbolic checker about one module; `length` 0 asks no bounded one."""

    module: Path
    constants: str
    invariants: tuple[str, ...]
    length: int
    inductive: str
    seconds: float


class Spec(msgspec.Struct, frozen=True):
    """One spec of the manifest; `machines` maps a machine's name to its variable."""

    name: str
    path: Path
    rules: tuple[str, ...]
    machines: Mapping[str, str]
    adapter: str
    trace: str
    runs: tuple[Run, ...]
    symbolic: tuple[Symbolic, ...] = ()

    def of(self, *kinds: Kind) -> tuple[Run, ...]:
        """The runs of these kinds."""
        return tuple(run for run in self.runs if run.kind in kinds)


class Mutant(msgspec.Struct, frozen=True):
    """One change of one text; `falls` are the properties of which one must fall."""

    spec: str
    name: str
    file: Path
    run: Run
    find: str
    replace: str
    falls: tuple[str, ...]
    survives: str
    ci: bool
    seconds: float


class Suite(msgspec.Struct, frozen=True):
    """All specs of a folder; modules are searched in `libraries` before their own folder."""

    folder: Path
    specs: tuple[Spec, ...]
    mutants: tuple[Mutant, ...]

    @property
    def libraries(self) -> tuple[Path, ...]:
        return (self.folder, self.folder / "mc")

    def spec(self, name: str) -> Spec:
        """The spec of that name. Raises ConfigError that lists those there are."""
        for spec in self.specs:
            if spec.name == name:
                return spec
        raise ConfigError(f"no spec {name!r}; there are {', '.join(s.name for s in self.specs)}")


class _Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    module: str
    kind: Kind
    config: str = ""
    seconds: float = 60
    states: int = 100
    machines: list[str] | None = None
    also: list[str] = []


class _Symbolic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    module: str
    constants: str = ""
    invariants: list[str] = []
    length: int = 0
    inductive: str = ""
    seconds: float = 600


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    run: list[_Run]
    symbolic: list[_Symbolic] = []
    rules: list[str] = []
    machines: dict[str, str] = {}
    adapter: str = ""
    trace: str = ""


class _Specs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    spec: list[_Spec]


class _Mutant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    run: str
    find: str
    replace: str
    spec: str = ""
    falls: str | list[str] = []
    survives: str = ""
    file: str = ""
    ci: bool = False
    seconds: float = 0


class _Mutants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mutant: list[_Mutant]


def load(folder: Path) -> Suite:
    """The suite of a folder. Raises ConfigError: file, entry, field and reason."""
    file = folder / "specs.toml"
    content = _convert(file, _Specs)
    _once(file, "spec", (entry.name for entry in content.spec))
    specs = tuple(_spec(folder, file, entry) for entry in content.spec)
    known = {spec.name: spec for spec in specs}
    mutants: list[Mutant] = []
    for path in sorted((folder / "mutants").glob("*.toml")):
        if path.stem not in known:
            raise ConfigError(f"{path}: specs.toml has no spec {path.stem!r}")
        entries = _convert(path, _Mutants).mutant
        _once(path, "mutant", (entry.name for entry in entries))
        mutants += [_mutant(folder, path, known[path.stem], entry) for entry in entries]
    return Suite(folder, specs, tuple(mutants))


def _convert(file: Path, kind: type[Any]) -> Any:
    """The file's TOML as `kind`; messages name entries, counted from 0."""
    try:
        return msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), kind)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _once(file: Path, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{file}: {what} {name!r} is there twice")
        seen.add(name)


def _file(where: str, path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(f"{where}: {path} is not a file")
    return path


def _spec(folder: Path, file: Path, entry: _Spec) -> Spec:
    where = f"{file}: spec {entry.name!r}"
    path = _file(where, folder / f"{entry.name}.tla")
    for field, given in (("adapter", entry.adapter), ("trace", entry.trace)):
        module, _, name = given.partition(":")
        if given and not (module and name.isidentifier()):
            raise ConfigError(f"{where}: {field}: {given!r} is not package.module:NAME")
    runs = tuple(_run(folder, where, entry, run) for run in entry.run)
    _once(file, f"spec {entry.name!r}: run", (run.name for run in runs))
    graphs = [run.name for run in runs if run.kind is Kind.GRAPH]
    for run in runs:
        for name in run.also:
            if name not in graphs or run.name not in graphs or name == run.name:
                other = ", ".join(graphs)
                raise ConfigError(f"{where}: run {run.name!r}: also: {name!r} is not of {other}")
    if not runs:
        raise ConfigError(f"{where}: run: none is given")
    if entry.machines and not any(run.kind is Kind.GRAPH for run in runs):
        raise ConfigError(f"{where}: machines: no run of kind graph to compare them with")
    return Spec(
        name=entry.name,
        path=path,
        rules=tuple(entry.rules),
        machines=dict(entry.machines),
        adapter=entry.adapter,
        trace=entry.trace,
        runs=runs,
        symbolic=tuple(_symbolic(folder, where, entry) for entry in entry.symbolic),
    )


def _symbolic(folder: Path, where: str, entry: _Symbolic) -> Symbolic:
    where = f"{where}: symbolic {entry.module!r}"
    if entry.length and not entry.invariants:
        raise ConfigError(f"{where}: length: no invariants are given to check")
    if not entry.length and not entry.inductive:
        raise ConfigError(f"{where}: neither length nor inductive: nothing is asked")
    return Symbolic(
        module=_file(f"{where}: module", folder / "mc" / f"{entry.module}.tla"),
        constants=entry.constants,
        invariants=tuple(entry.invariants),
        length=entry.length,
        inductive=entry.inductive,
        seconds=entry.seconds,
    )


def _run(folder: Path, where: str, spec: _Spec, entry: _Run) -> Run:
    name = entry.config or entry.module
    where = f"{where}: run {name!r}"
    module = _file(f"{where}: module", folder / "mc" / f"{entry.module}.tla")
    path = _file(f"{where}: config", folder / "mc" / f"{name}.cfg")
    properties = config.read(path).properties
    if not properties and entry.kind is not Kind.GRAPH:
        raise ConfigError(f"{where}: {path} names no property: nothing would be checked")
    known = spec.machines if entry.kind is Kind.GRAPH else {}
    chosen = tuple(known if entry.machines is None else entry.machines)
    for machine in chosen:
        if machine not in known:
            raise ConfigError(f"{where}: machines: {machine!r} is not one of {', '.join(known)}")
    return Run(
        spec=spec.name,
        module=module,
        config=path,
        kind=entry.kind,
        seconds=entry.seconds,
        states=entry.states,
        properties=properties,
        machines=chosen,
        also=tuple(entry.also),
    )


def _mutant(folder: Path, file: Path, spec: Spec, entry: _Mutant) -> Mutant:
    where = f"{file}: mutant {entry.name!r}"
    if entry.spec not in ("", spec.name):
        raise ConfigError(f"{where}: spec: {entry.spec!r} has a file of its own")
    run = next((run for run in spec.runs if run.name == entry.run), None)
    if run is None or run.kind is Kind.GRAPH:
        names = ", ".join(run.name for run in spec.runs if run.kind is not Kind.GRAPH)
        raise ConfigError(f"{where}: run: {entry.run!r} is not one of {names}")
    falls = (entry.falls,) if isinstance(entry.falls, str) else tuple(entry.falls)
    if bool(falls) == bool(entry.survives.strip()):
        raise ConfigError(f"{where}: give either falls or survives, with its reason")
    for name in falls:
        if name not in run.properties:
            checked = ", ".join(run.properties)
            raise ConfigError(f"{where}: falls: {name!r} is not checked by {run.name}: {checked}")
    path = _file(f"{where}: file", folder / entry.file if entry.file else spec.path)
    if not entry.find:
        raise ConfigError(f"{where}: find: no text is given")
    return Mutant(
        spec=spec.name,
        name=entry.name,
        file=path,
        run=run,
        find=entry.find,
        replace=entry.replace,
        falls=falls,
        survives=entry.survives.strip(),
        ci=entry.ci,
        seconds=entry.seconds or run.seconds * 2,
    )
