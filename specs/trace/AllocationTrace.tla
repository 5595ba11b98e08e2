---------------------------- MODULE AllocationTrace ----------------------------
\* What one server recorded, read as steps of Allocation.
EXTENDS Allocation, Sequences

\* @type: (Seq(a)) => Set(a);
Range(s) == {s[i] : i \in DOMAIN s}

\* Cuts are counted by each server: 0 is any of a server before.
Cut(e) == IF e.args.server = journal.epoch THEN e.args.cut ELSE 0

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

Explain(e) ==
    CASE e.action = "Lead" -> Lead
      [] e.action = "Bind" -> Bind(e.args.label_set)
      [] e.action = "Release" -> Release(e.args.label_set)
      [] e.action = "Write" -> Write(Range(e.args.drained), Order(e.args.given))
      [] e.action = "Written" -> Written
      [] e.action = "Refused" -> Refused
      [] e.action = "Conflict" -> Superseded
      [] e.action = "Publish" -> Publish
      [] e.action = "Anew" -> Begins(e.args.node)
      [] e.action = "Connect" -> Connect(e.args.node)
      [] e.action = "Report" ->
            \/ \E c \in 0..shown[e.args.node].cut : Report(e.args.node, c)
            \/ FlippedReport(e.args.node)
      [] e.action = "Begin" ->
            \/ Begin(e.args.node)
            \* Again what it enforces, after its report; or what it refused, with a part closed.
            \/ /\ reported[e.args.node]
               /\ newest.cut = Cut(e)
               /\ floor[e.args.node] = newest.cut \/ begun[e.args.node] = newest
               /\ UNCHANGED vars
      [] e.action = "Acked" -> Acked(e.args.node) \/ FlippedAcked(e.args.node)
      [] e.action = "Same" -> Same(e.args.node)
      \* What it is taken to enforce after its report: that, or the newest cut if that is no different.
      [] e.action = "Stands" ->
            \/ reported[e.args.node] /\ floor[e.args.node] = Cut(e) /\ UNCHANGED vars
            \/ Same(e.args.node)
      [] e.action = "InSync" -> InSync(e.args.node)
      [] e.action = "Lag" -> Lag(e.args.node)
      [] e.action = "Break" -> Break(e.args.node)
      [] e.action = "LetGo" -> LetGo(e.args.node)

\* @type: (a) => Set(Int);
Numbered(w) == {g.number : g \in w.allocate}

Observe(e) ==
    CASE e.action = "Write" ->
            \A w \in flight' :
                /\ w.revive = Range(e.args.revive)
                /\ w.free = Range(e.args.free)
                /\ \A i \in DOMAIN e.args.given :
                    [number |-> e.args.numbers[i], owner |-> e.args.given[i]] \in w.allocate
      [] e.action = "Written" -> journal'.revision = e.args.revision
      [] e.action = "Publish" -> newest' = [cut |-> Cut(e), uses |-> Range(e.args.uses)]
      [] e.action = "Begin" -> begun'[e.args.node].cut \in {Cut(e), 0}
      [] e.action \in {"Acked", "Same", "Stands"} -> floor'[e.args.node] = Cut(e)
      [] OTHER -> TRUE

\* All other steps are recorded.
Hidden == FALSE
=============================================================================
