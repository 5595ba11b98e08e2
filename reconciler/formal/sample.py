"""Random behaviours with the arguments of each step, at bounds too large for a whole graph.

The same generated module as for a graph, under TLC's simulation: what it writes are whole states,
and the variable of the step says what led to each.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from reconciler.errors import ReconcilerError
from reconciler.formal import config as configs
from reconciler.formal import graph, jvm
from reconciler.formal import module as modules
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import Record, Value

_STATE: Final = re.compile(r"^STATE_\d+ ==\s*$", re.MULTILINE)
_KEPT: Final = ("CONSTANT", "CONSTRAINT", "ACTION_CONSTRAINT")


def sample(
    module: Path,
    config: Path,
    libraries: Sequence[Path] = (),
    *,
    seed: int,
    runs: int,
    depth: int,
    timeout: float,
) -> tuple[Trace, ...]:
    """`runs` behaviours of at most `depth` steps; the same for the same seed.

    No property is checked. Raises ConfigError, ReconcilerError with TLC's words.
    """
    family = modules.family(module, libraries)
    given = configs.read(config)
    with tempfile.TemporaryDirectory(prefix="sample-") as scratch:
        folder = Path(scratch)
        name = f"{module.stem}Sample__"
        text = graph.wrapping(name, family, *given.behaviour(family))
        # A simulation compares no states, so functions would stay unwritten expressions.
        state = f"<<{', '.join(modules.variables(family))}>>"
        text = text.removesuffix("====\n") + f"Written__ == {state} = {state}\n====\n"
        (folder / f"{name}.tla").write_text(text, encoding="utf-8")
        (folder / f"{name}.cfg").write_text(
            given.text(_KEPT) + "INIT Init__\nNEXT Next__\nINVARIANT Written__\n", encoding="utf-8"
        )
        ran = jvm.invoke(
            "tlc2.TLC",
            [
                *("-deadlock", "-workers", "1", "-metadir", "{scratch}/states"),
                *("-simulate", f"num={runs},file={folder / 'behaviour'}"),
                *("-depth", str(depth), "-seed", str(seed), "-config", f"{name}.cfg", name),
            ],
            folder=folder,
            libraries=(*libraries, module.parent),
            timeout=timeout,
        )
        if ran.code != 0:
            what = "took too long" if ran.code == jvm.TIMED_OUT else f"exit code {ran.code}"
            raise ReconcilerError(f"{module.stem}: random behaviours: {what}\n{ran.output}")
        constants = graph.printed_constants(ran.output)
        reader = graph.StateReader()
        files = sorted(folder.glob("behaviour_*"), key=lambda path: int(path.name.split("_")[-1]))
        return tuple(
            Trace(
                _steps(path.read_text(encoding="utf-8"), reader),
                spec=module.stem,
                config=config.stem,
                constants=constants,
            )
            for path in files
        )


def _steps(text: str, reader: graph.StateReader) -> tuple[Step, ...]:
    body = text.rpartition("\n====")[0] or text
    return tuple(_step(reader.read(part.strip())) for part in _STATE.split(body)[1:])


def _step(values: dict[str, Value]) -> Step:
    recorded = values.pop(graph.STEP)
    assert isinstance(recorded, tuple)
    action, args = recorded
    assert isinstance(action, str)
    assert isinstance(args, tuple)
    return Step(action, args, Record(values))
