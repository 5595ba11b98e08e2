--------------------------- MODULE MCStageCommit ---------------------------
\* Bounds for model checking StageCommit. Two nodes do not interact in this spec: one with more
\* revisions and faults says more than two with fewer.
EXTENDS StageCommit, TLC
Symmetry == Permutations(Types)
=============================================================================
