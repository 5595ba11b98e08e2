---------------------------- MODULE AllocationCore ----------------------------
(***************************************************************************)
(* What R1 and R2 rest on in Allocation, small enough for an inductive      *)
(* invariant: the journal's numbers, cuts by the births that they use, what *)
(* nodes enforce and what is believed of them, a write that frees a number  *)
(* and arrives late, a server that takes over.                              *)
(*                                                                          *)
(* Left out, and in Allocation: the life of a label set in the server, the  *)
(* cursor, refused writes, and that a node's stream breaks (what was begun  *)
(* stays begun here until the node reports).                                *)
(*                                                                          *)
(* IndInv bounds every variable, for Apalache's three queries:              *)
(*     --init=Init   --inv=IndInv --length=0                                *)
(*     --init=IndInv --inv=IndInv --length=1                                *)
(*     --init=IndInv --inv=Safety --length=0                                *)
(* TLC does the same with small constants: all states of IndInv as initial  *)
(* ones.                                                                    *)
(***************************************************************************)
EXTENDS Integers

CONSTANTS
    \* @type: Set(LABELS);
    LabelSets,
    \* @type: Set(NODE);
    Nodes,
    \* @type: Set(Int);
    Numbers,
    \* @type: Int;
    MaxRevision,
    \* @type: Int;
    MaxEpoch,
    \* @type: Int;
    MaxCut

VARIABLES
    \* @type: Int;
    epoch,
    \* @type: Int;
    revision,
    \* @type: Int -> Str;
    phase,    \* of each number in the journal
    \* @type: Int -> LABELS;
    owner,    \* of a number that is not free
    \* @type: Int -> Int;
    birth,    \* of a number that is not free; 0 when it is
    \* @type: Int;
    cut,      \* the newest cut
    \* @type: Int -> (Int -> Int);
    means,    \* cut -> number -> the birth with which the cut uses it; 0: it does not
    \* @type: Int -> Int;
    left,     \* the first published cut without a retiring number; 0: none by this server
    \* @type: NODE -> Str;
    status,   \* "unheard" since this server leads, "heard", or "gone"
    \* @type: NODE -> Int;
    floor,    \* what a node that was heard is believed to enforce
    \* @type: NODE -> Int;
    shown,    \* the cut that it enforces
    \* @type: NODE -> Int;
    begun,    \* a cut that it may come to enforce
    \* @type: NODE -> Bool;
    strayed,  \* it was let go, and has enforced no cut since that was begun after its return
    \* @type: Set({number: Int, epoch: Int, expected: Int});
    plan      \* a write under way that frees a number

vars == <<epoch, revision, phase, owner, birth, cut, means, left, status, floor, shown, begun,
          strayed, plan>>
journal == <<epoch, revision, phase, owner, birth>>
fleet == <<status, floor, shown, begun, strayed>>

Init ==
    /\ epoch = 1 /\ revision = 0
    /\ phase = [k \in Numbers |-> "free"]
    /\ owner \in [Numbers -> LabelSets]
    /\ birth = [k \in Numbers |-> 0]
    /\ cut = 0
    /\ means = [c \in 0..MaxCut |-> [k \in Numbers |-> 0]]
    /\ left = [k \in Numbers |-> 0]
    /\ status = [n \in Nodes |-> "unheard"]
    /\ floor = [n \in Nodes |-> 0]
    /\ shown = [n \in Nodes |-> 0]
    /\ begun = [n \in Nodes |-> 0]
    /\ strayed = [n \in Nodes |-> FALSE]
    /\ plan = {}

-----------------------------------------------------------------------------
Give(k, x) ==
    /\ revision < MaxRevision
    /\ phase[k] = "free"
    /\ \A m \in Numbers : phase[m] # "free" => owner[m] # x
    /\ revision' = revision + 1
    /\ phase' = [phase EXCEPT ![k] = "active"]
    /\ owner' = [owner EXCEPT ![k] = x]
    /\ birth' = [birth EXCEPT ![k] = revision + 1]
    /\ UNCHANGED <<epoch, cut, means, left, status, floor, shown, begun, strayed, plan>>

Retire(k) ==
    /\ revision < MaxRevision
    /\ phase[k] = "active"
    /\ revision' = revision + 1
    /\ phase' = [phase EXCEPT ![k] = "retiring"]
    /\ left' = [left EXCEPT ![k] = 0]
    /\ UNCHANGED <<epoch, owner, birth, cut, means, status, floor, shown, begun, strayed, plan>>

Revive(k) ==
    /\ revision < MaxRevision
    /\ phase[k] = "retiring"
    /\ revision' = revision + 1
    /\ phase' = [phase EXCEPT ![k] = "active"]
    /\ left' = [left EXCEPT ![k] = 0]
    /\ UNCHANGED <<epoch, owner, birth, cut, means, status, floor, shown, begun, strayed, plan>>

ClearOf(c) == \A n \in Nodes :
    \/ status[n] = "gone"
    \/ status[n] = "heard" /\ floor[n] >= c

Plan(k) ==
    /\ phase[k] = "retiring"
    /\ left[k] # 0
    /\ ClearOf(left[k])
    /\ plan' = {[number |-> k, epoch |-> epoch, expected |-> revision]}
    /\ UNCHANGED <<epoch, revision, phase, owner, birth, cut, means, left, status, floor, shown,
                   begun, strayed>>

\* @type: ({number: Int, epoch: Int, expected: Int}) => Bool;
Takes(w) == w.epoch = epoch /\ w.expected = revision

Free ==
    /\ revision < MaxRevision
    /\ \E w \in plan :
        /\ Takes(w)
        /\ phase' = [phase EXCEPT ![w.number] = "free"]
        /\ birth' = [birth EXCEPT ![w.number] = 0]
        /\ left' = [left EXCEPT ![w.number] = 0]
    /\ revision' = revision + 1
    /\ plan' = {}
    /\ UNCHANGED <<epoch, owner, cut, means, status, floor, shown, begun, strayed>>

Lead ==
    /\ epoch < MaxEpoch
    /\ epoch' = epoch + 1
    /\ left' = [k \in Numbers |-> 0]
    /\ status' = [n \in Nodes |-> "unheard"]
    /\ floor' = [n \in Nodes |-> 0]
    /\ UNCHANGED <<revision, phase, owner, birth, cut, means, shown, begun, strayed, plan>>

Publish ==
    /\ cut < MaxCut
    /\ cut' = cut + 1
    /\ means' = [means EXCEPT ![cut + 1] =
                    [k \in Numbers |-> IF phase[k] = "active" THEN birth[k] ELSE 0]]
    /\ left' = [k \in Numbers |->
                    IF phase[k] = "retiring" /\ left[k] = 0 THEN cut + 1 ELSE left[k]]
    /\ UNCHANGED <<epoch, revision, phase, owner, birth, status, floor, shown, begun, strayed,
                   plan>>

Report(n, c) ==
    /\ c <= shown[n]
    /\ status' = [status EXCEPT ![n] = "heard"]
    /\ floor' = [floor EXCEPT ![n] = c]
    /\ begun' = [begun EXCEPT ![n] = 0]
    /\ UNCHANGED <<epoch, revision, phase, owner, birth, cut, means, left, shown, strayed, plan>>

Begin(n) ==
    /\ status[n] = "heard"
    /\ begun' = [begun EXCEPT ![n] = cut]
    /\ UNCHANGED <<epoch, revision, phase, owner, birth, cut, means, left, status, floor, shown,
                   strayed, plan>>

Flip(n) ==
    /\ begun[n] > shown[n]
    /\ shown' = [shown EXCEPT ![n] = begun[n]]
    /\ strayed' = [strayed EXCEPT ![n] = @ /\ status[n] # "heard"]
    /\ UNCHANGED <<epoch, revision, phase, owner, birth, cut, means, left, status, floor, begun,
                   plan>>

Acked(n) ==
    /\ status[n] = "heard"
    /\ floor' = [floor EXCEPT ![n] = shown[n]]
    /\ UNCHANGED <<epoch, revision, phase, owner, birth, cut, means, left, status, shown, begun,
                   strayed, plan>>

LetGo(n) ==
    /\ status' = [status EXCEPT ![n] = "gone"]
    /\ strayed' = [strayed EXCEPT ![n] = TRUE]
    /\ UNCHANGED <<epoch, revision, phase, owner, birth, cut, means, left, floor, shown, begun,
                   plan>>

Next ==
    \/ \E k \in Numbers, x \in LabelSets : Give(k, x)
    \/ \E k \in Numbers : Retire(k)
    \/ \E k \in Numbers : Revive(k)
    \/ \E k \in Numbers : Plan(k)
    \/ Free
    \/ Lead
    \/ Publish
    \/ \E n \in Nodes, c \in 0..MaxCut : Report(n, c)
    \/ \E n \in Nodes : Begin(n)
    \/ \E n \in Nodes : Flip(n)
    \/ \E n \in Nodes : Acked(n)
    \/ \E n \in Nodes : LetGo(n)

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
\* R1: one label set, one number.
OneOwner ==
    \A k \in Numbers : \A m \in Numbers :
        k # m /\ phase[k] # "free" /\ phase[m] # "free" => owner[k] # owner[m]

\* The cut uses each number, if it does, as the journal has it now.
Agrees(c) == \A k \in Numbers : means[c][k] # 0 => phase[k] # "free" /\ birth[k] = means[c][k]

\* R2: what a node uses is not free, nor anything else.
InUseIsKept == \A n \in Nodes : ~strayed[n] => Agrees(shown[n]) /\ Agrees(begun[n])

\* R2, whatever the node: the next birth is none that any cut or number has.
BirthsAreFresh ==
    /\ \A c \in 0..MaxCut : \A k \in Numbers : means[c][k] <= revision
    /\ \A k \in Numbers : birth[k] <= revision

Safety == OneOwner /\ InUseIsKept /\ BirthsAreFresh

-----------------------------------------------------------------------------
\* No node that counts, and no cut that one may come to, uses the number.
Unused(k) ==
    /\ means[cut][k] = 0
    /\ \A n \in Nodes : ~strayed[n] => means[shown[n]][k] = 0 /\ means[begun[n]][k] = 0
    /\ \A n \in Nodes : status[n] = "heard" => means[begun[n]][k] = 0

\* Each variable is bounded, and what is known of it said at once: TLC works it out in this order.
IndInv ==
    /\ epoch \in 1..MaxEpoch
    /\ revision \in 0..MaxRevision
    /\ phase \in [Numbers -> {"free", "active", "retiring"}]
    /\ owner \in [Numbers -> LabelSets]
    /\ OneOwner
    /\ birth \in [Numbers -> 0..MaxRevision]
    /\ \A k \in Numbers : birth[k] <= revision /\ (birth[k] = 0 <=> phase[k] = "free")
    /\ cut \in 0..MaxCut
    /\ means \in [0..MaxCut -> [Numbers -> 0..MaxRevision]]
    /\ \A c \in 0..MaxCut : \A k \in Numbers :
        /\ means[c][k] <= revision
        /\ c = 0 \/ c > cut => means[c][k] = 0
    /\ Agrees(cut)
    /\ left \in [Numbers -> 0..MaxCut]
    /\ \A k \in Numbers : left[k] <= cut /\ (left[k] # 0 =>
        /\ phase[k] = "retiring"
        /\ \A c \in 0..MaxCut : c >= left[k] => means[c][k] = 0)
    /\ shown \in [Nodes -> 0..MaxCut]
    /\ \A n \in Nodes : shown[n] <= cut
    /\ begun \in [Nodes -> 0..MaxCut]
    /\ \A n \in Nodes : begun[n] <= cut /\ (begun[n] = 0 \/ begun[n] >= shown[n])
    /\ strayed \in [Nodes -> BOOLEAN]
    /\ InUseIsKept
    /\ status \in [Nodes -> {"unheard", "heard", "gone"}]
    /\ \A n \in Nodes :
        /\ status[n] = "gone" => strayed[n]
        /\ status[n] = "heard" => Agrees(begun[n])
    /\ floor \in [Nodes -> 0..MaxCut]
    /\ \A n \in Nodes : status[n] = "heard" => floor[n] <= shown[n]
    /\ plan \in SUBSET [number : Numbers, epoch : 1..MaxEpoch, expected : 0..MaxRevision]
    /\ \A w \in plan : \A v \in plan : w = v
    /\ \A w \in plan :
        /\ w.epoch <= epoch /\ w.expected <= revision
        /\ Takes(w) => phase[w.number] = "retiring" /\ Unused(w.number)
=============================================================================
