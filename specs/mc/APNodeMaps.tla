------------------------------ MODULE APNodeMaps ------------------------------
\* NodeMaps for Apalache: constants by ConstInit. The cuts are the first three of MCNodeMaps, their
\* tables functions and not sequences.
EXTENDS NodeMaps

\* @type: (Int, Int, Int) => (Int -> Int);
Three(a, b, c) == [i \in 1..3 |-> IF i = 1 THEN a ELSE IF i = 2 THEN b ELSE c]

\* @type: (Int, Int -> Int) => $meaning;
Cut(pod, owner) == [
    pod |-> pod, owner |-> owner,
    peer |-> [g \in 1..4 |-> IF g = 4 THEN 5 ELSE g],
    policy |-> [p \in 1..5 |-> IF p = 5 THEN 1 ELSE 0],
    allows |-> [r \in 1..2 |-> IF r = 1 THEN {2, 3} ELSE {1}]]

ConstInit ==
    /\ Cuts = 2
    /\ First = 1
    /\ Meaning = [n \in 0..2 |->
        IF n = 0 THEN Cut(0, Three(2, 0, 0))
        ELSE IF n = 1 THEN Cut(4, Three(2, 0, 0))
        ELSE Cut(4, Three(2, 1, 3))]
    /\ Keys = 3
    /\ Groups = 4
    /\ Peers = 5
    /\ RuleSets = 2
    /\ Fixed = 2
    /\ GroupIndices = 5
    /\ PeerIndices = 7
    /\ RuleNumbers = 4
    /\ AnyOrder = FALSE
    /\ MaxResponses = 1
    /\ MaxFaults = 1
    /\ Asked = {3}
===============================================================================
