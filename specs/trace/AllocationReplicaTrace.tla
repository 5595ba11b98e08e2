------------------------ MODULE AllocationReplicaTrace ------------------------
\* What one of several replicas recorded while it led, read as steps of Allocation. Replicas name cuts by the
\* revision of the journal that they were made at, so cuts between two journal writes are one cut here: the
\* same numbers are in them. Other replicas are nodes of whose cuts it is told.
EXTENDS AllocationTraceSteps

CONSTANTS
    \* @type: Set(NODE);
    Replicas    \* the others, among Nodes

Unknown == {}   \* what is in a cut that another replica made

\* What it knew of a node when it began to lead.
Known(e) ==
    LET n == e.args.node IN
    /\ newest = NoCut
    /\ nodes' = [nodes EXCEPT ![n] = e.args.state]
    /\ reported' = [reported EXCEPT ![n] = e.args.reported]
    /\ heard' = [heard EXCEPT ![n] = e.args.heard]
    /\ floor' = [floor EXCEPT ![n] = e.args.cut]
    /\ shown' = [shown EXCEPT ![n] = [cut |-> e.args.cut, uses |-> Unknown]]
    /\ begun' = [begun EXCEPT ![n] =
                    IF e.args.begun > e.args.cut THEN [cut |-> e.args.begun, uses |-> Unknown] ELSE NoCut]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, cuts,
                   newest, strayed>>

\* What it published while it followed.
Stood(mark) ==
    /\ newest = NoCut
    /\ mark <= seen
    /\ cuts' = mark
    /\ newest' = [cut |-> mark, uses |-> Unknown]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, nodes, reported,
                   heard, floor, shown, begun, strayed>>

\* Up to where the nodes of others are, and who there is.
Elsewhere(marks) ==
    LET of(n) == {marks[i].mark : i \in {i \in DOMAIN marks : marks[i].replica = n}} IN
    /\ nodes' = [n \in Nodes |-> IF n \notin Replicas THEN nodes[n]
                                 ELSE IF of(n) = {} THEN "gone" ELSE "disconnected"]
    /\ heard' = [n \in Nodes |-> n \in Replicas \/ heard[n]]
    /\ floor' = [n \in Nodes |-> IF n \in Replicas /\ of(n) # {} THEN CHOOSE m \in of(n) : TRUE ELSE floor[n]]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, cuts,
                   newest, reported, shown, begun, strayed>>

\* As Publish, with the journal's revision for the number of the cut.
PublishAt(mark) ==
    /\ mark = seen
    /\ ~deposed /\ ~Holding
    /\ cuts' = mark
    /\ newest' = [cut |-> mark, uses |-> LivePairs]
    /\ without' = [x \in LabelSets |->
                     IF life[x] \in Left /\ without[x] = 0 THEN mark ELSE without[x]]
    /\ nodes' = [n \in Nodes |-> IF nodes[n] = "in-sync" THEN "syncing" ELSE nodes[n]]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, reported,
                   heard, floor, shown, begun, strayed>>

\* The journal went on, and nothing that is published changed.
Moved(mark) ==
    /\ mark = seen
    /\ ~deposed /\ ~Holding
    /\ newest.cut <= mark
    /\ newest.uses = LivePairs
    /\ newest' = [newest EXCEPT !.cut = mark]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, cuts, nodes,
                   reported, heard, floor, shown, begun, strayed>>

\* What it enforces is said in the next line.
Reports(n) ==
    /\ nodes[n] \in Connected
    /\ ~reported[n]
    /\ reported' = [reported EXCEPT ![n] = TRUE]
    /\ heard' = [heard EXCEPT ![n] = TRUE]
    /\ floor' = [floor EXCEPT ![n] = -1]
    /\ shown' = [shown EXCEPT ![n] = NoCut]
    /\ begun' = [begun EXCEPT ![n] = NoCut]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, cuts, newest, nodes,
                   strayed>>

\* What it is taken to enforce after its report, whoever made that cut.
Stands(n, mark) ==
    /\ reported[n] /\ floor[n] = -1 /\ begun[n] = NoCut
    /\ floor' = [floor EXCEPT ![n] = mark]
    /\ shown' = [shown EXCEPT ![n] = [cut |-> mark, uses |-> Unknown]]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, cuts, newest, nodes,
                   reported, heard, begun, strayed>>

\* At the cut that was published last, or at the same one, moved.
InSyncAt(n) ==
    /\ nodes[n] \in {"syncing", "lagging"}
    /\ reported[n]
    /\ begun[n] = NoCut
    /\ floor[n] \in cuts..newest.cut
    /\ nodes' = [nodes EXCEPT ![n] = "in-sync"]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, cuts, newest,
                   reported, heard, floor, shown, begun, strayed>>

Explain(e) ==
    CASE e.action = "Lead" -> Lead
      [] e.action = "Known" -> Known(e)
      [] e.action = "Stood" -> Stood(e.args.cut)
      [] e.action = "Elsewhere" -> Elsewhere(e.args.marks)
      [] e.action = "Bind" -> Bind(e.args.label_set)
      [] e.action = "Release" -> Release(e.args.label_set)
      [] e.action = "Write" -> Write(Range(e.args.drained), Order(e.args.given))
      [] e.action = "Written" -> Written
      [] e.action = "Refused" -> Refused
      [] e.action = "Publish" -> PublishAt(e.args.cut)
      [] e.action = "Moved" -> Moved(e.args.cut)
      [] e.action = "Anew" -> Begins(e.args.node)
      [] e.action = "Connect" -> Connect(e.args.node)
      [] e.action = "Report" -> Reports(e.args.node)
      [] e.action = "Begin" ->
            \/ Begin(e.args.node)
            \/ /\ reported[e.args.node]
               /\ newest.cut = e.args.cut
               /\ floor[e.args.node] = newest.cut \/ begun[e.args.node].cut = newest.cut
               /\ UNCHANGED vars
      [] e.action = "Acked" -> Acked(e.args.node) \/ FlippedAcked(e.args.node)
      [] e.action = "Same" -> Same(e.args.node)
      [] e.action = "Stands" -> Stands(e.args.node, e.args.cut)
      [] e.action = "InSync" -> InSyncAt(e.args.node)
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
      [] e.action = "Publish" -> newest'.uses = Range(e.args.uses)
      [] e.action = "Begin" -> begun'[e.args.node].cut \in {e.args.cut, 0}
      [] e.action \in {"Acked", "Same"} -> floor'[e.args.node] = e.args.cut
      [] OTHER -> TRUE

\* All other steps are recorded.
Hidden == FALSE
=============================================================================
