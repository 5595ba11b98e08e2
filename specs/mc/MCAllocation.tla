----------------------------- MODULE MCAllocation -----------------------------
\* Bounds for model checking Allocation.
EXTENDS Allocation, TLC
Symmetry == Permutations(LabelSets) \cup Permutations(Nodes)

\* What no property of a safety run reads: the rows that were taken, and for people only: lagging.
View == <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, cuts, newest,
          [n \in Nodes |-> IF nodes[n] \in Connected THEN "connected" ELSE nodes[n]],
          reported, heard, floor, shown, begun, strayed>>

\* A server that has just begun to lead: one label set has a number in the journal, and the nodes
\* enforce a cut that uses it. Saves a search the way there.
Adopted ==
    \E owner \in LabelSets :
        LET pair == [number |-> First, birth |-> 1, owner |-> owner] IN
        /\ journal = [epoch |-> 1, revision |-> 1, cursor |-> First,
                      entries |-> {[number |-> First, birth |-> 1, owner |-> owner,
                                    phase |-> "active"]}]
        /\ late = {} /\ flight = {} /\ deposed = FALSE /\ seen = 1 /\ cursor = First
        /\ life = [x \in LabelSets |-> IF x = owner THEN "draining" ELSE "absent"]
        /\ number = [x \in LabelSets |-> IF x = owner THEN First ELSE 0]
        /\ birth = [x \in LabelSets |-> IF x = owner THEN 1 ELSE 0]
        /\ without = [x \in LabelSets |-> 0]
        /\ cuts = 1 /\ newest = NoCut
        /\ nodes = [n \in Nodes |-> "unknown"]
        /\ reported = [n \in Nodes |-> FALSE]
        /\ heard = [n \in Nodes |-> FALSE]
        /\ floor = [n \in Nodes |-> 0]
        /\ shown = [n \in Nodes |-> [cut |-> 1, uses |-> {pair}]]
        /\ begun = [n \in Nodes |-> NoCut]
        /\ strayed = [n \in Nodes |-> FALSE]
        /\ fired = {}
=============================================================================
