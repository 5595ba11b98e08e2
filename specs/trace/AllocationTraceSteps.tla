------------------------- MODULE AllocationTraceSteps -------------------------
\* What the traces of a single server and of a replica have in common, as steps of Allocation.
EXTENDS Allocation, Sequences

\* @type: (Seq(a)) => Set(a);
Range(s) == {s[i] : i \in DOMAIN s}

Order(given) ==
    [x \in LabelSets |-> IF \E i \in DOMAIN given : given[i] = x
                         THEN CHOOSE i \in DOMAIN given : given[i] = x ELSE 0]

\* Before the first line, which says what the server found when it began to lead.
TraceInit(e) ==
    /\ journal = [epoch |-> e.args.epoch - 1, revision |-> e.args.revision,
                  cursor |-> e.args.cursor, entries |-> Range(e.args.entries)]
    /\ late = {} /\ flight = {} /\ deposed = FALSE /\ seen = 0 /\ cursor = First
    /\ life = [x \in LabelSets |-> "absent"]
    /\ number = [x \in LabelSets |-> 0]
    /\ birth = [x \in LabelSets |-> 0]
    /\ without = [x \in LabelSets |-> 0]
    /\ cuts = 0 /\ newest = NoCut
    /\ nodes = [n \in Nodes |-> "unknown"]
    /\ reported = [n \in Nodes |-> FALSE]
    /\ heard = [n \in Nodes |-> FALSE]
    /\ floor = [n \in Nodes |-> 0]
    /\ shown = [n \in Nodes |-> NoCut]
    /\ begun = [n \in Nodes |-> NoCut]
    /\ strayed = [n \in Nodes |-> FALSE]
    /\ fired = {}

\* A node that is gone begins anew, before it connects or when there is an object of it. (Rare.)
Begins(n) ==
    /\ nodes[n] = "gone"
    /\ nodes' = [nodes EXCEPT ![n] = "unknown"]
    /\ heard' = [heard EXCEPT ![n] = FALSE]
    /\ floor' = [floor EXCEPT ![n] = 0]
    /\ fired' = {Anew("node", "unknown")}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, reported, shown, begun, strayed>>

\* A node enforces what was begun for it before it says so: Flip, and then Acked or Report at once. As
\* one step, so that the search has no choice; nothing that is recorded depends on the time of a flip.
Flipped(n) ==
    /\ begun[n].cut > shown[n].cut
    /\ shown' = [shown EXCEPT ![n] = begun[n]]
    /\ begun' = [begun EXCEPT ![n] = NoCut]
    /\ strayed' = [strayed EXCEPT ![n] = @ /\ ~reported[n]]
    /\ floor' = [floor EXCEPT ![n] = begun[n].cut]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, nodes>>

FlippedAcked(n) == reported[n] /\ Flipped(n) /\ UNCHANGED <<reported, heard>>

FlippedReport(n) ==
    /\ nodes[n] \in Connected
    /\ ~reported[n]
    /\ Flipped(n)
    /\ reported' = [reported EXCEPT ![n] = TRUE]
    /\ heard' = [heard EXCEPT ![n] = TRUE]

\* Another server has written to the journal: what it wrote is not in this trace.
Superseded ==
    /\ flight # {}
    /\ TakenBack
    /\ deposed' = TRUE
    /\ fired' = RefusedRows
    /\ UNCHANGED late

\* @type: (a) => Set(Int);
Numbered(w) == {g.number : g \in w.allocate}

=============================================================================
