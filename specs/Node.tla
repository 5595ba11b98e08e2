-------------------------------- MODULE Node --------------------------------
(***************************************************************************)
(* What a node promises to everything above its maps: it enforces one cut   *)
(* as a whole, prepares another where nobody sees it, and changes to it in   *)
(* one step. NodeMaps keeps this promise, and StageCommit asks for no more:  *)
(* two refinements that TLC checks.                                         *)
(***************************************************************************)
CONSTANTS
    \* @type: Set(CUT);
    AnyCut,
    \* @type: CUT;
    First,     \* the cut in force at the start
    \* @type: CUT -> (PEER -> Bool);
    AnswerOf,   \* cut -> where a packet is from -> whether it passes
    \* @type: Set(PEER);
    Asked,     \* where packets are from
    \* @type: {at: Str, address: PEER, cut: CUT, passed: Bool};
    None       \* no packet is on its way

VARIABLES
    \* @type: CUT;
    enforced,  \* the cut in force
    \* @type: CUT;
    staged,    \* what is prepared; `enforced` when nothing is
    \* @type: PEER -> Bool;
    says,      \* what a packet would get that needs no time
    \* @type: {at: Str, address: PEER, cut: CUT, passed: Bool};
    question   \* a packet on its way; `cut`: the one that was in force when it came

vars == <<enforced, staged, says, question>>

Init ==
    /\ enforced = First
    /\ staged = First
    /\ says = AnswerOf[First]
    /\ question = None

Prepare ==
    /\ staged' \in AnyCut
    /\ UNCHANGED <<enforced, says, question>>

\* In force at once, and as a whole.
Flip ==
    /\ enforced' = staged
    /\ says' = AnswerOf[staged]
    /\ UNCHANGED <<staged, question>>

\* Taken back, or lost with the process.
Abandon ==
    /\ staged' = enforced
    /\ UNCHANGED <<enforced, says, question>>

Ask(k) ==
    /\ question.at = "none"
    /\ question' = [at |-> "asked", address |-> k, cut |-> enforced, passed |-> FALSE]
    /\ UNCHANGED <<enforced, staged, says>>

Answer ==
    /\ question.at = "asked"
    /\ question' = [question EXCEPT
        !.at = "judged", !.passed = AnswerOf[question.cut][question.address]]
    /\ UNCHANGED <<enforced, staged, says>>

Gone ==
    /\ question.at = "judged"
    /\ question' = None
    /\ UNCHANGED <<enforced, staged, says>>

Next ==
    \/ Prepare
    \/ Flip
    \/ Abandon
    \/ \E k \in Asked : Ask(k)
    \/ Answer
    \/ Gone

Spec == Init /\ [][Next]_vars
=============================================================================
