--------------------------- MODULE AllocationObjects ---------------------------
(***************************************************************************)
(* The journal's entries as objects that others can read: written in the    *)
(* background, one object a number, with preconditions; found objects are   *)
(* adopted once. Where the two disagree the journal wins.                   *)
(*                                                                          *)
(* A write of the journal is one step here (Allocation says why that may    *)
(* be so). A write of an object is decided on what was read, and arrives    *)
(* later or never: also when another server leads by then.                  *)
(*                                                                          *)
(* Of an entry that was adopted the labels are in the object alone, so no   *)
(* late write may take it. Who is about to delete an object that a next     *)
(* server may adopt disowns it first, and deletes only what it has seen     *)
(* disowned, or marked, while it leads: either the next server, which reads *)
(* the objects when it leads already, sees that too and does not adopt, or  *)
(* the object is another version than the one that was to be disowned.      *)
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
    MaxUid,       \* of objects that somebody else makes
    \* @type: Int;
    MaxTakeovers,
    \* @type: Int;
    MaxPending

(*
  @typeAlias: entry = {number: Int, birth: Int, owner: Str, phase: Str, kept: Str};
  @typeAlias: object = {number: Int, birth: Int, owner: Str, uid: Int};
  @typeAlias: call = {kind: Str, number: Int, birth: Int, owner: Str, uid: Int, was: Int, by: Int};
  @typeAlias: pair = {number: Int, birth: Int, owner: Str};
*)
AllocationObjectsAliases == TRUE

VARIABLES
    \* @type: Set($entry);
    entries,    \* of the journal
    \* @type: Int;
    revision,
    \* @type: Set($object);
    objects,    \* birth 0: made by somebody else, and not marked yet; Disowned: and not wanted
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
Disowned == -1      \* in place of a birth: no server adopts it

(* Where the labels of an entry are written: "journal", in full; "found", in an object that was
   adopted, whatever birth that has; "object", in the one that has the entry's birth. *)

\* @type: ($entry) => $pair;
Pair(e) == [number |-> e.number, birth |-> e.birth, owner |-> e.owner]

\* @type: ($object) => $pair;
Says(o) == [number |-> o.number, birth |-> o.birth, owner |-> o.owner]

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
                    phase |-> IF o \in oldest THEN "active" ELSE "retiring",
                    kept |-> IF o \in oldest THEN "found" ELSE "journal"] : o \in found}
       IN /\ found # {} => revision < MaxRevision
          /\ revision' = IF found = {} THEN revision ELSE revision + 1
          /\ entries' = entries \cup new
          /\ given' = given \cup {Pair(e) : e \in new}
    /\ UNCHANGED <<objects, uids, pending, takeovers>>

Give(k, x) ==
    /\ adopted /\ revision < MaxRevision
    /\ ~Held(k) /\ ~Owns(x)
    /\ revision' = revision + 1
    /\ LET e == [number |-> k, birth |-> revision + 1, owner |-> x, phase |-> "active",
                 kept |-> "journal"] IN
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

\* A number that is nobody's comes back whatever the bounds of the search are.
Free(k) ==
    /\ adopted
    /\ \E e \in entries :
        /\ e.number = k /\ e.phase = "retiring" /\ (e.owner = Nobody \/ revision < MaxRevision)
        /\ entries' = entries \ {e}
    /\ revision' = revision + 1
    /\ UNCHANGED <<objects, uids, pending, adopted, given, takeovers>>

\* The object is there, so the journal does not write the labels out any more.
Note(k) ==
    /\ adopted
    /\ \E e \in entries :
        /\ e.number = k /\ e.kept = "journal" /\ \E o \in objects : Says(o) = Pair(e)
        /\ entries' = (entries \ {e}) \cup {[e EXCEPT !.kept = "object"]}
    /\ UNCHANGED <<revision, objects, uids, pending, adopted, given, takeovers>>

\* All that were adopted are marked.
Close ==
    /\ adopted
    /\ LET found == {e \in entries : e.kept = "found"} IN
        /\ found # {} /\ \A e \in found : \E o \in objects : Says(o) = Pair(e)
        /\ entries' = (entries \ found) \cup {[e EXCEPT !.kept = "object"] : e \in found}
    /\ UNCHANGED <<revision, objects, uids, pending, adopted, given, takeovers>>

-----------------------------------------------------------------------------
(* Objects, in the background *)

\* @type: (Str, Int, Int, Str, Int, Int) => Bool;
Ask(kind, k, birth, owner, uid, was) ==
    /\ adopted
    /\ Cardinality(pending) < MaxPending
    /\ pending' = pending \cup
        {[kind |-> kind, number |-> k, birth |-> birth, owner |-> owner, uid |-> uid, was |-> was,
          by |-> takeovers]}
    /\ UNCHANGED <<entries, revision, objects, uids, adopted, given, takeovers>>

AskCreate(k) ==
    /\ \A o \in objects : o.number # k
    /\ \E e \in entries :
        e.number = k /\ e.phase = "active" /\ Ask("create", k, e.birth, e.owner, 0, 0)

\* The journal has the label set under this number, and the object can be taken for it.
\* @type: ($entry, $object) => Bool;
Means(e, o) ==
    /\ e.number = o.number /\ e.owner = o.owner
    /\ o.birth \in {0, Disowned, e.birth} \/ e.kept = "found"

AskMark(k) ==
    \E e \in entries, o \in objects :
        /\ o.number = k /\ Means(e, o) /\ o.birth # e.birth
        /\ Ask("mark", k, e.birth, e.owner, o.uid, o.birth)

\* Nobody has marked it, and nobody wants it.
AskDisown(k) ==
    \E o \in objects :
        /\ o.number = k /\ o.birth = 0 /\ \A e \in entries : ~Means(e, o)
        /\ Ask("disown", k, Disowned, o.owner, o.uid, 0)

\* Only when the journal has it no more: while it is retiring it may yet be revived. Never what the
\* next server may adopt.
AskDelete(k) ==
    \E o \in objects :
        /\ o.number = k /\ o.birth # 0
        /\ \A e \in entries : ~Means(e, o) /\ (e.number = k => e.owner # Nobody)
        /\ Ask("delete", k, o.birth, o.owner, o.uid, o.birth)

\* A name is taken once; a change or a deletion is of the very object that was read, as it was read
\* (its UID and resourceVersion).
Arrive(w) ==
    /\ pending' = pending \ {w}
    /\ LET same == {o \in objects : o.number = w.number}
           read == {o \in same : o.uid = w.uid /\ o.birth = w.was}
           made == [number |-> w.number, birth |-> w.birth, owner |-> w.owner, uid |-> uids + 1]
       IN CASE w.kind = "create" /\ same = {} ->
                  objects' = objects \cup {made} /\ uids' = uids + 1
            [] w.kind \in {"mark", "disown"} /\ read # {} ->
                  /\ objects' = (objects \ read) \cup {[o EXCEPT !.birth = w.birth] : o \in read}
                  /\ uids' = uids
            [] w.kind = "delete" /\ read # {} -> objects' = objects \ read /\ uids' = uids
            [] OTHER -> UNCHANGED <<objects, uids>>
    /\ UNCHANGED <<entries, revision, adopted, given, takeovers>>

\* Somebody else makes an object, whatever the journal has.
Make(k, x) ==
    /\ uids < MaxUid
    /\ \A o \in objects : o.number # k
    /\ objects' = objects \cup {[number |-> k, birth |-> 0, owner |-> x, uid |-> uids + 1]}
    /\ uids' = uids + 1
    /\ UNCHANGED <<entries, revision, pending, adopted, given, takeovers>>

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
    \/ \E k \in Numbers : Note(k)
    \/ Close
    \/ \E k \in Numbers : AskCreate(k)
    \/ \E k \in Numbers : AskMark(k)
    \/ \E k \in Numbers : AskDisown(k)
    \/ \E k \in Numbers : AskDelete(k)
    \/ \E w \in pending : Arrive(w)
    \/ \E k \in Numbers, x \in LabelSets : Make(k, x)
    \/ Takeover

Spec == Init /\ [][Next]_vars
FairSpec ==
    /\ Spec /\ WF_vars(Adopt) /\ WF_vars(\E w \in pending : Arrive(w))
    /\ \A k \in Numbers :
        /\ WF_vars(AskCreate(k)) /\ WF_vars(AskMark(k)) /\ WF_vars(AskDisown(k))
        /\ WF_vars(AskDelete(k))
        /\ WF_vars(Free(k) /\ \E e \in entries : e.number = k /\ e.owner = Nobody)

-----------------------------------------------------------------------------
\* R1, with found objects too.
OneOwner ==
    \A e \in entries : \A f \in entries :
        e.number = f.number \/ (e.owner = f.owner /\ e.owner # Nobody) => e = f

\* One object a number, and it says what the journal once gave (or what somebody else made).
SaysWhatWasGiven ==
    /\ \A o \in objects : \A p \in objects : o.number = p.number => o = p
    /\ \A o \in objects : o.birth > 0 => Says(o) \in given

\* What a number means is written: in the journal or in its object, whatever write arrives late.
Written ==
    \A e \in entries :
        /\ e.kept = "found" => \E o \in objects : e.number = o.number /\ e.owner = o.owner
        /\ e.kept = "object" => \E o \in objects : Says(o) = Pair(e)

\* Retirement is journaled first: no identity that is active loses its object, whoever's write it is.
NoneIsLost ==
    [][\A o \in objects : (\A p \in objects' : p.uid # o.uid) =>
        \A e \in entries : e.phase = "active" => Pair(e) # Says(o)]_objects

\* Of several objects with the same labels the oldest is the one that counts, and keeps its number.
OldestWins ==
    [][\A e \in entries' \ entries : e.phase = "active" =>
        \A o \in objects : \A p \in objects :
            (~adopted /\ o.number = e.number /\ p.owner = e.owner /\ o.birth = 0 /\ p.birth = 0
             /\ ~Held(p.number)) => o.uid <= p.uid]_entries

\* In the end the objects are the identities that are active, and no others.
Mirrors ==
    <>[](LET wanted == {Pair(e) : e \in {e \in entries : e.phase = "active"}}
             there == {Says(o) : o \in objects}
         IN wanted \subseteq there /\ there \subseteq {Pair(e) : e \in entries})
=============================================================================
