"""Arguments for a counterexample: TLC names the actions of its steps, not what they were given.

A module is generated that has the behaviour as a constant and follows it with the flat
next-state relation, recording which action with which arguments makes each step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from reconciler.errors import ConfigError
from reconciler.formal import config as configs
from reconciler.formal import graph, jvm, tlc_output
from reconciler.formal import module as modules
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import model_values, to_tla

_AT = "at__"
_SECONDS = 60


def explain(trace: Trace, module: Path, config: Path, libraries: Sequence[Path] = ()) -> Trace:
    """The trace with arguments and the values of the constants.

    Where the spec has no flat next-state relation, or no action makes a step, it comes back with
    what was known.
    """
    try:
        family = modules.family(module, libraries)
        given = configs.read(config)
        text = following(trace, family, *given.behaviour(family))
    except ConfigError:
        return trace
    own = sorted(_own(trace, family))
    with tempfile.TemporaryDirectory(prefix="explain-") as scratch:
        folder = Path(scratch)
        name = f"{module.stem}Explain__"
        (folder / f"{name}.tla").write_text(text, encoding="utf-8")
        (folder / f"{name}.cfg").write_text(
            given.text(("CONSTANT",))
            + "".join(f"CONSTANT {value} = {value}\n" for value in own)
            + "INIT Init__\nNEXT Next__\nINVARIANT Unfinished__\n",
            encoding="utf-8",
        )
        ran = jvm.invoke(
            "tlc2.TLC",
            ["-tool", "-deadlock", "-metadir", "{scratch}/states", "-config", f"{name}.cfg", name],
            folder=folder,
            libraries=(*libraries, module.parent),
            timeout=_SECONDS,
        )
    constants = graph.printed_constants(ran.output)
    if constants:
        trace = msgspec.structs.replace(trace, constants=constants)
    steps, _ = tlc_output.trace(tlc_output.messages(ran.output))
    if len(steps) != len(trace.steps):
        return trace
    known: list[Step] = [trace.steps[0]]
    for step, explained in zip(trace.steps[1:], steps[1:], strict=True):
        recorded = explained.state[graph.STEP]
        assert isinstance(recorded, tuple)
        action, args = recorded
        assert isinstance(action, str)
        assert isinstance(args, tuple)
        known.append(Step(action, args, step.state))
    return msgspec.structs.replace(trace, steps=tuple(known))


def _own(trace: Trace, family: Sequence[modules.Module]) -> set[str]:
    """Model values that the module has to declare to be able to name them."""
    used = {name for step in trace.steps for name in model_values(step.state)}
    return used - set(modules.constants(family))


def following(trace: Trace, family: Sequence[modules.Module], init: str, after: str) -> str:
    """Text of the module that follows the trace."""
    names = modules.variables(family)
    own = sorted(_own(trace, family))
    states = [
        "[" + ", ".join(f"{name} |-> {to_tla(step.state[name])}" for name in names) + "]"
        for step in trace.steps
    ]
    values = ", ".join(f"{name} |-> {name}" for name in modules.constants(family))
    lines = [
        f"---- MODULE {family[0].path.stem}Explain__ ----",
        f"EXTENDS {family[0].name}, Naturals, Sequences, TLC",
        *([f"CONSTANTS {', '.join(own)}"] if own else []),
        f"VARIABLES {graph.STEP}, {_AT}",
        "Trace__ == <<",
        ",\n".join(states),
        ">>",
        "Init__ ==",
        f'    /\\ {_AT} = 1 /\\ {graph.STEP} = <<"", <<>>>>',
        *(f"    /\\ {name} = Trace__[1].{name}" for name in names),
        "Next__ ==",
        f"    /\\ {_AT} < Len(Trace__) /\\ {_AT}' = {_AT} + 1",
        *(f"    /\\ {name}' = Trace__[{_AT} + 1].{name}" for name in names),
        "    /\\",
        *(f"      {line}" for line in graph.recording(modules.actions(family, after))),
        f"Unfinished__ == {_AT} < Len(Trace__)",
        *([f'ASSUME PrintT(<<"constants__", [{values}]>>)'] if values else []),
        "====",
    ]
    return "\n".join([*lines, ""])
