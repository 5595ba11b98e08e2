----------------------------- MODULE APAllocation -----------------------------
\* Allocation for Apalache: constants by ConstInit.
EXTENDS Allocation

ConstInit ==
    /\ LabelSets = {"a_OF_LABELS", "b_OF_LABELS"}
    /\ Nodes = {"n1_OF_NODE", "n2_OF_NODE"}
    /\ First = 1
    /\ Last = 2
    /\ MaxRevision = 4
    /\ MaxEpoch = 2
    /\ MaxCut = 3
    /\ MaxLate = 1
    /\ Older = TRUE
    /\ Unchanged = FALSE
===============================================================================
