"""Every life cycle is a table in models/*.toml; this package loads, checks and runs them."""

from reconciler.core.machine.diagram import diagram
from reconciler.core.machine.load import load, names, parse
from reconciler.core.machine.model import Model, State, Transition

__all__ = ["Model", "State", "Transition", "diagram", "load", "names", "parse"]
