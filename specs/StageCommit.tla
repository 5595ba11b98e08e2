----------------------------- MODULE StageCommit -----------------------------
(***************************************************************************)
(* Stage and commit of node views over a stream that may break at any time. *)
(*                                                                          *)
(* The server publishes revisions. What a revision means is one content a   *)
(* resource type (here: bindings and rules); a node may enforce only the    *)
(* contents of one and the same revision. The server sends what differs     *)
(* from the last acknowledged cut, pipelined, and `Commit` when all of it    *)
(* is acknowledged; the node flips only if what it holds is what the commit *)
(* names (the root check).                                                  *)
(*                                                                          *)
(* Kept out: the kernel's maps below one flip, identities and their births,  *)
(* several servers. specs/README.md lists the gaps.                          *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    \* @type: Set(NODE);
    Nodes,
    \* @type: Set(TYPE);
    Types,
    \* @type: Int;
    Versions,     \* how many contents each type has
    \* @type: Int;
    MaxRevision,
    \* @type: Int;
    MaxFaults

VARIABLES
    \* @type: Int -> (TYPE -> Int);
    content,   \* revision -> type -> version: what the revision means
    \* @type: Int;
    revision,  \* the newest published revision
    \* @type: NODE -> (TYPE -> Int);
    enforced,  \* what the kernel enforces: one version a type
    \* @type: NODE -> Int;
    cut,       \* the revision that the node says it enforces
    \* @type: NODE -> (TYPE -> Int);
    held,      \* enforced plus what is staged on top of it
    \* @type: NODE -> Str;
    rollout,   \* server: "absent", "current", "staging", "committing", "held"
    \* @type: NODE -> Int;
    acked,     \* server: last cut that the node acknowledged
    \* @type: NODE -> Int;
    target,    \* server: the cut begun; acked when there is none
    \* @type: NODE -> Set(TYPE);
    waiting,   \* server: types sent and not yet acknowledged
    \* @type: NODE -> Seq({kind: Str, type: TYPE, number: Int, rev: Int});
    down,      \* stream to the node, in order
    \* @type: NODE -> Seq({kind: Str, type: TYPE, number: Int, rev: Int});
    up,        \* stream to the server, in order
    \* @type: Int;
    faults     \* crashes, breaks and NACKs so far (bounds the search)

vars == <<content, revision, enforced, cut, held, rollout, acked, target, waiting,
          down, up, faults>>

AnyType == CHOOSE t \in Types : TRUE
Message(kind, type, number, rev) == [kind |-> kind, type |-> type, number |-> number, rev |-> rev]

Init ==
    /\ content = [r \in {1} |-> [t \in Types |-> 1]]
    /\ revision = 1
    /\ enforced = [n \in Nodes |-> [t \in Types |-> 1]]
    /\ cut = [n \in Nodes |-> 1]
    /\ held = enforced
    /\ rollout = [n \in Nodes |-> "absent"]
    /\ acked = [n \in Nodes |-> 1]
    /\ target = [n \in Nodes |-> 1]
    /\ waiting = [n \in Nodes |-> {}]
    /\ down = [n \in Nodes |-> <<>>]
    /\ up = [n \in Nodes |-> <<>>]
    /\ faults = 0

-----------------------------------------------------------------------------
(* The server *)

\* An edit gives each type any version: content comes back (a version is a hash of content), so
\* "newer than what was sent" is not the same as "different from what is held".
Publish(next) ==
    /\ revision < MaxRevision
    /\ next # content[revision]
    /\ revision' = revision + 1
    /\ content' = [r \in 1..(revision + 1) |-> IF r <= revision THEN content[r] ELSE next]
    /\ UNCHANGED <<enforced, cut, held, rollout, acked, target, waiting, down, up, faults>>

Differs(n, rev) == {t \in Types : content[acked[n]][t] # content[rev][t]}

\* The order of the types in one cut is fixed; the order of two is enough to be wrong.
RECURSIVE Staged(_, _)
Staged(types, rev) ==
    IF types = {} THEN <<>>
    ELSE LET t == CHOOSE t \in types : TRUE
         IN <<Message("stage", t, content[rev][t], rev)>> \o Staged(types \ {t}, rev)

Begin(n) ==
    /\ rollout[n] = "current"
    /\ acked[n] < revision
    /\ rollout' = [rollout EXCEPT ![n] = "staging"]
    /\ target' = [target EXCEPT ![n] = revision]
    /\ waiting' = [waiting EXCEPT ![n] = Differs(n, revision)]
    /\ down' = [down EXCEPT ![n] = @ \o Staged(Differs(n, revision), revision)]
    /\ UNCHANGED <<content, revision, enforced, cut, held, acked, up, faults>>

Commit(n) ==
    /\ rollout[n] = "staging"
    /\ waiting[n] = {}
    /\ rollout' = [rollout EXCEPT ![n] = "committing"]
    /\ down' = [down EXCEPT ![n] = Append(@, Message("commit", AnyType, 0, target[n]))]
    /\ UNCHANGED <<content, revision, enforced, cut, held, acked, target, waiting, up, faults>>

ServerReceives(n) ==
    /\ up[n] # <<>>
    /\ LET m == Head(up[n]) IN
        /\ up' = [up EXCEPT ![n] = Tail(@)]
        /\ CASE m.kind = "report" ->
                  \* A new stream: the node says what it enforces, and nothing of what it staged.
                  /\ rollout' = [rollout EXCEPT ![n] = "current"]
                  /\ acked' = [acked EXCEPT ![n] = m.rev]
                  /\ target' = [target EXCEPT ![n] = m.rev]
                  /\ waiting' = [waiting EXCEPT ![n] = {}]
             [] m.kind = "ack" ->
                  /\ waiting' = [waiting EXCEPT ![n] =
                       IF rollout[n] = "staging" /\ m.rev = target[n] THEN @ \ {m.type} ELSE @]
                  /\ UNCHANGED <<rollout, acked, target>>
             [] m.kind = "committed" ->
                  /\ rollout' = [rollout EXCEPT ![n] = "current"]
                  /\ acked' = [acked EXCEPT ![n] = m.rev]
                  /\ target' = [target EXCEPT ![n] = m.rev]
                  /\ waiting' = [waiting EXCEPT ![n] = {}]
             [] m.kind = "nack" ->
                  \* The cut is abandoned whole; what is still under way of it may yet be staged.
                  /\ rollout' = [rollout EXCEPT ![n] =
                       IF rollout[n] \in {"staging", "committing"} /\ m.rev = target[n]
                       THEN "held" ELSE @]
                  /\ UNCHANGED <<acked, target, waiting>>
    /\ UNCHANGED <<content, revision, enforced, cut, held, down, faults>>

\* After a NACK: not at once, and never the same stream state: the node is asked to start anew.
Retry(n) ==
    /\ rollout[n] = "held"
    /\ rollout' = [rollout EXCEPT ![n] = "absent"]
    /\ down' = [down EXCEPT ![n] = <<>>]
    /\ up' = [up EXCEPT ![n] = <<>>]
    /\ held' = [held EXCEPT ![n] = enforced[n]]
    /\ UNCHANGED <<content, revision, enforced, cut, acked, target, waiting, faults>>

\* Or, when a newer revision is there, it goes on with that one on the same stream.
Supersede(n) ==
    /\ rollout[n] = "held"
    /\ target[n] < revision
    /\ rollout' = [rollout EXCEPT ![n] = "current"]
    /\ target' = [target EXCEPT ![n] = acked[n]]
    /\ waiting' = [waiting EXCEPT ![n] = {}]
    /\ UNCHANGED <<content, revision, enforced, cut, held, acked, down, up, faults>>

-----------------------------------------------------------------------------
(* The node *)

Connect(n) ==
    /\ rollout[n] = "absent"
    /\ up[n] = <<>>
    /\ up' = [up EXCEPT ![n] = <<Message("report", AnyType, 0, cut[n])>>]
    /\ held' = [held EXCEPT ![n] = enforced[n]]
    /\ UNCHANGED <<content, revision, enforced, cut, rollout, acked, target, waiting, down, faults>>

Stage(n) ==
    /\ down[n] # <<>>
    /\ Head(down[n]).kind = "stage"
    /\ LET m == Head(down[n]) IN
        /\ down' = [down EXCEPT ![n] = Tail(@)]
        /\ held' = [held EXCEPT ![n][m.type] = m.number]
        /\ up' = [up EXCEPT ![n] = Append(@, Message("ack", m.type, 0, m.rev))]
    /\ UNCHANGED <<content, revision, enforced, cut, rollout, acked, target, waiting, faults>>

\* A map is full, a resource is bad: staging is rolled back as a whole.
Refuse(n) ==
    /\ faults < MaxFaults
    /\ faults' = faults + 1
    /\ down[n] # <<>>
    /\ Head(down[n]).kind = "stage"
    /\ LET m == Head(down[n]) IN
        /\ down' = [down EXCEPT ![n] = Tail(@)]
        /\ held' = [held EXCEPT ![n] = enforced[n]]
        /\ up' = [up EXCEPT ![n] = Append(@, Message("nack", m.type, 0, m.rev))]
    /\ UNCHANGED <<content, revision, enforced, cut, rollout, acked, target, waiting>>

\* The root check: what the node holds is what the commit names.
RootMatches(n, rev) == held[n] = content[rev]

Flip(n) ==
    /\ down[n] # <<>>
    /\ Head(down[n]).kind = "commit"
    /\ LET m == Head(down[n]) IN
        /\ RootMatches(n, m.rev)
        /\ down' = [down EXCEPT ![n] = Tail(@)]
        /\ enforced' = [enforced EXCEPT ![n] = held[n]]
        /\ cut' = [cut EXCEPT ![n] = m.rev]
        /\ up' = [up EXCEPT ![n] = Append(@, Message("committed", AnyType, 0, m.rev))]
    /\ UNCHANGED <<content, revision, held, rollout, acked, target, waiting, faults>>

RefuseCommit(n) ==
    /\ down[n] # <<>>
    /\ Head(down[n]).kind = "commit"
    /\ LET m == Head(down[n]) IN
        /\ ~RootMatches(n, m.rev)
        /\ down' = [down EXCEPT ![n] = Tail(@)]
        /\ held' = [held EXCEPT ![n] = enforced[n]]
        /\ up' = [up EXCEPT ![n] = Append(@, Message("nack", AnyType, 0, m.rev))]
    /\ UNCHANGED <<content, revision, enforced, cut, rollout, acked, target, waiting, faults>>

\* The stream breaks, or the agent dies and comes back: what was staged is gone, the kernel stays.
Break(n) ==
    /\ faults < MaxFaults
    /\ rollout[n] # "absent"
    /\ faults' = faults + 1
    /\ rollout' = [rollout EXCEPT ![n] = "absent"]
    /\ held' = [held EXCEPT ![n] = enforced[n]]
    /\ down' = [down EXCEPT ![n] = <<>>]
    /\ up' = [up EXCEPT ![n] = <<>>]
    /\ UNCHANGED <<content, revision, enforced, cut, acked, target, waiting>>

-----------------------------------------------------------------------------
Next ==
    \/ \E next \in [Types -> 1..Versions] : Publish(next)
    \/ \E n \in Nodes : Begin(n)
    \/ \E n \in Nodes : Commit(n)
    \/ \E n \in Nodes : ServerReceives(n)
    \/ \E n \in Nodes : Retry(n)
    \/ \E n \in Nodes : Supersede(n)
    \/ \E n \in Nodes : Connect(n)
    \/ \E n \in Nodes : Stage(n)
    \/ \E n \in Nodes : Refuse(n)
    \/ \E n \in Nodes : Flip(n)
    \/ \E n \in Nodes : RefuseCommit(n)
    \/ \E n \in Nodes : Break(n)

Progress(n) ==
    Begin(n) \/ Commit(n) \/ ServerReceives(n) \/ Retry(n) \/ Connect(n) \/ Stage(n)
    \/ Flip(n) \/ RefuseCommit(n)

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ \A n \in Nodes : WF_vars(Progress(n))

-----------------------------------------------------------------------------
\* R3: every verdict comes from exactly one cut, the one that the node names.
OneCut == \A n \in Nodes : enforced[n] = content[cut[n]]

\* R6: what the server believes committed is what the kernel enforces, or older.
BeliefIsPast == \A n \in Nodes : acked[n] <= cut[n]

\* R6: the cuts of one node never go back.
NeverBack == [][\A n \in Nodes : cut'[n] >= cut[n]]_cut

\* R7: when nothing more is published, every node comes to enforce the newest revision.
Converges == \A n \in Nodes : <>[](cut[n] = revision)
=============================================================================
