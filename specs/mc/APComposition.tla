---------------------------- MODULE APComposition -----------------------------
\* Composition for Apalache: constants by ConstInit.
EXTENDS Composition

ConstInit ==
    /\ LabelSets = {"a", "b"}
    /\ Nodes = {"n1_OF_NODE"}
    /\ MaxRevision = 4
    /\ MaxCut = 3
    /\ MaxFaults = 1
===============================================================================
