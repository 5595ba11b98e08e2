------------------------ MODULE MCStageCommitGraph ------------------------
\* A small instance whose every state and step is replayed on the code (reconciler/testing/replay/
\* stage_commit.py builds the same resources): two worlds that differ in a policy and in addresses.
EXTENDS StageCommit

\* Pods of this node: d (group g2), and two that only keep both rule sets in use. What begins with
\* "egress:" names no peers: it is about where these pods may go.
MCKeys == {"peers:s", "peers:t", "rules:r", "rules:q", "rules:closed", "egress:e", "egress:o", "egress:closed",
           "policy:2", "policy:4", "policy:5", "bindings:shop", "address:g1", "address:g2", "address:g3",
           "endpoint:g2", "endpoint:g4", "endpoint:g5"}

Policies == {"policy:2", "policy:4", "policy:5"}
Ingress == {"rules:r", "rules:q", "rules:closed"}
Egress == {"egress:e", "egress:o", "egress:closed"}
MCTypeOf == [k \in MCKeys |->
    CASE k \in {"peers:s", "peers:t"} -> "peers"
      [] k \in Ingress \union Egress -> "rules"
      [] k \in Policies -> "policies"
      [] k = "bindings:shop" -> "bindings"
      [] k \in {"address:g1", "address:g2", "address:g3"} -> "addresses"
      [] OTHER -> "endpoints"]

Blank == [names |-> {}, numbers |-> {}, bound |-> {}, number |-> 0, birth |-> 0, group |-> ""]
OfNumbers(numbers) == [Blank EXCEPT !.numbers = numbers]
Naming(names) == [Blank EXCEPT !.names = names]
PolicyOf(number, birth, ingress, egress) ==
    [Blank EXCEPT !.number = number, !.birth = birth, !.names = {ingress, egress}]
Closable1(number, birth, ingress, egress) ==
    <<PolicyOf(number, birth, ingress, egress), PolicyOf(number, birth, "rules:closed", egress),
      PolicyOf(number, birth, ingress, "egress:closed"), PolicyOf(number, birth, "rules:closed", "egress:closed")>>
Bound(group, number, birth) == [group |-> group, number |-> number, birth |-> birth]
Addresses(group, names) == [Blank EXCEPT !.group = group, !.names = names]

MCSays == [k \in MCKeys |->
    CASE k = "peers:s" -> <<OfNumbers({1})>>
      [] k = "peers:t" -> <<OfNumbers({3})>>
      [] k = "rules:r" -> <<Naming({"peers:s"})>>
      [] k = "rules:q" -> <<Naming({"peers:t"})>>
      [] k \in Egress \union {"rules:closed"} -> <<Naming({})>>
      [] k = "policy:2" -> Append(Closable1(2, 7, "rules:r", "egress:e"), PolicyOf(2, 7, "rules:q", "egress:e"))
             \o <<PolicyOf(2, 7, "rules:q", "egress:closed")>>
      [] k = "policy:4" -> Closable1(4, 1, "rules:r", "egress:o")
      [] k = "policy:5" -> Closable1(5, 1, "rules:q", "egress:o")
      [] k = "bindings:shop" -> <<[Blank EXCEPT !.bound =
             {Bound("g1", 1, 1), Bound("g2", 2, 7), Bound("g3", 3, 4), Bound("g4", 4, 1), Bound("g5", 5, 1)}]>>
      [] k = "address:g1" -> <<Addresses("g1", {"a1"}), Addresses("g1", {"a2"})>>
      [] k = "address:g3" -> <<Addresses("g3", {"a1"})>>
      [] k = "address:g2" -> <<Addresses("g2", {"d"})>>
      [] k = "endpoint:g2" -> <<Addresses("g2", {"d"})>>
      [] k = "endpoint:g4" -> <<Addresses("g4", {"d4"})>>
      [] k = "endpoint:g5" -> <<Addresses("g5", {"d5"})>>]

MCClosedBy == [r \in Ingress \union Egress |-> IF r \in Ingress THEN "rules:closed" ELSE "egress:closed"]

\* plain:  a1 is a pod's of g1, which r lets in
\* edited: a1 is another pod's, of g3, and the policy was edited with it: q lets g3 in
\* before: as edited, but for the policy
\* moved:  as edited, and g1 has a pod again, a2, which q does not let in
MCWorlds == {"plain", "before", "edited", "moved"}
MCContent == [w \in MCWorlds |-> [k \in MCKeys |->
    CASE k \in {"rules:closed", "egress:closed"} -> 0
      [] k = "policy:2" -> IF w \in {"plain", "before"} THEN 1 ELSE 5
      [] k = "address:g1" -> IF w = "plain" THEN 1 ELSE IF w = "moved" THEN 2 ELSE 0
      [] k = "address:g3" -> IF w = "plain" THEN 0 ELSE 1
      [] OTHER -> 1]]

Flow(src) == [src |-> src, dst |-> "d"]
MCAllows == [w \in MCWorlds |-> IF w = "before" THEN {} ELSE {Flow("a1")}]
MCFlows == {Flow("a1"), Flow("a2")}

Scenario(history, enforces, moves, revisions, count, kinds) ==
    [history |-> history, enforces |-> enforces, moves |-> moves, revisions |-> revisions,
     faults |-> count, kinds |-> kinds]

\* Bound to what each is to show: refusals in a row, with what was pipelined behind the first; refusals
\* with whatever else can fail; streams that break; changes while a rule set is closed; a node without
\* its cache and a server that is behind it.
Twice == Scenario(<<"plain", "edited">>, 1, {}, 2, 2, {"refuse"})
Failing == Scenario(<<"before", "edited">>, 1, {}, 2, 2, {"refuse", "flip", "undo"})
Breaking == Scenario(<<"before", "edited">>, 1, {}, 2, 2, {"refuse", "clean", "break", "reopen"})
WhileClosed == Scenario(<<"before", "edited">>, 1, {<<"edited", "before">>, <<"edited", "moved">>}, 3, 1, {"refuse"})
Behind == Scenario(<<"plain", "edited", "moved">>, 3, {}, 3, 2, {"break", "crash", "failover"})

MCAll == {Twice, Failing, Breaking, WhileClosed, Behind}

Everything == {"refuse", "flip", "undo", "clean", "break", "crash", "failover", "reopen"}
MCLive == {Behind, Scenario(<<"plain", "edited">>, 1, {<<"edited", "moved">>}, 3, 1, Everything)}
MCLiveDeep == {Behind, Scenario(<<"plain", "edited">>, 1, {<<"edited", "before">>, <<"edited", "moved">>}, 3, 1,
                    Everything)}

ASSUME \A w \in MCWorlds, c \in SUBSET Closable : \A f \in Flows :
    Allowed(Served(w, c), f) <=> f \in Oracle(w, c)

\* `fired` says what the last step did, nothing of what may come.
Told == <<publicVars, serverVars, linkVars, agentVars, kernelVars, faults>>
=============================================================================
