------------------------------- MODULE Channel -------------------------------
(***************************************************************************)
(* What stage and commit needs of a stream, and no more: each direction is   *)
(* first in, first out, and nothing is doubled, made up or left out, until   *)
(* the stream breaks; then everything that is under way is lost, both ways   *)
(* at once, and the stream is never there again.                             *)
(*                                                                          *)
(* StageCommit assumes this of its `down` and `up`. That XdsStream, in which *)
(* the two ends of a stream leave one after the other and several replicas   *)
(* hold streams of one client, implements it is checked by MCXdsChannel.     *)
(***************************************************************************)
EXTENDS Naturals, Sequences

CONSTANTS
    \* @type: Set(Int);
    Links

VARIABLES
    \* @type: Int -> Str;
    link,   \* "new", "open" or "broken"
    \* @type: Int -> Seq(MESSAGE);
    down,
    \* @type: Int -> Seq(MESSAGE);
    up

Init ==
    /\ link = [l \in Links |-> "new"]
    /\ down = [l \in Links |-> <<>>]
    /\ up = [l \in Links |-> <<>>]

Sends(queue, after) ==
    /\ Len(queue) <= Len(after)
    /\ SubSeq(after, 1, Len(queue)) = queue

Takes(queue, after) ==
    \/ after = queue
    \/ queue # <<>> /\ after = Tail(queue)

\* One end at a time: it may take the first message on its way to it, and send.
Carry(l) ==
    /\ link[l] = "open"
    /\ link'[l] = "open"
    /\ \/ Takes(down[l], down'[l]) /\ Sends(up[l], up'[l])
       \/ Takes(up[l], up'[l]) /\ Sends(down[l], down'[l])

Open(l) ==
    /\ link[l] = "new"
    /\ link'[l] = "open"
    /\ down'[l] = <<>>

Break(l) ==
    /\ link[l] = "open"
    /\ link'[l] = "broken"
    /\ down'[l] = <<>>
    /\ up'[l] = <<>>

Idle(l) == link'[l] = link[l] /\ down'[l] = down[l] /\ up'[l] = up[l]

\* Links do not know of each other: several may move in one step.
Next == \A l \in Links : Carry(l) \/ Open(l) \/ Break(l) \/ Idle(l)

Spec == Init /\ [][Next]_<<link, down, up>>
=============================================================================
