--------------------------- MODULE MCAllocationLive ---------------------------
\* Liveness of Allocation: churn and faults are finite, everything else happens if it can.
EXTENDS Allocation

CONSTANTS
    \* @type: Int;
    Budget

VARIABLES
    \* @type: Int;
    budget  \* how often label sets come or go, writes fail, servers die and streams break yet

Spent ==
    \/ \E x \in LabelSets : Bind(x) \/ Release(x)
    \/ Refused \/ TimedOut \/ Lead
    \/ \E n \in Nodes : Break(n)

\* Of a node that is away: it comes back, or its grace is over. One that is gone may stay so.
Returns(n) == LetGo(n) \/ (nodes[n] # "gone" /\ Connect(n))
Progress(n) == Report(n, shown[n].cut) \/ Begin(n) \/ Acked(n) \/ InSync(n)
SomeWrite == \E drained \in SUBSET LabelSets, order \in Orders : Write(drained, order)

\* A server that is deposed makes room for the next one.
Succeed == deposed /\ Lead

Unspent ==
    \/ SomeWrite \/ Written \/ Conflict \/ Late \/ Succeed \/ Publish
    \/ \E n \in Nodes : Connect(n) \/ LetGo(n) \/ Progress(n) \/ Flip(n)

LiveInit == Init /\ budget = Budget
LiveNext ==
    \/ budget > 0 /\ budget' = budget - 1 /\ Spent
    \/ UNCHANGED budget /\ Unspent

all == <<vars, budget>>
Kept == UNCHANGED budget
FairSpec ==
    /\ LiveInit /\ [][LiveNext]_all
    /\ WF_all(Kept /\ SomeWrite) /\ WF_all(Kept /\ Written) /\ WF_all(Kept /\ Conflict)
    /\ WF_all(Kept /\ Late) /\ WF_all(Kept /\ Succeed)
    /\ WF_all(Kept /\ Publish)
    /\ \A n \in Nodes :
        WF_all(Kept /\ Returns(n)) /\ WF_all(Kept /\ Progress(n)) /\ WF_all(Kept /\ Flip(n))

\* R7: who is bound gets a number while there is one, and the numbers of all others come back.
Settled(x) ==
    \/ life[x] \in {"absent", "active"}
    \/ life[x] = "waiting" /\ Cardinality(InState({"active"})) = Size
Settles == <>[](\A x \in LabelSets : Settled(x))

\* R7: every connected node reaches the newest cut.
Reaches == <>[](\A n \in Nodes : nodes[n] \in {"in-sync", "gone"})
=============================================================================
