------------------------------ MODULE Endpoint ------------------------------
(***************************************************************************)
(* Interfaces of pods in one life of an agent's process, from what an       *)
(* earlier one left of them: closed until a cut with the pod is in force.   *)
(*                                                                          *)
(* What a cut says of an interface is here only whether it names the pod    *)
(* behind it. NodeMaps has the maps that a packet reads.                    *)
(*                                                                          *)
(* An index may come back while what was behind it is being removed. What   *)
(* is there then is another interface, and begins when the old one is gone. *)
(***************************************************************************)
EXTENDS FiniteSets

CONSTANTS
    \* @type: Set(LINK);
    Links

VARIABLES
    \* @type: LINK -> Str;
    life,       \* models/endpoint.toml
    \* @type: LINK -> Bool;
    link,       \* an interface with this index exists
    \* @type: LINK -> Bool;
    attaching,  \* asked for, not answered
    \* @type: LINK -> Str;
    entry,      \* in the map: "none", "closed", "open"
    \* @type: Set(LINK);
    inForce,    \* those that the half in force names, as the agent has it
    \* @type: Set(LINK);
    idle,       \* those that the other half names
    \* @type: Set(LINK);
    raw,        \* those in force that an entry that was found names, and no cut of this process
    \* @type: Set(LINK);
    rawIdle,    \* such in the other half
    \* @type: Str;
    phase,      \* "found", "settled", "staging", "flipping"
    \* @type: Set({machine: Str, on: Str, from: Str, to: Str});
    fired

vars == <<life, link, attaching, entry, inForce, idle, raw, rawIdle, phase, fired>>

HasEntry(state) == state \in {"attached-closed", "waiting-policy", "enforcing"}

Fires(on, from, to) == {[machine |-> "endpoint", on |-> on, from |-> from, to |-> to]}

-----------------------------------------------------------------------------
(* What an interface hears about the halves: where it goes, and by which rows *)

Heard(state, named, staged) ==
    CASE ~HasEntry(state) -> state
      [] named -> "enforcing"
      [] staged -> "waiting-policy"
      [] OTHER -> "attached-closed"

Hears(state, named, staged) ==
    LET opens == Fires("named", "attached-closed", "waiting-policy")
        commits == Fires("committed", "waiting-policy", "enforcing")
    IN CASE ~HasEntry(state) -> {}
         [] named /\ state = "enforcing" -> Fires("committed", "enforcing", "enforcing")
         [] named /\ state = "waiting-policy" -> commits
         [] named /\ state = "attached-closed" -> opens \union commits
         [] ~named /\ state = "enforcing" ->
                Fires("committed_without", "enforcing", "attached-closed")
                    \union (IF staged THEN opens ELSE {})
         [] ~named /\ state = "attached-closed" /\ staged -> opens
         [] ~named /\ state = "waiting-policy" /\ ~staged ->
                Fires("discarded", "waiting-policy", "attached-closed")
         [] OTHER -> {}

\* All interfaces hear that these are named in force and these staged.
Hear(from, named, staged) ==
    /\ life' = [l \in Links |-> Heard(from[l], l \in named, l \in staged)]
    /\ fired' = UNION {Hears(from[l], l \in named, l \in staged) : l \in Links}

Staged == IF phase = "staging" THEN idle ELSE {}

\* What an entry that was found said of its interface goes with it.
Forget(l) ==
    /\ inForce' = inForce \ (raw \intersect {l})
    /\ idle' = idle \ (rawIdle \intersect {l})
    /\ raw' = raw \ {l}
    /\ rawIdle' = rawIdle \ {l}

-----------------------------------------------------------------------------
(* Interfaces *)

AttachDue(l) ==
    /\ phase # "found"
    /\ life[l] = "discovered"
    /\ ~attaching[l]
    /\ attaching' = [attaching EXCEPT ![l] = TRUE]
    /\ fired' = Fires("attach_due", "discovered", "discovered")
    /\ UNCHANGED <<life, link, entry, inForce, idle, raw, rawIdle, phase>>

Attached(l) ==
    /\ phase # "found"
    /\ life[l] = "discovered"
    /\ attaching[l]
    /\ attaching' = [attaching EXCEPT ![l] = FALSE]
    /\ life' = [life EXCEPT ![l] = Heard("attached-closed", l \in inForce, l \in Staged)]
    /\ fired' = Fires("attached", "discovered", "attached-closed")
        \union Hears("attached-closed", l \in inForce, l \in Staged)
    /\ UNCHANGED <<link, entry, inForce, idle, raw, rawIdle, phase>>

AttachFailed(l) ==
    /\ phase # "found"
    /\ life[l] = "discovered"
    /\ attaching[l]
    /\ attaching' = [attaching EXCEPT ![l] = FALSE]
    /\ fired' = Fires("attach_failed", "discovered", "discovered")
    /\ UNCHANGED <<life, link, entry, inForce, idle, raw, rawIdle, phase>>

Unlink(l) ==
    /\ phase # "found"
    /\ link[l]
    /\ link' = [link EXCEPT ![l] = FALSE]
    /\ attaching' = [attaching EXCEPT ![l] = FALSE]
    /\ LET to == IF life[l] = "discovered" THEN "gone" ELSE "detaching" IN
        /\ life' = [life EXCEPT ![l] = to]
        /\ fired' = IF life[l] = "detaching" THEN {} ELSE Fires("link_gone", life[l], to)
    /\ Forget(l)
    /\ UNCHANGED <<entry, phase>>

\* The index is back before the removal is answered.
Return(l) ==
    /\ phase # "found"
    /\ life[l] = "detaching"
    /\ ~link[l]
    /\ link' = [link EXCEPT ![l] = TRUE]
    /\ fired' = {}
    /\ UNCHANGED <<life, attaching, entry, inForce, idle, raw, rawIdle, phase>>

\* The entry follows the state and the halves.
Wanted(l) ==
    CASE ~HasEntry(life[l]) -> "none"
      [] l \in inForce \union idle -> "open"
      [] OTHER -> "closed"

Write(l) ==
    /\ phase # "found"
    /\ life[l] # "detaching"
    /\ entry[l] # Wanted(l)
    /\ entry' = [entry EXCEPT ![l] = Wanted(l)]
    /\ fired' = {}
    /\ UNCHANGED <<life, link, attaching, inForce, idle, raw, rawIdle, phase>>

Removed(l) ==
    /\ phase # "found"
    /\ life[l] = "detaching"
    /\ life' = [life EXCEPT ![l] = IF link[l] THEN "discovered" ELSE "gone"]
    /\ entry' = [entry EXCEPT ![l] = "none"]
    /\ fired' = Fires("removed", "detaching", "gone")
        \union (IF link[l] THEN Fires("", "", "discovered") ELSE {})
    /\ UNCHANGED <<link, attaching, inForce, idle, raw, rawIdle, phase>>

RemoveFailed(l) ==
    /\ phase # "found"
    /\ life[l] = "detaching"
    /\ fired' = Fires("remove_failed", "detaching", "detaching")
    /\ UNCHANGED <<life, link, attaching, entry, inForce, idle, raw, rawIdle, phase>>

-----------------------------------------------------------------------------
(* Cuts *)

Stage(named) ==
    /\ phase \in {"settled", "staging"}
    /\ phase' = "staging"
    /\ idle' = named
    /\ rawIdle' = {}
    /\ Hear(life, inForce, named)
    /\ UNCHANGED <<link, attaching, entry, inForce, raw>>

\* The kernel is asked to flip; the agent counts with it.
Flip ==
    /\ phase \in {"settled", "staging"}
    /\ \A l \in Links : HasEntry(life[l]) => entry[l] = Wanted(l)
    /\ phase' = "flipping"
    /\ inForce' = idle
    /\ idle' = inForce
    /\ raw' = rawIdle
    /\ rawIdle' = raw
    /\ Hear(life, idle, {})
    /\ UNCHANGED <<link, attaching, entry>>

\* It did. What the old cut alone named goes after a grace.
Flipped ==
    /\ phase = "flipping"
    /\ phase' = "settled"
    /\ idle' = inForce
    /\ rawIdle' = raw
    /\ fired' = {}
    /\ UNCHANGED <<life, link, attaching, entry, inForce, raw>>

\* It did not: the staging is staged again, and then taken back.
FlipFailed ==
    /\ phase = "flipping"
    /\ phase' = "settled"
    /\ inForce' = idle
    /\ raw' = rawIdle
    /\ LET again == [l \in Links |-> Heard(life[l], l \in idle, l \in inForce)] IN
        /\ life' = [l \in Links |-> Heard(again[l], l \in idle, FALSE)]
        /\ fired' = UNION {Hears(life[l], l \in idle, l \in inForce)
            \union Hears(again[l], l \in idle, FALSE) : l \in Links}
    /\ UNCHANGED <<link, attaching, entry, idle, rawIdle>>

\* The staging is taken back.
Break ==
    /\ phase = "staging"
    /\ phase' = "settled"
    /\ idle' = inForce
    /\ rawIdle' = raw
    /\ Hear(life, inForce, {})
    /\ UNCHANGED <<link, attaching, entry, inForce, raw>>

-----------------------------------------------------------------------------
\* What was found: an entry is taken over as it is.
Adopt(l) ==
    /\ phase = "found"
    /\ life[l] = "discovered"
    /\ entry[l] # "none"
    /\ LET to == IF entry[l] = "open" THEN "enforcing" ELSE "attached-closed"
           on == IF entry[l] = "open" THEN "adopted" ELSE "adopted_closed" IN
        /\ link[l]
        /\ life' = [life EXCEPT ![l] = to]
        /\ fired' = Fires(on, "discovered", to)
    /\ UNCHANGED <<link, attaching, entry, inForce, idle, raw, rawIdle, phase>>

\* An interface that went meanwhile goes. So does one without programs: who knows what it is.
AdoptBare(l) ==
    /\ phase = "found"
    /\ life[l] = "discovered"
    /\ entry[l] # "none"
    /\ life' = [life EXCEPT ![l] = "detaching"]
    /\ fired' = Fires("adopted_closed", "discovered", "attached-closed")
        \union Fires("link_gone", "attached-closed", "detaching")
    /\ Forget(l)
    /\ UNCHANGED <<link, attaching, entry, phase>>

\* Everything found is taken over; the rest begins.
Begin ==
    /\ phase = "found"
    /\ \A l \in Links : entry[l] # "none" => life[l] # "discovered"
    /\ phase' = "settled"
    /\ fired' = {}
    /\ UNCHANGED <<life, link, attaching, entry, inForce, idle, raw, rawIdle>>

Init ==
    /\ life = [l \in Links |-> "discovered"]
    /\ attaching = [l \in Links |-> FALSE]
    /\ entry \in [Links -> {"none", "closed", "open"}]
    /\ link \in [Links -> BOOLEAN]
    /\ \A l \in Links : entry[l] = "none" => link[l]
    /\ inForce = {l \in Links : entry[l] = "open"}
    /\ idle = inForce
    /\ raw = inForce
    /\ rawIdle = inForce
    /\ phase = "found"
    /\ fired = {}

Next ==
    \/ \E l \in Links : Adopt(l)
    \/ \E l \in Links : AdoptBare(l)
    \/ Begin
    \/ \E l \in Links : AttachDue(l)
    \/ \E l \in Links : Attached(l)
    \/ \E l \in Links : AttachFailed(l)
    \/ \E l \in Links : Unlink(l)
    \/ \E l \in Links : Return(l)
    \/ \E l \in Links : Write(l)
    \/ \E l \in Links : Removed(l)
    \/ \E l \in Links : RemoveFailed(l)
    \/ \E named \in SUBSET Links : Stage(named)
    \/ Flip
    \/ Flipped
    \/ FlipFailed
    \/ Break

Spec == Init /\ [][Next]_vars
FairSpec ==
    /\ Spec
    /\ WF_vars(Begin \/ \E l \in Links : Adopt(l) \/ AdoptBare(l))
    /\ \A l \in Links : SF_vars(Removed(l))

-----------------------------------------------------------------------------
Lives == {"discovered", "attached-closed", "waiting-policy", "enforcing", "detaching", "gone"}
TypeOK ==
    /\ life \in [Links -> Lives]
    /\ entry \in [Links -> {"none", "closed", "open"}]
    /\ phase \in {"found", "settled", "staging", "flipping"}

\* Open means that a cut in force or staged names the pod; and by the flip alone it comes in force.
OpenIsNamed == \A l \in Links :
    link[l] /\ entry[l] = "open" /\ entry[l] = Wanted(l) => l \in inForce \union idle

\* An entry that was found says nothing of what came after its interface.
FoundIsItsOwn == phase # "found" => \A l \in raw \union rawIdle : HasEntry(life[l])

\* The state says what the cut in force says; while the kernel is asked, what it will say.
StateIsCut == phase # "found" => \A l \in Links :
    /\ life[l] = "enforcing" => l \in inForce
    /\ HasEntry(life[l]) /\ l \in inForce => life[l] = "enforcing"
    /\ life[l] = "waiting-policy" => phase = "staging" /\ l \in idle

\* Nothing is left of an interface that is gone, and nothing is there that nobody attaches.
GoneIsGone == \A l \in Links : life[l] = "gone" => entry[l] = "none" /\ ~link[l]

\* An interface that goes comes to its end, however often the removal fails, if not for ever.
Ends == \A l \in Links : life[l] = "detaching" ~> life[l] # "detaching"
=============================================================================
