------------------------- MODULE APAllocationObjects --------------------------
\* AllocationObjects for Apalache: constants by ConstInit.
EXTENDS AllocationObjects

ConstInit ==
    /\ LabelSets = {"a", "b"}
    /\ Numbers = {1, 2}
    /\ MaxRevision = 4
    /\ MaxUid = 4
    /\ MaxTakeovers = 1
    /\ MaxPending = 1
===============================================================================
