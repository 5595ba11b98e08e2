--------------------------- MODULE APAllocationCore ---------------------------
\* AllocationCore for Apalache: constants by ConstInit.
EXTENDS AllocationCore

ConstInit ==
    /\ LabelSets = {"a_OF_LABELS", "b_OF_LABELS", "c_OF_LABELS"}
    /\ Nodes = {"n1_OF_NODE", "n2_OF_NODE", "n3_OF_NODE"}
    /\ Numbers = 1..3
    /\ MaxRevision = 8
    /\ MaxEpoch = 5
    /\ MaxCut = 6
=============================================================================
