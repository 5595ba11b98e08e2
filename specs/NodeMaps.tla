------------------------------ MODULE NodeMaps ------------------------------
(***************************************************************************)
(* One node's maps, write by write, while packets go through them.          *)
(*                                                                          *)
(* A packet reads the word `active` once and then looks up map after map;   *)
(* between any two of its look-ups the agent may write any entry, flip,      *)
(* die or start again. The agent stages a cut (Stage, then single writes in *)
(* any order), flips, and after a grace period makes the halves equal and   *)
(* removes what is left over (Settle, then single writes in any order); a   *)
(* staging may be taken back (Break, Fail). A new process finds the maps,   *)
(* reads back which index stands for what if it has the cut in its cache    *)
(* (Adopt), or knows nothing of them (Load).                                *)
(*                                                                          *)
(* `now` is what the tables mean the maps to hold when all writes are done  *)
(* (the code's mirror) and which index stands for what; `before` is what a  *)
(* rollback returns to. A write is due where map and mirror differ.         *)
(*                                                                          *)
(* Names are numbers: keys of the address trie (a larger one lies inside    *)
(* every smaller one, key 1 holds everything), groups, peers (a peer is     *)
(* (number, birth): the same number with another birth is another peer),    *)
(* rule sets. The first few groups and peers have fixed indices. What a cut *)
(* means is a constant. Kept out: ports, directions, connections, fragments,*)
(* several endpoints (specs/Endpoint.tla has an interface's life).          *)
(***************************************************************************)
EXTENDS Naturals, FiniteSets

(*
@typeAlias: meaning = { pod: Int, owner: Int -> Int, peer: Int -> Int, policy: Int -> Int,
                        allows: Int -> Set(Int) };
@typeAlias: row = { peer: Int, rule: Int };
@typeAlias: entry = { closed: Bool, group: Int -> Int };
@typeAlias: tables = { addresses: Int -> (Int -> Int), groups: Int -> (Int -> $row),
                       policies: Set(<<Int, Int>>), endpoint: $entry,
                       gi: Int -> Int, pi: Int -> Int, rn: Int -> Int,
                       usedG: Set(Int), usedP: Set(Int), usedR: Set(Int),
                       begun: Bool, sweep: Bool, raw: Bool };
@typeAlias: packet = { at: Str, address: Int, half: Int, cut: Int, own: Int, rule: Int,
                       group: Int, peer: Int, passed: Bool, waited: Bool };
*)
NodeMaps_aliases == TRUE

CONSTANTS
    \* @type: Int;
    Cuts,         \* cuts 0..Cuts; 0 is the empty one, in force on a new node
    \* @type: Int;
    First,        \* the cut in force at the start
    \* @type: Int -> $meaning;
    Meaning,      \* cut -> pod's group, owner of a key, peer of a group, rule set of a peer, and
                  \* the peers that a rule set lets in; 0: none
    \* @type: Int;
    Keys,
    \* @type: Int;
    Groups,
    \* @type: Int;
    Peers,
    \* @type: Int;
    RuleSets,
    \* @type: Int;
    Fixed,        \* groups and peers 1..Fixed have a fixed index; 1 is unknown, 2 is world
    \* @type: Int;
    GroupIndices,
    \* @type: Int;
    PeerIndices,
    \* @type: Int;
    RuleNumbers,
    \* @type: Bool;
    AnyOrder,     \* writes go in any order; else map by map, as the code has them
    \* @type: Int;
    MaxResponses, \* of one cut
    \* @type: Int;
    MaxFaults,    \* crashes, breaks and failed writes
    \* @type: Set(Int);
    Asked         \* keys at whose addresses packets come from; {}: no packets

VARIABLES
    \* @type: Int;
    active,      \* the word: the half in force
    \* @type: Int -> (Int -> Int);
    addresses,   \* key -> half -> group index; Absent
    \* @type: Int -> (Int -> $row);
    groups,      \* group index -> half -> row; all zero: nothing there
    \* @type: Set(<<Int, Int>>);
    policies,    \* (rule set number, identity index) that may pass
    \* @type: $entry;
    endpoint,    \* the pod's interface: closed, half -> group index
    \* @type: Int;
    enforced,    \* the cut in force (its root stands beside the word)
    \* @type: Bool;
    cached,      \* the disk cache has the cut in force (a new node's has none)
    \* @type: Int;
    target,      \* the cut being staged; else `enforced`
    \* @type: Int;
    responses,   \* staged of this cut
    \* @type: Str;
    phase,       \* "settled", "staging", "adopting", "flipped", "undone", "down"
    \* @type: Bool;
    grace,       \* a grace period runs, and writes wait for it
    \* @type: $tables;
    now,
    \* @type: $tables;
    before,
    \* @type: $packet;
    packet,
    \* @type: Int;
    faults       \* so far: bounds the search

maps == <<addresses, groups, policies, endpoint>>
agent == <<target, responses, phase, grace, now, before>>
vars == <<active, maps, enforced, cached, agent, packet, faults>>

Halves == 1..2
idle == 3 - active
Both(x) == [h \in Halves |-> x]
\* @type: Int -> Int;
Absent == Both(Groups + GroupIndices + 1)  \* a value that no entry has
\* @type: $row;
NoRow == [peer |-> 0, rule |-> 0]
Unknown == 1
World == 2

-----------------------------------------------------------------------------
(* What a cut means *)

\* TLC works out a definition without arguments once, and what stands for a constant each time.
Means == Meaning
Last(keys) == CHOOSE k \in keys : \A j \in keys : j <= k
Owner(n, k) == Means[n].owner[k]
\* Tables of what follows from a cut, so that it is worked out once: the owner of what is around a
\* key, groups that are used, their peers, and the rule sets of these.
Arounds == [n \in 0..Cuts |-> [k \in 1..Keys |->
    LET named == {j \in 1..Keys : j <= k /\ Owner(n, j) # 0} IN
    IF named = {} THEN 0 ELSE Owner(n, Last(named))]]
Useds == [n \in 0..Cuts |->
    (1..Fixed \union {Owner(n, k) : k \in 1..Keys} \union {Means[n].pod}) \ {0}]
Around(n, k) == Arounds[n][k]
Used(n) == Useds[n]
PeersOfs == [n \in 0..Cuts |-> {Means[n].peer[g] : g \in Used(n)}]
PeersOf(n) == PeersOfs[n]
RulesOfs == [n \in 0..Cuts |-> {Means[n].policy[p] : p \in PeersOf(n)} \ {0}]
RulesOf(n) == RulesOfs[n]

\* Whether the cut lets a packet from an address of key k reach the pod.
Allowed == [n \in 0..Cuts |-> [k \in 1..Keys |->
    LET m == Means[n]
        r == IF m.pod = 0 THEN 0 ELSE m.policy[m.peer[m.pod]]
    IN r # 0 /\ m.peer[Around(n, k)] \in m.allows[IF r = 0 THEN 1 ELSE r]]]
Allows(n, k) == Allowed[n][k]

ASSUME \A n \in 0..Cuts : Owner(n, 1) # 0  \* everywhere is always known: world
ASSUME \A n, m \in 0..Cuts, r \in 1..RuleSets :  \* rule sets are immutable, membership is not
    Means[n].allows[r] \intersect 1..Fixed = Means[m].allows[r] \intersect 1..Fixed
ASSUME \A n \in 0..Cuts, g \in 1..Fixed : Means[n].peer[g] = g /\ Means[n].policy[g] = 0

-----------------------------------------------------------------------------
(* What the maps say at this instant *)

Found(h, k) ==
    LET there == {j \in 1..Keys : j <= k /\ addresses[j] # Absent} IN
    IF there = {} THEN 0 ELSE addresses[Last(there)][h]
Row(h, i) == IF i = 0 THEN NoRow ELSE groups[i][h]
Identity(h, i) == IF i = 0 \/ Row(h, i).peer = 0 THEN Unknown ELSE Row(h, i).peer

Passes(h, k) ==
    /\ ~endpoint.closed
    /\ LET own == Row(h, endpoint.group[h]) IN
        /\ own.rule # 0
        /\ <<own.rule, Identity(h, Found(h, k))>> \in policies

-----------------------------------------------------------------------------
(* The tables *)

\* The lowest free indices, in the order of what is new.
Nth(free, new, x) ==
    CHOOSE i \in free : Cardinality({f \in free : f < i}) = Cardinality({y \in new : y < x})

FixedIndex(limit) == [x \in 1..limit |-> IF x <= Fixed THEN x ELSE 0]

Empty == [
    addresses |-> [k \in 1..Keys |-> Absent],
    groups |-> [i \in 1..GroupIndices |-> Both(NoRow)],
    policies |-> {},
    endpoint |-> [closed |-> TRUE, group |-> Both(0)],
    gi |-> FixedIndex(Groups), pi |-> FixedIndex(Peers), rn |-> [r \in 1..RuleSets |-> 0],
    usedG |-> 1..Fixed, usedP |-> 1..Fixed, usedR |-> {},
    begun |-> FALSE, sweep |-> FALSE, raw |-> FALSE]

\* Entries of maps taken over that no packet of the half in force can meet.
Leftover(t) == {e \in t.policies :
    \/ \A i \in 1..GroupIndices : t.groups[i][active].rule # e[1]
    \/ (e[2] > Fixed /\ \A i \in 1..GroupIndices : t.groups[i][active].peer # e[2])}

\* What covers an absent key in the half in force: a packet may meet the key at once.
Covers(t, k) ==
    LET there == {j \in 1..Keys : j < k /\ t.addresses[j] # Absent} IN
    IF there = {} THEN 0 ELSE t.addresses[Last(there)][active]

\* The map has room for the groups that are new; else the cut is refused, and nothing changes.
Fits(t, n) ==
    Cardinality({g \in Used(n) : t.gi[g] = 0}) <= Cardinality(1..GroupIndices \ t.usedG)

\* The tables `t`, which began from `b`, after resources that make the next cut n.
Staged(t, b, n) ==
    LET m == Means[n]
        clean == IF t.begun THEN t.policies ELSE t.policies \ Leftover(t)
        newG == {g \in Used(n) : t.gi[g] = 0}
        newR == {r \in RulesOf(n) : t.rn[r] = 0 /\ b.rn[r] = 0}
        gi == [g \in 1..Groups |->
            IF g \in newG THEN Nth(1..GroupIndices \ t.usedG, newG, g) ELSE t.gi[g]]
        rn == [r \in 1..RuleSets |->
            CASE r \notin RulesOf(n) -> 0
              [] r \in newR -> Nth(1..RuleNumbers \ t.usedR, newR, r)
              [] OTHER -> IF t.rn[r] # 0 THEN t.rn[r] ELSE b.rn[r]]
        \* What a rule set in force says of a peer in force must not change where it stands.
        seen(r, p) == rn[r] = b.rn[r] /\ t.pi[p] = b.pi[p]
        wrong(r, p) == (<<rn[r], t.pi[p]>> \in clean) # (p \in m.allows[r])
        newP == {p \in PeersOf(n) : t.pi[p] = 0}
        moved == {p \in PeersOf(n) \ newP :
            p > Fixed /\ \E r \in RulesOf(n) : seen(r, p) /\ wrong(r, p)}
        freeP == 1..PeerIndices \ t.usedP
        usedP == t.usedP \union {Nth(freeP, newP, p) : p \in newP}
        pi == [p \in 1..Peers |->
            CASE p \in newP -> Nth(freeP, newP, p)
              [] p \in moved -> Nth(1..PeerIndices \ usedP, moved, p)
              [] OTHER -> t.pi[p]]
        row(g) == [
            peer |-> pi[m.peer[g]],
            rule |-> IF m.policy[m.peer[g]] = 0 THEN 0 ELSE rn[m.policy[m.peer[g]]]]
        half(x, y) == [h \in Halves |-> IF h = active THEN x ELSE y]
        pod == IF m.pod = 0 THEN 0 ELSE gi[m.pod]
        raw == t.raw
    IN [
        addresses |-> [k \in 1..Keys |->
            CASE m.owner[k] # 0 -> half(
                    IF t.addresses[k] = Absent THEN Covers(t, k) ELSE t.addresses[k][active],
                    gi[m.owner[k]])
              [] t.addresses[k] # Absent -> half(t.addresses[k][active], gi[Around(n, k)])
              [] OTHER -> Absent],
        groups |-> [i \in 1..GroupIndices |->
            LET here == {g \in Used(n) : gi[g] = i} IN
            IF here = {} THEN t.groups[i]
            ELSE half(t.groups[i][active], row(CHOOSE g \in here : TRUE))],
        policies |-> (clean \ {<<rn[r], pi[p]>> : r \in RulesOf(n), p \in PeersOf(n)})
            \union UNION {{<<rn[r], pi[p]>> : p \in m.allows[r] \intersect PeersOf(n)} :
                          r \in RulesOf(n)},
        endpoint |-> [
            closed |-> ~raw /\ t.endpoint.group[active] = 0 /\ pod = 0,
            group |-> half(t.endpoint.group[active], pod)],
        gi |-> gi, pi |-> pi, rn |-> rn,
        usedG |-> t.usedG \union {gi[g] : g \in newG},
        usedP |-> usedP \union {pi[p] : p \in moved},
        usedR |-> t.usedR \union {rn[r] : r \in newR},
        begun |-> TRUE, sweep |-> t.sweep, raw |-> raw]

\* Both halves as the cut in force has them, and nothing that it does not need.
Equal(t, n) ==
    LET gi == [g \in 1..Groups |-> IF g \in Used(n) THEN t.gi[g] ELSE 0]
        pi == [p \in 1..Peers |->
            IF p <= Fixed \/ p \in PeersOf(n) THEN t.pi[p] ELSE 0]
        rn == [r \in 1..RuleSets |-> IF r \in RulesOf(n) THEN t.rn[r] ELSE 0]
        usedG == {gi[g] : g \in 1..Groups} \ {0}
        usedP == {pi[p] : p \in 1..Peers} \ {0}
        usedR == {rn[r] : r \in 1..RuleSets} \ {0}
    IN [
        addresses |-> [k \in 1..Keys |->
            IF Owner(n, k) = 0 THEN Absent ELSE Both(t.addresses[k][active])],
        groups |-> [i \in 1..GroupIndices |->
            IF i \in usedG THEN Both(t.groups[i][active]) ELSE Both(NoRow)],
        policies |-> {e \in t.policies : e[1] \in usedR /\ e[2] \in usedP},
        endpoint |-> [
            closed |-> t.endpoint.group[active] = 0,
            group |-> Both(t.endpoint.group[active])],
        gi |-> gi, pi |-> pi, rn |-> rn, usedG |-> usedG, usedP |-> usedP, usedR |-> usedR,
        begun |-> TRUE, sweep |-> FALSE, raw |-> FALSE]

\* What a rollback returns to: the interface's halves are made equal, the rest is as before.
Undone == [before EXCEPT
    !.endpoint = [
        closed |-> ~before.raw /\ before.endpoint.group[active] = 0,
        group |-> Both(before.endpoint.group[active])]]

\* Maps that another process filled, of which nothing is understood. No index that occurs is free.
Loaded ==
    LET rows == {groups[i][h] : i \in 1..GroupIndices, h \in Halves}
        raw == ~endpoint.closed
    IN [
        addresses |-> addresses, groups |-> groups, policies |-> policies,
        endpoint |-> endpoint,
        gi |-> FixedIndex(Groups), pi |-> FixedIndex(Peers), rn |-> [r \in 1..RuleSets |-> 0],
        usedG |-> (1..Fixed \union {endpoint.group[h] : h \in Halves}
            \union {i \in 1..GroupIndices : groups[i] # Both(NoRow)}
            \union {addresses[k][h] : k \in {j \in 1..Keys : addresses[j] # Absent}, h \in Halves})
            \ {0},
        usedP |-> (1..Fixed \union {row.peer : row \in rows} \union {e[2] : e \in policies}) \ {0},
        usedR |-> ({row.rule : row \in rows} \union {e[1] : e \in policies}) \ {0},
        begun |-> FALSE, sweep |-> TRUE, raw |-> raw]

\* The same, with what the half in force says about the cut in the cache, which is the one in force.
Recognised ==
    LET n == enforced
        gi == [g \in 1..Groups |->
            LET at == {k \in 1..Keys : Owner(n, k) = g} IN
            CASE g <= Fixed -> g
              [] g > Fixed /\ at # {} -> addresses[CHOOSE k \in at : TRUE][active]
              [] g > Fixed /\ at = {} /\ g = Means[n].pod -> endpoint.group[active]
              [] OTHER -> 0]
        of(p) == {g \in Used(n) : Means[n].peer[g] = p}
        under(r) == {g \in Used(n) : Means[n].policy[Means[n].peer[g]] = r}
    IN [Loaded EXCEPT
        !.gi = gi,
        !.pi = [p \in 1..Peers |->
            IF p <= Fixed THEN p
            ELSE IF of(p) = {} THEN 0 ELSE groups[gi[CHOOSE g \in of(p) : TRUE]][active].peer],
        !.rn = [r \in 1..RuleSets |->
            IF under(r) = {} THEN 0 ELSE groups[gi[CHOOSE g \in under(r) : TRUE]][active].rule]]

-----------------------------------------------------------------------------
(* The agent *)

Due ==
    \/ addresses # now.addresses
    \/ groups # now.groups
    \/ policies # now.policies
    \/ endpoint # now.endpoint
Ready == ~grace /\ ~Due

\* A grace period begins: it ends when the packets that are on their way now have been judged.
BeginGrace ==
    /\ grace' = TRUE
    /\ packet' = [packet EXCEPT !.waited = packet.at # "none"]

\* A response of the next cut. Writes are carried out in the order of responses, and what a response
\* asks for does not depend on how far they are; so it is enough to look at one after the other.
Stage(n) ==
    /\ phase \in {"staging", "settled", "undone"}
    /\ Ready
    /\ n # target \/ ~now.begun
    /\ Fits(now, n)
    /\ responses < MaxResponses
    /\ responses' = responses + 1
    /\ phase' = "staging"
    /\ target' = n
    /\ now' = Staged(now, before, n)
    /\ IF now.sweep /\ ~now.begun THEN BeginGrace ELSE UNCHANGED <<grace, packet>>
    /\ UNCHANGED <<active, maps, enforced, cached, before, faults>>

Grace ==
    /\ grace
    /\ ~packet.waited
    /\ grace' = FALSE
    /\ UNCHANGED <<active, maps, enforced, cached, target, responses, phase, now, before, packet, faults>>

\* The maps are written one after the other, the entries of one in any order.
Writing(map) ==
    /\ ~grace
    /\ phase # "down"
    /\ \/ AnyOrder
       \/ /\ map # "policies" => policies = now.policies
          /\ map \in {"addresses", "endpoint"} => groups = now.groups
          /\ map = "endpoint" => addresses = now.addresses

WriteAddress(k) ==
    /\ Writing("addresses")
    /\ addresses[k] # now.addresses[k]
    /\ addresses' = [addresses EXCEPT ![k] = now.addresses[k]]
    /\ UNCHANGED <<active, groups, policies, endpoint, enforced, cached, agent, packet, faults>>

WriteGroup(i) ==
    /\ Writing("groups")
    /\ groups[i] # now.groups[i]
    /\ groups' = [groups EXCEPT ![i] = now.groups[i]]
    /\ UNCHANGED <<active, addresses, policies, endpoint, enforced, cached, agent, packet, faults>>

WritePolicy(r, p) ==
    /\ Writing("policies")
    /\ (<<r, p>> \in policies) # (<<r, p>> \in now.policies)
    /\ policies' = IF <<r, p>> \in policies THEN policies \ {<<r, p>>}
                   ELSE policies \union {<<r, p>>}
    /\ UNCHANGED <<active, addresses, groups, endpoint, enforced, cached, agent, packet, faults>>

WriteEndpoint ==
    /\ Writing("endpoint")
    /\ endpoint # now.endpoint
    /\ endpoint' = now.endpoint
    /\ UNCHANGED <<active, addresses, groups, policies, enforced, cached, agent, packet, faults>>

\* The commit: everything of the next cut is written. Without a staging only the revision is new.
Flip ==
    /\ phase \in {"staging", "adopting", "settled", "undone"}
    /\ now.begun
    /\ Ready
    /\ active' = idle
    /\ enforced' = target
    /\ cached' = TRUE
    /\ phase' = "flipped"
    /\ responses' = 0
    /\ UNCHANGED <<maps, target, grace, now, before, packet, faults>>

\* The agent hears that the flip is done, and cleans up after a grace.
Settle ==
    /\ phase = "flipped"
    /\ phase' = "settled"
    /\ now' = Equal(now, enforced)
    /\ before' = Equal(now, enforced)
    /\ BeginGrace
    /\ UNCHANGED <<active, maps, enforced, cached, target, responses, faults>>

Fault ==
    /\ faults < MaxFaults
    /\ faults' = faults + 1

RollBack ==
    /\ phase' = "undone"
    /\ target' = enforced
    /\ responses' = 0
    /\ now' = Undone
    /\ before' = Undone
    /\ grace' = FALSE
    /\ packet' = [packet EXCEPT !.waited = FALSE]
    /\ UNCHANGED <<active, maps, enforced, cached>>

\* The stream is gone, or the commit names another root.
Break ==
    /\ Fault
    /\ phase = "staging"
    /\ RollBack

\* A write fails: a staging is taken back, anything else is tried again, grace included.
Fail ==
    /\ Fault
    /\ ~grace
    /\ Due
    /\ \/ /\ phase \in {"staging", "adopting"}
          /\ RollBack
       \/ /\ phase = "settled"
          /\ BeginGrace
          /\ UNCHANGED <<active, maps, enforced, cached, target, responses, phase, now, before>>
       \/ /\ phase = "undone"
          /\ UNCHANGED <<active, maps, enforced, cached, agent, packet>>

Crash ==
    /\ Fault
    /\ phase # "down"
    /\ phase' = "down"
    /\ target' = enforced
    /\ responses' = 0
    /\ now' = Empty
    /\ before' = Empty
    /\ grace' = FALSE
    /\ packet' = [packet EXCEPT !.waited = FALSE]
    /\ UNCHANGED <<active, maps, enforced, cached>>

\* A new process has the cut in force in its cache, and stages it like any other, before it asks a
\* server for anything.
Adopt ==
    /\ phase = "down"
    /\ cached
    /\ phase' = "adopting"
    /\ before' = Recognised
    /\ now' = Staged(Recognised, Recognised, enforced)
    /\ BeginGrace
    /\ responses' = 1
    /\ UNCHANGED <<active, maps, enforced, cached, target, faults>>

\* A new process knows nothing of the maps: they stay in force until the first cut is flipped to.
Load ==
    /\ phase = "down"
    /\ phase' = "settled"
    /\ before' = Loaded
    /\ now' = Loaded
    /\ UNCHANGED <<active, maps, enforced, cached, target, responses, grace, packet, faults>>

-----------------------------------------------------------------------------
(* A packet. It writes nothing, so one stands for all. *)

\* @type: $packet;
NoPacket == [at |-> "none", address |-> 0, half |-> 0, cut |-> 0, own |-> 0, rule |-> 0,
             group |-> 0, peer |-> 0, passed |-> FALSE, waited |-> FALSE]

Going(where) ==
    /\ packet.at = where
    /\ UNCHANGED <<active, maps, enforced, cached, agent, faults>>

\* The word is read, once. `cut` is a note for the invariants: what was in force then.
Arrive(k) ==
    /\ Going("none")
    /\ packet' = [NoPacket EXCEPT
        !.at = "endpoint", !.address = k, !.half = active, !.cut = enforced]

Judge(passed) == packet' = [packet EXCEPT
    !.at = "judged", !.passed = passed, !.own = 0, !.rule = 0, !.group = 0, !.peer = 0]

ReadEndpoint ==
    /\ Going("endpoint")
    /\ IF endpoint.closed THEN Judge(FALSE)
       ELSE packet' = [packet EXCEPT !.at = "own", !.own = endpoint.group[packet.half]]

ReadOwn ==
    /\ Going("own")
    /\ LET rule == Row(packet.half, packet.own).rule IN
        IF rule = 0 THEN Judge(FALSE)
        ELSE packet' = [packet EXCEPT !.at = "address", !.rule = rule, !.own = 0]

ReadAddress ==
    /\ Going("address")
    /\ packet' = [packet EXCEPT !.at = "peer", !.group = Found(packet.half, packet.address)]

ReadPeer ==
    /\ Going("peer")
    /\ packet' = [packet EXCEPT
        !.at = "policy", !.peer = Identity(packet.half, packet.group), !.group = 0]

ReadPolicy ==
    /\ Going("policy")
    /\ Judge(<<packet.rule, packet.peer>> \in policies)

Leave ==
    /\ Going("judged")
    /\ packet' = NoPacket

-----------------------------------------------------------------------------
\* Maps that hold a cut and nothing else; or, for 0, those of a new node, which are empty.
Begun(n) ==
    LET t == Staged(Empty, Empty, n)
        second(f) == Both(f[2])
    IN IF n = 0 THEN Empty ELSE [t EXCEPT
        !.addresses = [k \in 1..Keys |-> IF @[k] = Absent THEN @[k] ELSE second(@[k])],
        !.groups = [i \in 1..GroupIndices |-> second(@[i])],
        !.endpoint = [closed |-> @.closed, group |-> second(@.group)]]

Init ==
    /\ active = 1
    /\ enforced = First
    /\ cached = (First # 0)
    /\ target = First
    /\ responses = 0
    /\ phase = "settled"
    /\ grace = FALSE
    /\ now = Begun(First)
    /\ before = Begun(First)
    /\ addresses = now.addresses
    /\ groups = now.groups
    /\ policies = now.policies
    /\ endpoint = now.endpoint
    /\ packet = NoPacket
    /\ faults = 0

Next ==
    \/ \E n \in 0..Cuts : Stage(n)
    \/ Grace
    \/ \E k \in 1..Keys : WriteAddress(k)
    \/ \E i \in 1..GroupIndices : WriteGroup(i)
    \/ \E r \in 1..RuleNumbers, p \in 1..PeerIndices : WritePolicy(r, p)
    \/ WriteEndpoint
    \/ Flip
    \/ Settle
    \/ Break
    \/ Fail
    \/ Crash
    \/ Adopt
    \/ Load
    \/ \E k \in Asked : Arrive(k)
    \/ ReadEndpoint
    \/ ReadOwn
    \/ ReadAddress
    \/ ReadPeer
    \/ ReadPolicy
    \/ Leave

Spec == Init /\ [][Next]_vars

\* Writes are carried out, graces and packets end, a process that died is started again, and a cut
\* that is staged is committed.
Write ==
    \/ \E k \in 1..Keys : WriteAddress(k)
    \/ \E i \in 1..GroupIndices : WriteGroup(i)
    \/ \E r \in 1..RuleNumbers, p \in 1..PeerIndices : WritePolicy(r, p)
    \/ WriteEndpoint
Look == ReadEndpoint \/ ReadOwn \/ ReadAddress \/ ReadPeer \/ ReadPolicy \/ Leave
FairSpec ==
    /\ Spec
    /\ WF_vars(Write)
    /\ WF_vars(Grace)
    /\ WF_vars(Settle)
    /\ WF_vars(Adopt \/ Load)
    /\ WF_vars(Look)
    /\ WF_vars(phase \in {"staging", "adopting"} /\ Flip)

-----------------------------------------------------------------------------
(* Safety *)

\* R3: at every instant the maps answer as the cut in force does. So nothing staged is visible
\* before the flip, everything is at it, and cleaning up and taking back are invisible.
AsInForce == \A k \in 1..Keys : Passes(active, k) = Allows(enforced, k)

\* R3: a packet gets the verdict of the one cut that was in force when it read the word.
OneCut == packet.at = "judged" => packet.passed = Allows(packet.cut, packet.address)

\* R4: what is allowed by the cuts in force all its way long is never dropped.
NeverDropped ==
    packet.at = "judged" /\ Allows(packet.cut, packet.address)
        /\ Allows(enforced, packet.address) => packet.passed

\* R2: what a packet has read still means what it meant: no entry that it can meet is of an earlier
\* (or later) meaning of its index.
OneMeaning ==
    LET m == Means[packet.cut]
        peer == m.peer[Around(packet.cut, packet.address)]
        rule == m.policy[m.peer[m.pod]]
    IN /\ packet.at = "own" /\ packet.own # 0 =>
            (Row(packet.half, packet.own).rule # 0) = (m.pod # 0 /\ rule # 0)
       /\ packet.at = "policy" =>
            (<<packet.rule, packet.peer>> \in policies) = (peer \in m.allows[rule])

\* A packet has to be let through by what names the pod: else its interface is closed.
ClosedUnlessNamed ==
    Means[enforced].pod = 0 => endpoint.closed \/ Row(active, endpoint.group[active]).rule = 0

\* When all is done, nothing is left of anything but the cut in force.
NothingLeft ==
    phase = "settled" /\ Ready /\ now.begun =>
        /\ \A k \in 1..Keys : (addresses[k] # Absent) = (Owner(enforced, k) # 0)
        /\ \A k \in 1..Keys : addresses[k] # Absent => addresses[k][1] = addresses[k][2]
        /\ \A i \in 1..GroupIndices :
            /\ groups[i][1] = groups[i][2]
            /\ groups[i] # Both(NoRow) => i \in {now.gi[g] : g \in Used(enforced)}
        /\ endpoint.group[1] = endpoint.group[2]
        /\ endpoint.closed = (Means[enforced].pod = 0)
        /\ Cardinality(policies) = Cardinality(
            {e \in RulesOf(enforced) \X PeersOf(enforced) : e[2] \in Means[enforced].allows[e[1]]})

\* Indices stand for one thing each.
IndicesApart ==
    LET apart(f) == Cardinality({f[x] : x \in DOMAIN f} \ {0}) =
                    Cardinality({x \in DOMAIN f : f[x] # 0})
    IN apart(now.gi) /\ apart(now.pi) /\ apart(now.rn)

\* Only the flip changes any answer of the maps.
OnlyTheFlip == [][
    (\E k \in 1..Keys : Passes(active, k)' # Passes(active, k))
        => active' # active /\ enforced' = target
    ]_vars

-----------------------------------------------------------------------------
(* Liveness *)

\* R7, here: a cut that is staged comes into force, unless it is taken back or the agent dies.
Commits == phase \in {"staging", "adopting"} ~> phase \in {"flipped", "undone", "down"}

\* Cleaning up, and taking back, end; so the next cut can be staged.
Cleans == phase \in {"flipped", "undone", "down"} ~> (phase \in {"settled", "undone"} /\ Ready)
=============================================================================
