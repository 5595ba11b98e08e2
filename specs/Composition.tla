------------------------------ MODULE Composition ------------------------------
(***************************************************************************)
(* Allocation and stage-and-commit together, small: one number that several *)
(* label sets want, a server that gives and frees it by what it believes of *)
(* nodes, and nodes that stage and flip what a stream brings them.          *)
(*                                                                          *)
(* Each side assumes what the other has to guarantee:                       *)
(*   Allocation takes what a node reports and acknowledges for what it      *)
(*   enforces, or older, and what was begun for what it may come to enforce *)
(*   (`FloorIsPast`, `InUseIsKept`): here that follows from the messages.   *)
(*   A node writes the policy of a number in place, before the flip: it may *)
(*   do so because number and birth together never mean two label sets, so  *)
(*   that what is staged is no entry of what is in force (`Right`): here    *)
(*   that follows from the journal.                                         *)
(* `Right` holds on every node, also on one that was let go and whose       *)
(* number is somebody else's by now; the barrier is the second defence.     *)
(***************************************************************************)
EXTENDS Integers, Sequences

CONSTANTS
    \* @type: Set(Str);
    LabelSets,
    \* @type: Set(NODE);
    Nodes,
    \* @type: Int;
    MaxRevision,
    \* @type: Int;
    MaxCut,
    \* @type: Int;
    MaxFaults

(*
  @typeAlias: meaning = {owner: Str, birth: Int};
  @typeAlias: message = {kind: Str, cut: Int, says: $meaning};
*)
CompositionAliases == TRUE

VARIABLES
    \* The journal, and the server that leads
    \* @type: Int;
    revision,
    \* @type: Str;
    phase,     \* of the number: "free", "active", "retiring"
    \* @type: $meaning;
    meaning,   \* of the number, unless it is free
    \* @type: Int;
    cut,       \* the newest one
    \* @type: Int -> $meaning;
    content,   \* cut -> what the number means in it; Nothing: it is not used
    \* @type: Int;
    left,      \* the first published cut without the retiring number; 0: none by this server
    \* @type: Int;
    led,       \* the newest cut of the servers before
    \* @type: NODE -> Str;
    status,    \* "unheard", "heard", "gone"
    \* @type: NODE -> Int;
    floor,
    \* @type: NODE -> Str;
    rollout,   \* "absent", "current", "staging", "committing"
    \* @type: NODE -> Int;
    target,    \* the cut under way, or the last that was; 0: none
    \* The streams
    \* @type: NODE -> Seq($message);
    down,
    \* @type: NODE -> Seq($message);
    up,
    \* The nodes
    \* @type: NODE -> $meaning;
    held,      \* the binding that is staged on top of what is in force
    \* @type: NODE -> (Int -> Str);
    entries,   \* policy entries in the kernel: birth (the index of number and birth) -> whose rules
    \* @type: NODE -> $meaning;
    inForce,   \* the binding in force
    \* @type: NODE -> Int;
    enforced,  \* the cut in force
    \* @type: NODE -> Bool;
    strayed,   \* as in Allocation
    \* @type: Int;
    faults     \* bounds the search

server == <<revision, phase, meaning, cut, content, left, led>>
beliefs == <<status, floor, rollout, target>>
streams == <<down, up>>
kernel == <<held, entries, inForce, enforced, strayed>>
vars == <<server, beliefs, streams, kernel, faults>>

\* @type: $meaning;
Nothing == [owner |-> "", birth |-> 0]
\* @type: (Str, Int, $meaning) => $message;
Message(kind, c, says) == [kind |-> kind, cut |-> c, says |-> says]
Births == 0..MaxRevision

\* The kernel finds a policy by number and birth.
Index(birth) == birth

Init ==
    /\ revision = 0 /\ phase = "free" /\ meaning = Nothing /\ cut = 0
    /\ content = [c \in 0..MaxCut |-> Nothing]
    /\ left = 0 /\ led = 0
    /\ status = [n \in Nodes |-> "unheard"]
    /\ floor = [n \in Nodes |-> 0]
    /\ rollout = [n \in Nodes |-> "absent"]
    /\ target = [n \in Nodes |-> 0]
    /\ down = [n \in Nodes |-> <<>>]
    /\ up = [n \in Nodes |-> <<>>]
    /\ held = [n \in Nodes |-> Nothing]
    /\ entries = [n \in Nodes |-> [b \in Births |-> ""]]
    /\ inForce = [n \in Nodes |-> Nothing]
    /\ enforced = [n \in Nodes |-> 0]
    /\ strayed = [n \in Nodes |-> FALSE]
    /\ faults = 0

-----------------------------------------------------------------------------
(* Allocation *)

Give(x) ==
    /\ revision < MaxRevision
    /\ phase = "free"
    /\ revision' = revision + 1
    /\ phase' = "active"
    /\ meaning' = [owner |-> x, birth |-> revision + 1]
    /\ UNCHANGED <<cut, content, left, led, beliefs, streams, kernel, faults>>

Retire ==
    /\ revision < MaxRevision
    /\ phase = "active"
    /\ revision' = revision + 1
    /\ phase' = "retiring"
    /\ left' = 0
    /\ UNCHANGED <<meaning, cut, content, led, beliefs, streams, kernel, faults>>

Clear == \A n \in Nodes : status[n] = "gone" \/ (status[n] = "heard" /\ floor[n] >= left)

Free ==
    /\ revision < MaxRevision
    /\ phase = "retiring"
    /\ left # 0
    /\ Clear
    /\ revision' = revision + 1
    /\ phase' = "free"
    /\ left' = 0
    /\ meaning' = Nothing
    /\ UNCHANGED <<cut, content, led, beliefs, streams, kernel, faults>>

Publish ==
    /\ cut < MaxCut
    /\ cut' = cut + 1
    /\ content' = [content EXCEPT ![cut + 1] = IF phase = "active" THEN meaning ELSE Nothing]
    /\ left' = IF phase = "retiring" /\ left = 0 THEN cut + 1 ELSE left
    /\ UNCHANGED <<revision, phase, meaning, led, beliefs, streams, kernel, faults>>

\* @type: (NODE -> Bool) => Bool;
Broken(broken) ==
    /\ rollout' = [n \in Nodes |-> IF broken[n] THEN "absent" ELSE rollout[n]]
    /\ down' = [n \in Nodes |-> IF broken[n] THEN <<>> ELSE down[n]]
    /\ up' = [n \in Nodes |-> IF broken[n] THEN <<>> ELSE up[n]]
    \* What was staged is cleared: what is in force stays.
    /\ held' = [n \in Nodes |-> IF broken[n] THEN inForce[n] ELSE held[n]]
    /\ entries' = [n \in Nodes |-> [b \in Births |->
            IF broken[n] /\ b # Index(inForce[n].birth) THEN "" ELSE entries[n][b]]]

\* Another server leads: it knows the journal, and nothing of any node.
Lead ==
    /\ faults < MaxFaults
    /\ faults' = faults + 1
    /\ left' = 0
    /\ led' = cut
    /\ status' = [n \in Nodes |-> "unheard"]
    /\ floor' = [n \in Nodes |-> 0]
    /\ target' = [n \in Nodes |-> 0]
    /\ Broken([n \in Nodes |-> TRUE])
    /\ UNCHANGED <<revision, phase, meaning, cut, content, inForce, enforced, strayed>>

LetGo(n) ==
    /\ rollout[n] = "absent"
    /\ status[n] # "gone"
    /\ status' = [status EXCEPT ![n] = "gone"]
    /\ strayed' = [strayed EXCEPT ![n] = TRUE]
    /\ UNCHANGED <<server, floor, rollout, target, streams, held, entries, inForce, enforced, faults>>

-----------------------------------------------------------------------------
(* Stage and commit: the server *)

Begin(n) ==
    /\ rollout[n] = "current"
    /\ cut > led
    /\ floor[n] < cut
    /\ rollout' = [rollout EXCEPT ![n] = "staging"]
    /\ target' = [target EXCEPT ![n] = cut]
    /\ down' = [down EXCEPT ![n] = @ \o <<Message("policy", cut, content[cut]),
                                         Message("binding", cut, content[cut])>>]
    /\ UNCHANGED <<server, status, floor, up, kernel, faults>>

Receive(n) ==
    /\ up[n] # <<>>
    /\ up' = [up EXCEPT ![n] = Tail(@)]
    /\ LET m == Head(up[n]) IN
       CASE m.kind = "report" ->
              /\ status' = [status EXCEPT ![n] = "heard"]
              /\ floor' = [floor EXCEPT ![n] = m.cut]
              /\ target' = [target EXCEPT ![n] = 0]
              /\ rollout' = [rollout EXCEPT ![n] = "current"]
              /\ down' = down
         [] m.kind = "staged" ->
              /\ rollout' = [rollout EXCEPT ![n] = "committing"]
              /\ down' = [down EXCEPT ![n] = Append(@, Message("commit", m.cut, Nothing))]
              /\ UNCHANGED <<status, floor, target>>
         [] m.kind = "committed" ->
              /\ rollout' = [rollout EXCEPT ![n] = "current"]
              /\ floor' = [floor EXCEPT ![n] = m.cut]
              /\ UNCHANGED <<status, target, down>>
    /\ UNCHANGED <<server, kernel, faults>>

(* Stage and commit: the node *)

\* It says what it enforces, never what it has staged.
Connect(n) ==
    /\ rollout[n] = "absent"
    /\ up[n] = <<>>
    /\ up' = [up EXCEPT ![n] = <<Message("report", enforced[n], Nothing)>>]
    /\ status' = [status EXCEPT ![n] = IF @ = "gone" THEN "unheard" ELSE @]
    /\ UNCHANGED <<server, floor, rollout, target, down, kernel, faults>>

\* Policy entries are written in place, under the index of number and birth; a binding is two-sided.
Stage(n) ==
    /\ down[n] # <<>>
    /\ LET m == Head(down[n]) IN
        /\ m.kind \in {"policy", "binding"}
        /\ down' = [down EXCEPT ![n] = Tail(@)]
        /\ entries' = IF m.kind = "binding" \/ m.says = Nothing THEN entries
                      ELSE [entries EXCEPT ![n][Index(m.says.birth)] = m.says.owner]
        /\ held' = IF m.kind = "binding" THEN [held EXCEPT ![n] = m.says] ELSE held
        /\ up' = IF m.kind = "policy" THEN up
                 ELSE [up EXCEPT ![n] = Append(@, Message("staged", m.cut, Nothing))]
    /\ UNCHANGED <<server, beliefs, inForce, enforced, strayed, faults>>

\* The flip: the binding that is staged is in force, and what belongs to no cut is removed.
Flip(n) ==
    /\ down[n] # <<>>
    /\ LET m == Head(down[n]) IN
        /\ m.kind = "commit"
        /\ down' = [down EXCEPT ![n] = Tail(@)]
        /\ inForce' = [inForce EXCEPT ![n] = held[n]]
        /\ enforced' = [enforced EXCEPT ![n] = m.cut]
        /\ entries' = [entries EXCEPT ![n] = [b \in Births |->
                            IF b = Index(held[n].birth) THEN @[b] ELSE ""]]
        /\ up' = [up EXCEPT ![n] = Append(@, Message("committed", m.cut, Nothing))]
        /\ strayed' = [strayed EXCEPT ![n] = FALSE]
    /\ UNCHANGED <<server, beliefs, held, faults>>

Break(n) ==
    /\ faults < MaxFaults
    /\ faults' = faults + 1
    /\ rollout[n] # "absent" \/ up[n] # <<>>
    /\ Broken([m \in Nodes |-> m = n])
    /\ UNCHANGED <<server, status, floor, target, inForce, enforced, strayed>>

-----------------------------------------------------------------------------
Next ==
    \/ \E x \in LabelSets : Give(x)
    \/ Retire
    \/ Free
    \/ Publish
    \/ Lead
    \/ \E n \in Nodes : LetGo(n)
    \/ \E n \in Nodes : Begin(n)
    \/ \E n \in Nodes : Receive(n)
    \/ \E n \in Nodes : Connect(n)
    \/ \E n \in Nodes : Stage(n)
    \/ \E n \in Nodes : Flip(n)
    \/ \E n \in Nodes : Break(n)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
\* What Allocation assumes of nodes.
FloorIsPast == \A n \in Nodes : status[n] = "heard" => floor[n] <= enforced[n]

Kept(c) == content[c] # Nothing => phase # "free" /\ meaning = content[c]
InUseIsKept == \A n \in Nodes : ~strayed[n] =>
    /\ Kept(enforced[n])
    /\ \A i \in DOMAIN down[n] : Kept(down[n][i].cut)

\* What the node enforces is the cut that it names.
OneCut == \A n \in Nodes : inForce[n] = content[enforced[n]]

\* What stage and commit assumes of numbers: whatever is staged meanwhile, a packet from a group that
\* is bound to the number meets the rules of that group's label set.
Right == \A n \in Nodes :
    inForce[n] # Nothing => entries[n][Index(inForce[n].birth)] = inForce[n].owner
=============================================================================
