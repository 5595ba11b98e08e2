------------------------------ MODULE Leadership ------------------------------
(***************************************************************************)
(* Which of several replicas writes the journal: it holds the Lease and has  *)
(* the journal's newest epoch. Of the two, only the epoch keeps a deposed    *)
(* one from writing: a Lease is over when a clock says so, and a process     *)
(* that was paused has no clock.                                             *)
(*                                                                           *)
(* The Lease ends whenever it likes here (End), also while its holder thinks *)
(* that it has it; a write may take effect long after it was sent.           *)
(***************************************************************************)
EXTENDS Naturals

CONSTANTS
    \* @type: Set(REPLICA);
    Replicas,
    \* @type: Int;
    MaxEpoch    \* how often the journal is taken over

VARIABLES
    \* @type: REPLICA -> Str;
    life,       \* models/leadership.toml
    \* @type: Set(REPLICA);
    lease,      \* its holder, or nobody
    \* @type: Set(REPLICA);
    opening,    \* those whose taking over is not answered
    \* @type: REPLICA -> Int;
    own,        \* the epoch that a leader opened the journal with, 0: it does not lead
    \* @type: REPLICA -> Int;
    flight,     \* epoch of the write that is under way, 0: none
    \* @type: Int;
    epoch,      \* the journal's
    \* @type: Bool;
    wrote,      \* turns with each write that takes effect
    \* @type: Int;
    writer,     \* epoch of the last of these
    \* @type: Set({machine: Str, on: Str, from: Str, to: Str});
    fired

vars == <<life, lease, opening, own, flight, epoch, wrote, writer, fired>>

Fires(on, from, to) == {[machine |-> "leadership", on |-> on, from |-> from, to |-> to]}

To(r, on, to) ==
    /\ life' = [life EXCEPT ![r] = to]
    /\ fired' = Fires(on, life[r], to)

-----------------------------------------------------------------------------
(* The Lease *)

\* It was not renewed for its duration, as anybody may find who looks.
End ==
    /\ lease # {}
    /\ lease' = {}
    /\ fired' = {}
    /\ UNCHANGED <<life, opening, own, flight, epoch, wrote, writer>>

\* Nobody has it, or itself: from before, when it could not renew it.
Acquire(r) ==
    /\ life[r] = "follower"
    /\ lease \subseteq {r}
    /\ lease' = {r}
    /\ opening' = opening \union {r}
    /\ To(r, "acquired", "candidate")
    /\ UNCHANGED <<own, flight, epoch, wrote, writer>>

\* The holder finds that it could not renew, or that somebody else holds it.
Lose(r) ==
    /\ life[r] \in {"candidate", "leader"}
    /\ To(r, "lost", "fenced")
    /\ own' = [own EXCEPT ![r] = 0]
    /\ UNCHANGED <<lease, opening, flight, epoch, wrote, writer>>

-----------------------------------------------------------------------------
(* The journal *)

\* The journal's epoch is the next one, if the write was done.
Opened(r, done) ==
    /\ r \in opening
    /\ opening' = opening \ {r}
    /\ done => epoch < MaxEpoch
    /\ epoch' = IF done THEN epoch + 1 ELSE epoch

Open(r) ==
    /\ life[r] = "candidate"
    /\ Opened(r, TRUE)
    /\ own' = [own EXCEPT ![r] = epoch + 1]
    /\ To(r, "opened", "leader")
    /\ UNCHANGED <<lease, flight, wrote, writer>>

\* The epoch is taken and the answer lost, or nothing was done.
OpenFails(r, done) ==
    /\ life[r] = "candidate"
    /\ Opened(r, done)
    /\ lease' = lease \ {r}
    /\ To(r, "unopened", "fenced")
    /\ UNCHANGED <<own, flight, wrote, writer>>

\* The answer comes when the Lease is lost: the journal is closed again, if it was opened.
OpensLate(r, done) ==
    /\ life[r] = "fenced"
    /\ Opened(r, done)
    /\ fired' = {}
    /\ UNCHANGED <<life, lease, own, flight, wrote, writer>>

Send(r) ==
    /\ life[r] = "leader"
    /\ flight[r] = 0
    /\ flight' = [flight EXCEPT ![r] = own[r]]
    /\ fired' = {}
    /\ UNCHANGED <<life, lease, opening, own, epoch, wrote, writer>>

\* A write reaches the journal, whatever became of its writer meanwhile.
Arrive(r) ==
    /\ flight[r] # 0
    /\ flight[r] = epoch
    /\ wrote' = ~wrote
    /\ writer' = flight[r]
    /\ flight' = [flight EXCEPT ![r] = 0]
    /\ fired' = {}
    /\ UNCHANGED <<life, lease, opening, own, epoch>>

\* It meets a newer epoch and changes nothing.
Conflict(r) ==
    /\ flight[r] # 0
    /\ flight[r] # epoch
    /\ flight' = [flight EXCEPT ![r] = 0]
    /\ IF life[r] = "leader"
       THEN /\ lease' = lease \ {r}
            /\ own' = [own EXCEPT ![r] = 0]
            /\ To(r, "overtaken", "fenced")
       ELSE /\ fired' = {}
            /\ UNCHANGED <<life, lease, own>>
    /\ UNCHANGED <<opening, epoch, wrote, writer>>

\* What was under way is answered, or will never take effect.
Settle(r) ==
    /\ life[r] = "fenced"
    /\ r \notin opening
    /\ flight[r] = 0
    /\ To(r, "settled", "follower")
    /\ UNCHANGED <<lease, opening, own, flight, epoch, wrote, writer>>

-----------------------------------------------------------------------------
Init ==
    /\ life = [r \in Replicas |-> "follower"]
    /\ lease = {}
    /\ opening = {}
    /\ own = [r \in Replicas |-> 0]
    /\ flight = [r \in Replicas |-> 0]
    /\ epoch = 0
    /\ wrote = FALSE
    /\ writer = 0
    /\ fired = {}

Next ==
    \/ End
    \/ \E r \in Replicas : Acquire(r)
    \/ \E r \in Replicas : Lose(r)
    \/ \E r \in Replicas : Open(r)
    \/ \E r \in Replicas, done \in BOOLEAN : OpenFails(r, done)
    \/ \E r \in Replicas, done \in BOOLEAN : OpensLate(r, done)
    \/ \E r \in Replicas : Send(r)
    \/ \E r \in Replicas : Arrive(r)
    \/ \E r \in Replicas : Conflict(r)
    \/ \E r \in Replicas : Settle(r)

Spec == Init /\ [][Next]_vars
FairSpec ==
    /\ Spec
    /\ WF_vars(End)
    /\ \A r \in Replicas :
        /\ WF_vars(Lose(r) /\ r \notin lease)
        /\ WF_vars(Arrive(r) \/ Conflict(r))
        /\ WF_vars(Settle(r))
        /\ WF_vars(Open(r) \/ \E done \in BOOLEAN : OpenFails(r, done) \/ OpensLate(r, done))

-----------------------------------------------------------------------------
Lives == {"follower", "candidate", "leader", "fenced"}
TypeOK ==
    /\ life \in [Replicas -> Lives]
    /\ epoch \in 0..MaxEpoch
    /\ writer \in 0..MaxEpoch
    /\ own \in [Replicas -> 0..MaxEpoch]
    /\ flight \in [Replicas -> 0..MaxEpoch]
    /\ opening \subseteq {r \in Replicas : life[r] \in {"candidate", "fenced"}}
    /\ \A r, s \in lease : r = s

\* Two that think that they lead have different epochs: at most one of them can write.
OneEpochEach == \A r, s \in Replicas :
    r # s /\ life[r] = "leader" /\ life[s] = "leader" => own[r] # own[s]

\* A replica that follows has nothing under way that a later epoch of its own could be taken for.
FollowersAreStill == \A r \in Replicas : life[r] \in {"follower", "candidate"} => flight[r] = 0

\* What took effect was written by the newest leader there was, never by one before (R5).
NeverBack == [][writer' >= writer /\ (wrote' # wrote => writer' = epoch)]_vars

\* One that has lost the Lease gets to follow again.
StandsDown == \A r \in Replicas : life[r] = "fenced" ~> life[r] = "follower"
===============================================================================
