---------------------------- MODULE AllocationTrace ----------------------------
\* What one server recorded, read as steps of Allocation.
EXTENDS AllocationTraceSteps

\* Cuts are counted by each server: 0 is any of a server before.
Cut(e) == IF e.args.server = journal.epoch THEN e.args.cut ELSE 0

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
