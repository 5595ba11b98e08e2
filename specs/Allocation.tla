------------------------------ MODULE Allocation ------------------------------
(***************************************************************************)
(* Numbers for label sets: given and taken back in one journal, used by the *)
(* cuts that nodes enforce, and reused when no node may use them any more.  *)
(*                                                                          *)
(* One server leads: it has a journal write under way or none, publishes    *)
(* cuts, and believes of each node what it reported and acknowledged. A new *)
(* one may lead at any time (the old one died, or is paused and knows       *)
(* nothing of it): its write may then arrive late. Time is not in it: the   *)
(* drain time of a label set, the lag limit and the grace of a node may be  *)
(* over at any moment.                                                      *)
(*                                                                          *)
(* A node here is what stage and commit promises of it (Composition.tla):   *)
(* it enforces a cut that was begun for it, and reports no newer one. The   *)
(* objects that show identities in Kubernetes are in AllocationObjects.tla. *)
(***************************************************************************)
EXTENDS Integers, FiniteSets

CONSTANTS
    \* @type: Set(LABELS);
    LabelSets,
    \* @type: Set(NODE);
    Nodes,
    \* @type: Int;
    First,        \* the pool's first number
    \* @type: Int;
    Last,         \* and its last
    \* @type: Int;
    MaxRevision,  \* of the journal
    \* @type: Int;
    MaxEpoch,
    \* @type: Int;
    MaxCut,       \* cuts published by all servers together
    \* @type: Int;
    MaxLate,      \* writes that may arrive late, of which nobody hears
    \* @type: Bool;
    Older,        \* whether nodes may report an older cut than they enforce
    \* @type: Bool;
    Unchanged     \* whether cuts are also published when no identity came or went

(*
  @typeAlias: pair = {number: Int, birth: Int, owner: LABELS};
  @typeAlias: entry = {number: Int, birth: Int, owner: LABELS, phase: Str};
  @typeAlias: journal = {epoch: Int, revision: Int, cursor: Int, entries: Set($entry)};
  @typeAlias: give = {number: Int, owner: LABELS};
  @typeAlias: write = {epoch: Int, expected: Int, allocate: Set($give), retire: Set(Int), revive: Set(Int), free: Set(Int), cursor: Int};
  @typeAlias: cut = {cut: Int, uses: Set($pair)};
  @typeAlias: row = {machine: Str, on: Str, from: Str, to: Str};
*)
AllocationAliases == TRUE

VARIABLES
    \* @type: $journal;
    journal,   \* the one object in which numbers are given and taken back
    \* @type: Set($write);
    late,      \* writes of which their server no longer hears: they may yet arrive
    \* @type: Set($write);
    flight,    \* the write under way of the server that leads; at most one
    \* @type: Bool;
    deposed,   \* it has found that the journal went on without it
    \* @type: Int;
    seen,      \* the journal's revision as it knows it
    \* @type: Int;
    cursor,    \* where it looks for the next number
    \* @type: LABELS -> Str;
    life,      \* the identity machine of each label set
    \* @type: LABELS -> Int;
    number,    \* 0: none
    \* @type: LABELS -> Int;
    birth,
    \* @type: LABELS -> Int;
    without,   \* the first published cut without it, since it left; 0: none
    \* @type: Int;
    cuts,      \* the newest cut that any server published
    \* @type: $cut;
    newest,    \* the newest one of the server that leads; cut 0: none
    \* @type: NODE -> Str;
    nodes,     \* the node machine
    \* @type: NODE -> Bool;
    reported,  \* the node's stream has brought its report
    \* @type: NODE -> Bool;
    heard,     \* the server has ever had a report of it
    \* @type: NODE -> Int;
    floor,     \* the oldest cut that the server believes it may enforce
    \* @type: NODE -> $cut;
    shown,     \* what the node enforces
    \* @type: NODE -> $cut;
    begun,     \* the cut begun for it, which it may yet enforce; cut 0: none
    \* @type: NODE -> Bool;
    strayed,   \* it was let go, and has not enforced a cut since that was begun after its return
    \* @type: Set($row);
    fired      \* rows of the declared machines that the last step took

vars == <<journal, late, flight, deposed, seen, cursor, life, number, birth, without, cuts, newest,
          nodes, reported, heard, floor, shown, begun, strayed, fired>>

\* @type: (Str, Str, Str, Str) => $row;
Row(machine, on, from, to) == [machine |-> machine, on |-> on, from |-> from, to |-> to]

\* No row: what was there before is given up, and a new machine begins in this state.
\* @type: (Str, Str) => $row;
Anew(machine, initial) == Row(machine, "", "", initial)

Numbers == First..Last
Size == (Last - First) + 1

\* @type: $cut;
NoCut == [cut |-> 0, uses |-> {}]

Live == {"active", "draining", "departing", "departing-wanted"}  \* in peer sets and policies
Left == {"retiring", "recalled", "reviving", "reviving-unwanted", "freeing", "freeing-wanted"}
Connected == {"syncing", "in-sync", "lagging"}

\* @type: Set($pair);
LivePairs == {[number |-> number[x], birth |-> birth[x], owner |-> x] :
              x \in {x \in LabelSets : life[x] \in Live}}

Init ==
    /\ journal = [epoch |-> 1, revision |-> 0, cursor |-> First, entries |-> {}]
    /\ late = {}
    /\ flight = {}
    /\ deposed = FALSE
    /\ seen = 0
    /\ cursor = First
    /\ life = [x \in LabelSets |-> "absent"]
    /\ number = [x \in LabelSets |-> 0]
    /\ birth = [x \in LabelSets |-> 0]
    /\ without = [x \in LabelSets |-> 0]
    /\ cuts = 0
    /\ newest = NoCut
    /\ nodes = [n \in Nodes |-> "unknown"]
    /\ reported = [n \in Nodes |-> FALSE]
    /\ heard = [n \in Nodes |-> FALSE]
    /\ floor = [n \in Nodes |-> 0]
    /\ shown = [n \in Nodes |-> NoCut]
    /\ begun = [n \in Nodes |-> NoCut]
    /\ strayed = [n \in Nodes |-> FALSE]
    /\ fired = {}

-----------------------------------------------------------------------------
(* What the cluster wants *)

BindTo(from) ==
    CASE from = "absent" -> "waiting"
      [] from = "reserving-unwanted" -> "reserving"
      [] from = "draining" -> "active"
      [] from = "departing" -> "departing-wanted"
      [] from = "retiring" -> "recalled"
      [] from = "reviving-unwanted" -> "reviving"
      [] from = "freeing" -> "freeing-wanted"
      [] OTHER -> ""

ReleaseTo(from) ==
    CASE from = "waiting" -> "absent"
      [] from = "reserving" -> "reserving-unwanted"
      [] from = "active" -> "draining"
      [] from = "departing-wanted" -> "departing"
      [] from = "recalled" -> "retiring"
      [] from = "reviving" -> "reviving-unwanted"
      [] from = "freeing-wanted" -> "freeing"
      [] OTHER -> ""

\* A first group with this label set appears.
Bind(x) ==
    /\ BindTo(life[x]) # ""
    /\ life' = [life EXCEPT ![x] = BindTo(@)]
    /\ fired' = {Row("identity", "bind", life[x], life'[x])}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, number, birth, without, cuts,
                   newest, nodes, reported, heard, floor, shown, begun, strayed>>

\* Its last group is gone.
Release(x) ==
    /\ ReleaseTo(life[x]) # ""
    /\ life' = [life EXCEPT ![x] = ReleaseTo(@)]
    /\ fired' = {Row("identity", "release", life[x], life'[x])}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, number, birth, without, cuts,
                   newest, nodes, reported, heard, floor, shown, begun, strayed>>

-----------------------------------------------------------------------------
(* The journal *)

Free == Numbers \ {number[x] : x \in LabelSets}

\* How far a number is from the cursor, once around the pool.
Distance(k) == IF k >= cursor THEN k - cursor ELSE (k - cursor) + Size

\* @type: (Int) => Int;
After(k) == IF k = Last THEN First ELSE k + 1

\* Every node that counts uses only this cut or newer ones. Absence is never an acknowledgement.
Counts(n) == nodes[n] # "gone"
MayUse(n) == IF heard[n] THEN floor[n] ELSE 0
ClearOf(c) == \A n \in Nodes : Counts(n) => MayUse(n) >= c
Clear(x) == /\ life[x] = "retiring"
            /\ without[x] # 0
            /\ IF \E n \in Nodes : Counts(n) THEN ClearOf(without[x]) ELSE newest.cut >= without[x]

InState(states) == {x \in LabelSets : life[x] \in states}

\* The i-th free number from the cursor on goes to the label set that has waited i-th longest; 0: to
\* none. How long they have waited is not in the spec: any order may be the one.
\* @type: Set(LABELS -> Int);
Orders == [LabelSets -> 0..((Last - First) + 1)]

\* @type: (LABELS -> Int) => Set($give);
Given(order) ==
    {give \in {[number |-> k, owner |-> x] : k \in Free, x \in {x \in LabelSets : order[x] # 0}} :
        order[give.owner] = Cardinality({k \in Free : Distance(k) < Distance(give.number)}) + 1}

\* The server makes a write of everything that is due: numbers for those that wait, as far as there
\* are free ones; back from retiring; free; and out, for those in `drained`, whose drain time is over.
\* @type: (Set(LABELS), LABELS -> Int) => Bool;
Write(drained, order) ==
    /\ flight = {}
    /\ ~deposed
    /\ journal.revision < MaxRevision
    /\ drained \subseteq InState({"draining"})
    \* Sets of one element: each is worked out once.
    /\ \E given \in {Given(order)}, waiting \in {InState({"waiting"})},
          revive \in {InState({"recalled"})}, free \in {{x \in LabelSets : Clear(x)}} :
       \E reserve \in {{give.owner : give \in given}} :
          /\ reserve \cup drained \cup revive \cup free # {}
          /\ reserve = {x \in LabelSets : order[x] # 0}
          /\ reserve \subseteq waiting
          /\ reserve = waiting \/ Cardinality(reserve) = Cardinality(Free)
          /\ Cardinality({give.number : give \in given}) = Cardinality(reserve)
          /\ \A x \in reserve : order[x] <= Cardinality(reserve)
          /\ flight' = {[epoch |-> journal.epoch,
                         expected |-> seen,
                         allocate |-> given,
                         retire |-> {number[x] : x \in drained},
                         revive |-> {number[x] : x \in revive},
                         free |-> {number[x] : x \in free},
                         cursor |-> IF given = {} THEN cursor
                                    ELSE CHOOSE k \in Numbers : \E give \in given :
                                        /\ k = After(give.number)
                                        /\ order[give.owner] = Cardinality(reserve)]}
          /\ life' = [x \in LabelSets |->
                        IF x \in reserve THEN "reserving"
                        ELSE IF x \in drained THEN "departing"
                        ELSE IF x \in revive THEN "reviving"
                        ELSE IF x \in free THEN "freeing"
                        ELSE life[x]]
          /\ fired' = {Row("identity", "reserve", "waiting", "reserving") : x \in reserve}
                 \cup {Row("identity", "retire", "draining", "departing") : x \in drained}
                 \cup {Row("identity", "revive", "recalled", "reviving") : x \in revive}
                 \cup {Row("identity", "free", "retiring", "freeing") : x \in free}
    /\ UNCHANGED <<journal, late, deposed, seen, cursor, number, birth, without, cuts, newest,
                   nodes, reported, heard, floor, shown, begun, strayed>>

\* Compare and swap: the journal takes a write only from its newest leader, made for what it holds.
\* @type: ($write) => Bool;
Takes(w) == w.epoch = journal.epoch /\ w.expected = journal.revision

\* @type: ($write) => $journal;
Applied(w) ==
    [epoch |-> journal.epoch,
     revision |-> journal.revision + 1,
     cursor |-> w.cursor,
     entries |->
        {e \in journal.entries : e.number \notin (w.retire \cup w.revive \cup w.free)}
        \cup {[e EXCEPT !.phase = "retiring"] : e \in {e \in journal.entries : e.number \in w.retire}}
        \cup {[e EXCEPT !.phase = "active"] : e \in {e \in journal.entries : e.number \in w.revive}}
        \cup {[number |-> give.number, birth |-> journal.revision + 1, owner |-> give.owner,
               phase |-> "active"] : give \in w.allocate}]

WrittenTo(from) ==
    CASE from = "reserving" -> "active"
      [] from = "reserving-unwanted" -> "draining"
      [] from = "departing" -> "retiring"
      [] from = "departing-wanted" -> "recalled"
      [] from = "reviving" -> "active"
      [] from = "reviving-unwanted" -> "draining"
      [] from = "freeing" -> "absent"
      [] from = "freeing-wanted" -> "waiting"
      [] OTHER -> from

RefusedTo(from) ==
    CASE from = "reserving" -> "waiting"
      [] from = "reserving-unwanted" -> "absent"
      [] from = "departing" -> "draining"
      [] from = "departing-wanted" -> "active"
      [] from = "reviving" -> "recalled"
      [] from = "reviving-unwanted" -> "retiring"
      [] from = "freeing" -> "retiring"
      [] from = "freeing-wanted" -> "recalled"
      [] OTHER -> from

Reserving == {"reserving", "reserving-unwanted"}
Departing == {"departing", "departing-wanted"}
Reviving == {"reviving", "reviving-unwanted"}
Freeing == {"freeing", "freeing-wanted"}
InFlight == InState(Reserving \cup Departing \cup Reviving \cup Freeing)

\* The write takes effect, and the server hears of it.
Written ==
    /\ \E w \in flight :
        /\ Takes(w)
        /\ journal' = Applied(w)
        /\ seen' = journal.revision + 1
        /\ cursor' = w.cursor
        /\ number' = [x \in LabelSets |->
             IF life[x] \in Freeing THEN 0
             ELSE IF life[x] \in Reserving
             THEN CHOOSE k \in Numbers : [number |-> k, owner |-> x] \in w.allocate
             ELSE number[x]]
        /\ birth' = [x \in LabelSets |->
             IF life[x] \in Freeing THEN 0
             ELSE IF life[x] \in Reserving THEN journal.revision + 1 ELSE birth[x]]
    /\ without' = [x \in LabelSets |-> IF x \in InFlight THEN 0 ELSE without[x]]
    /\ life' = [x \in LabelSets |-> WrittenTo(life[x])]
    /\ fired' = {Row("identity", "written", life[x], WrittenTo(life[x])) : x \in InFlight}
    /\ flight' = {}
    /\ UNCHANGED <<late, deposed, cuts, newest, nodes, reported, heard, floor, shown, begun, strayed>>

\* @type: Bool;
TakenBack ==
    /\ life' = [x \in LabelSets |-> RefusedTo(life[x])]
    /\ flight' = {}
    /\ UNCHANGED <<journal, seen, cursor, number, birth, without, cuts, newest, nodes, reported,
                   heard, floor, shown, begun, strayed>>

RefusedRows == {Row("identity", "refused", life[x], RefusedTo(life[x])) : x \in InFlight}

\* The write fails, and the server hears of it.
Refused ==
    /\ flight # {}
    /\ TakenBack
    /\ fired' = RefusedRows
    /\ UNCHANGED <<late, deposed>>

\* The server gives the write up, but it may still take effect: its answer is lost.
TimedOut ==
    /\ flight # {}
    /\ Cardinality(late) < MaxLate
    /\ TakenBack
    /\ late' = late \cup flight
    /\ fired' = RefusedRows
    /\ UNCHANGED deposed

\* The journal is not what the write was made for: somebody else has written, so this server
\* stops: it writes and publishes nothing more.
Conflict ==
    /\ \E w \in flight : ~Takes(w)
    /\ TakenBack
    /\ deposed' = TRUE
    /\ fired' = RefusedRows
    /\ UNCHANGED late

\* A write of which nobody hears any more arrives: it takes effect or fails, like any other.
Late ==
    /\ \E w \in late :
        /\ journal' = IF Takes(w) THEN Applied(w) ELSE journal
        /\ late' = late \ {w}
    /\ fired' = {}
    /\ UNCHANGED <<flight, deposed, seen, cursor, life, number, birth, without, cuts, newest,
                   nodes, reported, heard, floor, shown, begun, strayed>>

\* Another server leads. It knows what the journal holds, and nothing of any node: whatever was
\* bound or acknowledged before is learned anew.
Lead ==
    /\ journal.epoch < MaxEpoch
    /\ journal' = [journal EXCEPT !.epoch = @ + 1]
    /\ late' = IF Cardinality(late) < MaxLate THEN late \cup flight ELSE late
    /\ flight' = {}
    /\ deposed' = FALSE
    /\ seen' = journal.revision
    /\ cursor' = journal.cursor
    /\ LET of(x) == {e \in journal.entries : e.owner = x}
           adopted == {x \in LabelSets : of(x) # {}}
       IN /\ life' = [x \in LabelSets |->
                IF of(x) = {} THEN "absent"
                ELSE IF \E e \in of(x) : e.phase = "active" THEN "draining" ELSE "retiring"]
          /\ number' = [x \in LabelSets |->
                IF of(x) = {} THEN 0
                ELSE CHOOSE k \in {e.number : e \in of(x)} : TRUE]
          /\ birth' = [x \in LabelSets |->
                IF of(x) = {} THEN 0
                ELSE CHOOSE r \in {e.birth : e \in of(x)} : TRUE]
          /\ fired' = {IF \E e \in of(x) : e.phase = "active"
                       THEN Row("identity", "adopt_active", "absent", "draining")
                       ELSE Row("identity", "adopt_retiring", "absent", "retiring") : x \in adopted}
                 \cup {Anew("identity", "absent") : x \in LabelSets}
                 \cup {Anew("node", "unknown") : n \in Nodes}
    /\ without' = [x \in LabelSets |-> 0]
    /\ newest' = NoCut
    /\ nodes' = [n \in Nodes |-> "unknown"]
    /\ reported' = [n \in Nodes |-> FALSE]
    /\ heard' = [n \in Nodes |-> FALSE]
    /\ floor' = [n \in Nodes |-> 0]
    /\ begun' = [n \in Nodes |-> IF begun[n] = shown[n] THEN NoCut ELSE begun[n]]
    /\ UNCHANGED <<cuts, shown, strayed>>

-----------------------------------------------------------------------------
(* Cuts *)

\* Whatever can get a number has it before anything is published.
Holding ==
    \/ \E w \in flight : w.allocate # {} \/ w.revive # {}
    \/ InState({"recalled", "freeing-wanted"}) # {}
    \/ InState({"waiting"}) # {} /\ Free # {}

Publish ==
    /\ cuts < MaxCut
    /\ ~deposed
    /\ ~Holding
    /\ \/ Unchanged
       \/ newest.cut = 0
       \/ newest.uses # LivePairs
       \/ \E x \in LabelSets : life[x] \in Left /\ without[x] = 0
    /\ cuts' = cuts + 1
    /\ newest' = [cut |-> cuts + 1, uses |-> LivePairs]
    /\ without' = [x \in LabelSets |->
                     IF life[x] \in Left /\ without[x] = 0 THEN cuts + 1 ELSE without[x]]
    /\ nodes' = [n \in Nodes |-> IF nodes[n] = "in-sync" THEN "syncing" ELSE nodes[n]]
    /\ fired' = {Row("node", "view_changed", nodes[n], nodes'[n]) : n \in {n \in Nodes : Counts(n)}}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, reported,
                   heard, floor, shown, begun, strayed>>

-----------------------------------------------------------------------------
(* Nodes *)

\* A node that is gone begins anew, as one that was never heard of.
Connect(n) ==
    /\ nodes[n] \in {"unknown", "disconnected", "gone"}
    /\ nodes' = [nodes EXCEPT ![n] = "syncing"]
    /\ heard' = [heard EXCEPT ![n] = @ /\ nodes[n] # "gone"]
    /\ floor' = [floor EXCEPT ![n] = IF nodes[n] = "gone" THEN 0 ELSE @]
    /\ fired' = IF nodes[n] = "gone"
                THEN {Anew("node", "unknown"), Row("node", "connect", "unknown", "syncing")}
                ELSE {Row("node", "connect", nodes[n], "syncing")}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, reported, shown, begun, strayed>>

\* The node says what it enforces, or the name of an older cut: of one that has no difference for it,
\* or it has enforced the newer one since. What was begun for it before is over.
Report(n, c) ==
    /\ nodes[n] \in Connected
    /\ c = shown[n].cut \/ (Older /\ c < shown[n].cut)
    /\ ~reported[n]
    /\ reported' = [reported EXCEPT ![n] = TRUE]
    /\ heard' = [heard EXCEPT ![n] = TRUE]
    /\ floor' = [floor EXCEPT ![n] = c]
    /\ begun' = [begun EXCEPT ![n] = NoCut]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, nodes, shown, strayed>>

\* The newest cut is begun: when none is under way, or the node has refused the one that was.
Begin(n) ==
    /\ reported[n]
    /\ floor[n] < newest.cut
    /\ begun[n].cut < newest.cut
    /\ begun[n] # shown[n] \/ begun[n] = NoCut
    /\ begun' = [begun EXCEPT ![n] = newest]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, nodes, reported, heard, floor, shown, strayed>>

\* The node enforces the cut begun for it, whether the server hears of it or not.
Flip(n) ==
    /\ begun[n].cut > shown[n].cut
    /\ shown' = [shown EXCEPT ![n] = begun[n]]
    /\ begun' = [begun EXCEPT ![n] = IF reported[n] THEN @ ELSE NoCut]
    /\ strayed' = [strayed EXCEPT ![n] = @ /\ ~reported[n]]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, nodes, reported, heard, floor>>

Acked(n) ==
    /\ reported[n]
    /\ begun[n] # NoCut
    /\ shown[n] = begun[n]
    /\ floor' = [floor EXCEPT ![n] = shown[n].cut]
    /\ begun' = [begun EXCEPT ![n] = NoCut]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, nodes, reported, heard, shown, strayed>>

\* Nothing of what the newest cut changed is in this node's view: it is at that cut already.
Same(n) ==
    /\ reported[n]
    /\ begun[n] = NoCut
    /\ floor[n] < newest.cut
    /\ floor' = [floor EXCEPT ![n] = newest.cut]
    /\ shown' = [shown EXCEPT ![n] = newest]
    /\ strayed' = [strayed EXCEPT ![n] = FALSE]
    /\ fired' = {}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, nodes, reported, heard, begun>>

InSync(n) ==
    /\ nodes[n] \in {"syncing", "lagging"}
    /\ reported[n]
    /\ begun[n] = NoCut
    /\ floor[n] = newest.cut
    /\ nodes' = [nodes EXCEPT ![n] = "in-sync"]
    /\ fired' = {Row("node", "committed_newest", nodes[n], "in-sync")}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, reported, heard, floor, shown, begun, strayed>>

Lag(n) ==
    /\ nodes[n] = "syncing"
    /\ nodes' = [nodes EXCEPT ![n] = "lagging"]
    /\ fired' = {Row("node", "lag_limit", "syncing", "lagging")}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, reported, heard, floor, shown, begun, strayed>>

\* The stream breaks. What was begun on it may still be enforced.
Break(n) ==
    /\ nodes[n] \in Connected
    /\ nodes' = [nodes EXCEPT ![n] = "disconnected"]
    /\ reported' = [reported EXCEPT ![n] = FALSE]
    /\ begun' = [begun EXCEPT ![n] = IF begun[n] = shown[n] THEN NoCut ELSE @]
    /\ fired' = {Row("node", "disconnect", nodes[n], "disconnected")}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, heard, floor, shown, strayed>>

\* The grace for absent nodes is over.
LetGo(n) ==
    /\ nodes[n] \in {"unknown", "disconnected"}
    /\ nodes' = [nodes EXCEPT ![n] = "gone"]
    /\ strayed' = [strayed EXCEPT ![n] = TRUE]
    /\ fired' = {Row("node", "absence_over", nodes[n], "gone")}
    /\ UNCHANGED <<journal, late, flight, deposed, seen, cursor, life, number, birth, without,
                   cuts, newest, reported, heard, floor, shown, begun>>

-----------------------------------------------------------------------------
Next ==
    \/ \E x \in LabelSets : Bind(x)
    \/ \E x \in LabelSets : Release(x)
    \/ \E drained \in SUBSET LabelSets, order \in Orders : Write(drained, order)
    \/ Written
    \/ Refused
    \/ TimedOut
    \/ Conflict
    \/ Late
    \/ Lead
    \/ Publish
    \/ \E n \in Nodes : Connect(n)
    \/ \E n \in Nodes, c \in 0..MaxCut : Report(n, c)
    \/ \E n \in Nodes : Begin(n)
    \/ \E n \in Nodes : Flip(n)
    \/ \E n \in Nodes : Acked(n)
    \/ \E n \in Nodes : Same(n)
    \/ \E n \in Nodes : InSync(n)
    \/ \E n \in Nodes : Lag(n)
    \/ \E n \in Nodes : Break(n)
    \/ \E n \in Nodes : LetGo(n)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
(* R1: no two label sets share a number, and no label set has two. *)

OneOwner ==
    \A e \in journal.entries : \A f \in journal.entries :
        (e.number = f.number \/ e.owner = f.owner) => e = f

\* What is live at the server is so in the journal, so the same holds of it.
LiveIsJournaled ==
    \A p \in LivePairs : \E e \in journal.entries :
        e.number = p.number /\ e.birth = p.birth /\ e.owner = p.owner

(* R2: a number that a node may use is not given to anybody else, nor free. *)

\* @type: (NODE) => Set($pair);
Uses(n) == shown[n].uses \cup begun[n].uses

InUseIsKept ==
    \A n \in Nodes : ~strayed[n] =>
        \A p \in Uses(n) : \E e \in journal.entries :
            e.number = p.number /\ e.birth = p.birth /\ e.owner = p.owner

\* What the server believes of a node is what it enforces, or older.
FloorIsPast == \A n \in Nodes : nodes[n] # "gone" /\ heard[n] => floor[n] <= shown[n].cut

\* Whatever a node enforces and however long it was away: number and birth tell what is meant.
\* @type: Set($pair);
AllPairs ==
    {[number |-> e.number, birth |-> e.birth, owner |-> e.owner] : e \in journal.entries}
    \cup LivePairs \cup newest.uses \cup UNION {Uses(n) : n \in Nodes}

PairsMeanOne ==
    \A p \in AllPairs : \A q \in AllPairs :
        p.number = q.number /\ p.birth = q.birth => p.owner = q.owner

(* R5: only the newest leader writes, and only to what it has seen. *)
Fenced ==
    [][journal'.revision # journal.revision =>
        \E w \in IF late' = late THEN flight ELSE late \ late' :
            w.epoch = journal.epoch /\ w.expected = journal.revision]_<<journal, late, flight>>

\* Births are never given twice, and the journal never goes back.
Forward == [][journal'.revision >= journal.revision /\ journal'.epoch >= journal.epoch]_journal

\* Make before break: whoever is bound when a cut is published is in it, if there is a number for it.
Whole ==
    [][newest'.cut > newest.cut =>
        \A x \in LabelSets : ReleaseTo(life[x]) # "" =>
            life[x] \in Live \/ (life[x] = "waiting" /\ Free = {})]_newest

\* A number is retired before it is freed: never from in use to free in one write.
RetiredFirst ==
    [][\A e \in journal.entries :
        (e.phase = "active" => \E f \in journal'.entries :
            f.number = e.number /\ f.birth = e.birth /\ f.owner = e.owner)]_journal
=============================================================================
