-------------------------------- MODULE Node --------------------------------
(***************************************************************************)
(* What a node promises to everything above its maps: it enforces one cut   *)
(* as a whole, prepares another where nobody sees it, and changes to it in   *)
(* one step. NodeMaps keeps this promise (a refinement that TLC checks), and *)
(* StageCommit relies on no more.                                           *)
(***************************************************************************)
EXTENDS Naturals

CONSTANTS
    \* @type: Int;
    Cuts,      \* cuts 0..Cuts
    \* @type: Int;
    First,     \* the cut in force at the start
    \* @type: Int -> (Int -> Bool);
    Answers,   \* cut -> where a packet is from -> whether it passes
    \* @type: Set(Int);
    Asked      \* where packets are from

VARIABLES
    \* @type: Int;
    enforced,  \* the cut in force
    \* @type: Int;
    staged,    \* what is prepared; `enforced` when nothing is
    \* @type: Int -> Bool;
    says,      \* what a packet would get that needs no time
    \* @type: {at: Str, address: Int, cut: Int, passed: Bool};
    question   \* a packet on its way; `cut`: the one that was in force when it came

vars == <<enforced, staged, says, question>>

\* @type: {at: Str, address: Int, cut: Int, passed: Bool};
None == [at |-> "none", address |-> 0, cut |-> 0, passed |-> FALSE]

Init ==
    /\ enforced = First
    /\ staged = First
    /\ says = Answers[First]
    /\ question = None

Prepare(n) ==
    /\ staged' = n
    /\ UNCHANGED <<enforced, says, question>>

\* In force at once, and as a whole.
Flip ==
    /\ enforced' = staged
    /\ says' = Answers[staged]
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
        !.at = "judged", !.passed = Answers[question.cut][question.address]]
    /\ UNCHANGED <<enforced, staged, says>>

Gone ==
    /\ question.at = "judged"
    /\ question' = None
    /\ UNCHANGED <<enforced, staged, says>>

Next ==
    \/ \E n \in 0..Cuts : Prepare(n)
    \/ Flip
    \/ Abandon
    \/ \E k \in Asked : Ask(k)
    \/ Answer
    \/ Gone

Spec == Init /\ [][Next]_vars
=============================================================================
