"""Apalache, the symbolic checker of TLA+: drive its command line, get typed answers.

from reconciler.formal.apalache import Apalache

answer = Apalache.find().check(path, invariants=["Safe"], length=8, timeout=300)
answer.verdict      # proved, violated, no answer
"""

from reconciler.formal.apalache.checks import Apalache, Induction, Simulation, Typing
from reconciler.formal.apalache.reading import (
    Answer,
    Cause,
    Conjunct,
    Position,
    Problem,
    Verdict,
    judge,
)
from reconciler.formal.apalache.tool import INSTALL, Output, find

__all__ = [
    "INSTALL",
    "Answer",
    "Apalache",
    "Cause",
    "Conjunct",
    "Induction",
    "Output",
    "Position",
    "Problem",
    "Simulation",
    "Typing",
    "Verdict",
    "find",
    "judge",
]
