"""Random behaviours of a spec with the arguments of each step, for constants too large for a graph.

TLC's simulation of the module that records each step (as for a graph); the same seed gives the same
behaviours. A behaviour ends at its depth, or where nothing is possible any more.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from reconciler.errors import ReconcilerError
from reconciler.formal import config as configs
from reconciler.formal import graph, tlc
from reconciler.formal import module as modules
from reconciler.formal.trace import Step, Trace
from reconciler.formal.values import Record

_STATE: Final = re.compile(
    r"^STATE_\d+ ==\s*\n(.*?)(?=^STATE_\d+ ==|^={4,})", re.MULTILINE | re.DOTALL
)


def simulate(
    module: Path,
    config: Path,
    libraries: Sequence[Path] = (),
    *,
    seed: int,
    runs: int,
    depth: int,
    timeout: float,
) -> list[Trace]:
    """`runs` behaviours of at most `depth` steps. Raises ConfigError, ReconcilerError."""
    family = modules.family(module, libraries)
    given = configs.read(config)
    with tempfile.TemporaryDirectory(prefix="simulate-") as scratch:
        folder = Path(scratch)
        name = f"{module.stem}Simulate__"
        init, following = given.behaviour(family)
        wrapper = folder / f"{name}.tla"
        text = graph.wrapping(name, family, init, following)
        # TLC leaves out assumptions when it simulates: the constants are printed at the start.
        text = text.replace("ASSUME PrintT", "Constants__ == PrintT").removesuffix("====\n")
        first = "Constants__ /\\ Init__" if "Constants__ ==" in text else "Init__"
        wrapper.write_text(f"{text}First__ == {first}\n====\n", encoding="utf-8")
        (folder / f"{name}.cfg").write_text(
            given.text(("CONSTANT", "CONSTRAINT", "ACTION_CONSTRAINT"))
            + "INIT First__\nNEXT Next__\n",
            encoding="utf-8",
        )
        ran = tlc.invoke(
            wrapper,
            folder / f"{name}.cfg",
            libraries=(*libraries, module.parent),
            timeout=timeout,
            options=(
                *("-simulate", f"num={runs},file={folder}/run"),
                *("-depth", str(depth), "-seed", str(seed)),
            ),
        )
        files = sorted(folder.glob("run_*"), key=lambda path: int(path.name.split("_")[-1]))
        if ran.code != 0 or not files:
            raise ReconcilerError(f"{module.stem}: simulation: exit code {ran.code}\n{ran.output}")
        constants = graph.printed_constants(ran.output)
        return [
            Trace(_steps(path.read_text(encoding="utf-8")), module.stem, config.stem, "", constants)
            for path in files
        ]


def _steps(text: str) -> tuple[Step, ...]:
    reader = graph.StateReader()
    steps = []
    for match in _STATE.finditer(text):
        values = reader.read(match.group(1).strip())
        step = values.pop(graph.STEP)
        assert isinstance(step, tuple)
        action, args = step
        assert isinstance(action, str)
        assert isinstance(args, tuple)
        steps.append(Step(action, args, Record(values)))
    return tuple(steps)
