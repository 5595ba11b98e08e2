--------------------------- MODULE AllocationObjects ---------------------------
(***************************************************************************)
(* The journal's entries as objects that others can read: written in the    *)
(* background, one object a number, with preconditions; found objects are   *)
(* adopted once. Where the two disagree the journal wins.                   *)
(*                                                                          *)
(* A write of the journal is one step here (Allocation says why that may    *)
(* be so). A write of an object is decided on what was read, and arrives    *)
(* later or never: also when another server leads by then.                  *)
(***************************************************************************)
EXTENDS Integers, FiniteSets

CONSTANTS
    \* @type: Set(Str);
    LabelSets,
    \* @type: Set(Int);
    Numbers,
    \* @type: Int;
    MaxRevision,  \* of the journal
    \* @type: Int;
    MaxUid,       \* objects that there ever are
    \* @type: Int;
    MaxTakeovers,
    \* @type: Int;
    MaxPending

(*
  @typeAlias: entry = {number: Int, birth: Int, owner: Str, phase: Str};
  @typeAlias: object = {number: Int, birth: Int, owner: Str, uid: Int};
  @typeAlias: call = {kind: Str, number: Int, birth: Int, owner: Str, uid: Int, by: Int};
  @typeAlias: pair = {number: Int, birth: Int, owner: Str};
*)
AllocationObjectsAliases == TRUE

VARIABLES
    \* @type: Set($entry);
    entries,    \* of the journal
    \* @type: Int;
    revision,
    \* @type: Set($object);
    objects,    \* birth 0: made by somebody else, and not marked yet
    \* @type: Int;
    uids,       \* given so far: older objects have smaller ones
    \* @type: Set($call);
    pending,    \* writes of objects under way
    \* @type: Bool;
    adopted,    \* the server that leads has been through the objects that it found
    \* @type: Set($pair);
    given,      \* all that the journal ever gave
    \* @type: Int;
    takeovers

vars == <<entries, revision, objects, uids, pending, adopted, given, takeovers>>

Nobody == "nobody"  \* whose numbers those of surplus objects are

\* @type: ($entry) => $pair;
Pair(e) == [number |-> e.number, birth |-> e.birth, owner |-> e.owner]

\* Objects of before: any labels under any number, in any order of age.
Init ==
    /\ entries = {} /\ revision = 0 /\ pending = {} /\ adopted = FALSE /\ given = {} /\ takeovers = 0
    /\ \E labels \in [Numbers -> LabelSets \cup {Nobody}],
          age \in [Numbers -> {a \in 1..MaxUid : a <= Cardinality(Numbers)}] :
        /\ \A k \in Numbers : \A m \in Numbers : k # m => age[k] # age[m]
        /\ objects = {[number |-> k, birth |-> 0, owner |-> labels[k], uid |-> age[k]] :
                      k \in {k \in Numbers : labels[k] # Nobody}}
    /\ uids = Cardinality(Numbers)

Held(k) == \E e \in entries : e.number = k
Owns(x) == \E e \in entries : e.owner = x

\* Once, when a server begins to lead, in one write: of the objects with the same labels the oldest
\* gives the label set its number; the numbers of the others are nobody's, and on their way out.
Adopt ==
    /\ ~adopted
    /\ adopted' = TRUE
    /\ LET found == {o \in objects : o.birth = 0 /\ ~Held(o.number)}
           oldest == {o \in found : ~Owns(o.owner) /\ \A p \in found :
                        p.owner = o.owner => o.uid <= p.uid}
           new == {[number |-> o.number, birth |-> revision + 1,
                    owner |-> IF o \in oldest THEN o.owner ELSE Nobody,
                    phase |-> IF o \in oldest THEN "active" ELSE "retiring"] : o \in found}
       IN /\ found # {} => revision < MaxRevision
          /\ revision' = IF found = {} THEN revision ELSE revision + 1
          /\ entries' = entries \cup new
          /\ given' = given \cup {Pair(e) : e \in new}
    /\ UNCHANGED <<objects, uids, pending, takeovers>>

Give(k, x) ==
    /\ adopted /\ revision < MaxRevision
    /\ ~Held(k) /\ ~Owns(x)
    /\ revision' = revision + 1
    /\ LET e == [number |-> k, birth |-> revision + 1, owner |-> x, phase |-> "active"] IN
        /\ entries' = entries \cup {e}
        /\ given' = given \cup {Pair(e)}
    /\ UNCHANGED <<objects, uids, pending, adopted, takeovers>>

\* @type: (Int, Str, Str) => Bool;
Turn(k, from, to) ==
    /\ adopted /\ revision < MaxRevision
    /\ \E e \in entries :
        /\ e.number = k /\ e.phase = from /\ e.owner # Nobody
        /\ entries' = (entries \ {e}) \cup {[e EXCEPT !.phase = to]}
    /\ revision' = revision + 1
    /\ UNCHANGED <<objects, uids, pending, adopted, given, takeovers>>

Retire(k) == Turn(k, "active", "retiring")
Revive(k) == Turn(k, "retiring", "active")

Free(k) ==
    /\ adopted /\ revision < MaxRevision
    /\ \E e \in entries : e.number = k /\ e.phase = "retiring" /\ entries' = entries \ {e}
    /\ revision' = revision + 1
    /\ UNCHANGED <<objects, uids, pending, adopted, given, takeovers>>

-----------------------------------------------------------------------------
(* Objects, in the background *)

\* The journal has what the object says (one without a birth: the labels).
\* @type: ($object) => Bool;
Stands(o) == \E e \in entries : e.number = o.number /\ e.owner = o.owner /\ o.birth \in {0, e.birth}

\* @type: (Str, Int, Int, Str, Int) => Bool;
Ask(kind, k, birth, owner, uid) ==
    /\ adopted
    /\ Cardinality(pending) < MaxPending
    /\ pending' = pending \cup
        {[kind |-> kind, number |-> k, birth |-> birth, owner |-> owner, uid |-> uid,
          by |-> takeovers]}
    /\ UNCHANGED <<entries, revision, objects, uids, adopted, given, takeovers>>

AskCreate(k) ==
    /\ \A o \in objects : o.number # k
    /\ \E e \in entries : e.number = k /\ e.phase = "active" /\ Ask("create", k, e.birth, e.owner, 0)

AskMark(k) ==
    \E e \in entries, o \in objects :
        /\ e.number = k /\ o.number = k /\ e.owner = o.owner /\ o.birth = 0
        /\ Ask("mark", k, e.birth, e.owner, o.uid)

\* Only when the journal has it no more: while it is retiring it may yet be revived.
AskDelete(k) ==
    \E o \in objects : o.number = k /\ ~Stands(o) /\ Ask("delete", k, o.birth, o.owner, o.uid)

\* Its resourceVersion: nobody has marked it meanwhile.
\* @type: ($object, $call) => Bool;
Unchanged(o, w) == o.birth = (IF w.kind = "mark" THEN 0 ELSE w.birth)

\* A name is taken once; a change or a deletion is of the very object that was read, as it was read.
Arrive(w) ==
    /\ pending' = pending \ {w}
    /\ LET same == {o \in objects : o.number = w.number}
           read == {o \in same : o.uid = w.uid /\ Unchanged(o, w)}
           made == [number |-> w.number, birth |-> w.birth, owner |-> w.owner, uid |-> uids + 1]
       IN CASE w.kind = "create" /\ same = {} /\ uids < MaxUid ->
                  objects' = objects \cup {made} /\ uids' = uids + 1
            [] w.kind = "mark" /\ read # {} ->
                  /\ objects' = (objects \ read) \cup {[o EXCEPT !.birth = w.birth] : o \in read}
                  /\ uids' = uids
            [] w.kind = "delete" /\ read # {} -> objects' = objects \ read /\ uids' = uids
            [] OTHER -> UNCHANGED <<objects, uids>>
    /\ UNCHANGED <<entries, revision, adopted, given, takeovers>>

\* Another server leads; what was under way may still arrive.
Takeover ==
    /\ takeovers < MaxTakeovers
    /\ takeovers' = takeovers + 1
    /\ adopted' = FALSE
    /\ UNCHANGED <<entries, revision, objects, uids, pending, given>>

Next ==
    \/ Adopt
    \/ \E k \in Numbers, x \in LabelSets : Give(k, x)
    \/ \E k \in Numbers : Retire(k)
    \/ \E k \in Numbers : Revive(k)
    \/ \E k \in Numbers : Free(k)
    \/ \E k \in Numbers : AskCreate(k)
    \/ \E k \in Numbers : AskMark(k)
    \/ \E k \in Numbers : AskDelete(k)
    \/ \E w \in pending : Arrive(w)
    \/ Takeover

Spec == Init /\ [][Next]_vars
FairSpec ==
    /\ Spec /\ WF_vars(Adopt) /\ WF_vars(\E w \in pending : Arrive(w))
    /\ \A k \in Numbers :
        /\ WF_vars(AskCreate(k)) /\ WF_vars(AskMark(k)) /\ WF_vars(AskDelete(k))
        /\ WF_vars(Free(k) /\ \E e \in entries : e.number = k /\ e.owner = Nobody)

-----------------------------------------------------------------------------
\* R1, with found objects too.
OneOwner ==
    \A e \in entries : \A f \in entries :
        e.number = f.number \/ (e.owner = f.owner /\ e.owner # Nobody) => e = f

\* One object a number, and it says what the journal once gave (or what somebody else made).
SaysWhatWasGiven ==
    /\ \A o \in objects : \A p \in objects : o.number = p.number => o = p
    /\ \A o \in objects : o.birth # 0 => Pair(o) \in given

\* Retirement is journaled first: no identity that is active loses its object, whoever's write it is.
NoneIsLost ==
    [][\A o \in objects : (\A p \in objects' : p.uid # o.uid) =>
        \A e \in entries : e.phase = "active" => Pair(e) # Pair(o)]_objects

\* Of several objects with the same labels the oldest is the one that counts, and keeps its number.
OldestWins ==
    [][\A e \in entries' \ entries : e.phase = "active" =>
        \A o \in objects : \A p \in objects :
            (~adopted /\ o.number = e.number /\ p.owner = e.owner /\ o.birth = 0 /\ p.birth = 0
             /\ ~Held(p.number)) => o.uid <= p.uid]_entries

\* In the end the objects are the identities that are active, and no others.
Mirrors ==
    <>[](LET wanted == {Pair(e) : e \in {e \in entries : e.phase = "active"}}
             there == {Pair(o) : o \in objects}
         IN /\ wanted \subseteq there \/ uids = MaxUid
            /\ \A o \in objects : Stands(o))
=============================================================================
