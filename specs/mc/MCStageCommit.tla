--------------------------- MODULE MCStageCommit ---------------------------
\* Bounds for model checking StageCommit. Two nodes do not interact: one with more revisions and faults
\* says more than two with fewer.
EXTENDS StageCommit

\* A client pod of group g1 with address a1 (and a2 of g3), and a pod of this node, group g2, address d.
MCKeys == {"peers:s", "peers:t", "rules:r", "rules:q", "rules:closed", "egress:e", "egress:closed",
           "policy:2", "bindings:ns", "address:g1", "address:g3", "address:g2", "endpoint:g2"}

MCTypeOf == [k \in MCKeys |->
    CASE k \in {"peers:s", "peers:t"} -> "peers"
      [] k \in {"rules:r", "rules:q", "rules:closed", "egress:e", "egress:closed"} -> "rules"
      [] k = "endpoint:g2" -> "endpoints"
      [] k = "policy:2" -> "policies"
      [] k = "bindings:ns" -> "bindings"
      [] OTHER -> "addresses"]

Blank == [names |-> {}, numbers |-> {}, bound |-> {}, number |-> 0, birth |-> 0, group |-> ""]
OfNumbers(numbers) == [Blank EXCEPT !.numbers = numbers]
Naming(names) == [Blank EXCEPT !.names = names]
PolicyOf(birth, ingress, egress) ==
    [Blank EXCEPT !.number = 2, !.birth = birth, !.names = {ingress, egress}]
Bindings(bound) == [Blank EXCEPT !.bound = bound]
Bound(group, number, birth) == [group |-> group, number |-> number, birth |-> birth]
Addresses(group, names) == [Blank EXCEPT !.group = group, !.names = names]

MCSays == [k \in MCKeys |->
    CASE k = "peers:s" -> <<OfNumbers({1}), OfNumbers({1, 3}), OfNumbers({3})>>
      [] k = "peers:t" -> <<OfNumbers({3})>>
      [] k = "rules:r" -> <<Naming({"peers:s"})>>
      [] k = "rules:q" -> <<Naming({"peers:t"})>>
      [] k = "rules:closed" -> <<Naming({})>>
      [] k \in {"egress:e", "egress:closed"} -> <<Naming({})>>
      [] k = "policy:2" -> <<
             PolicyOf(1, "rules:r", "egress:e"), PolicyOf(1, "rules:q", "egress:e"),
             PolicyOf(3, "rules:r", "egress:e"),
             PolicyOf(1, "rules:closed", "egress:e"), PolicyOf(3, "rules:closed", "egress:e"),
             PolicyOf(1, "rules:r", "egress:closed"), PolicyOf(1, "rules:q", "egress:closed"),
             PolicyOf(3, "rules:r", "egress:closed"),
             PolicyOf(1, "rules:closed", "egress:closed"), PolicyOf(3, "rules:closed", "egress:closed")>>
      [] k = "bindings:ns" -> <<
             Bindings({Bound("g1", 1, 1), Bound("g2", 2, 1)}),
             Bindings({Bound("g1", 3, 2), Bound("g2", 2, 1)}),
             Bindings({Bound("g1", 3, 2), Bound("g3", 1, 3), Bound("g2", 2, 3)})>>
      [] k = "address:g1" -> <<Addresses("g1", {"a1"}), Addresses("g1", {"a2"})>>
      [] k = "address:g3" -> <<Addresses("g3", {"a1"})>>
      [] k \in {"address:g2", "endpoint:g2"} -> <<Addresses("g2", {"d"})>>]

MCClosedBy == [k \in {r \in MCKeys : MCTypeOf[r] = "rules"} |->
    IF k \in {"egress:e", "egress:closed"} THEN "egress:closed" ELSE "rules:closed"]

Has(s, t, r, q, policy, bindings, g1, g3) ==
    [k \in MCKeys |->
        CASE k = "peers:s" -> s [] k = "peers:t" -> t [] k = "rules:r" -> r [] k = "rules:q" -> q
          [] k \in {"rules:closed", "egress:closed"} -> 0
          [] k \in {"egress:e", "endpoint:g2"} -> 1
          [] k = "policy:2" -> policy [] k = "bindings:ns" -> bindings
          [] k = "address:g1" -> g1 [] k = "address:g3" -> g3 [] k = "address:g2" -> 1]

\* plain:   g1 is number 1, which the rule set r lets in
\* relabel: g1 was relabelled (number 3), and the policy edited with it: q lets 3 in
\* reused:  a1 is another pod's now, of g3, to which number 1 came back, and 2 was born anew; r lets 3 in
MCWorlds == {"plain", "relabel", "reused"}
MCContent == [w \in MCWorlds |->
    CASE w = "plain" -> Has(1, 0, 1, 0, 1, 1, 1, 0)
      [] w = "relabel" -> Has(0, 1, 0, 1, 2, 2, 1, 0)
      [] w = "reused" -> Has(3, 0, 1, 0, 3, 3, 2, 1)]

Flow(src) == [src |-> src, dst |-> "d"]
MCAllows == [w \in MCWorlds |->
    CASE w = "plain" -> {Flow("a1")} [] w = "relabel" -> {Flow("a1")} [] w = "reused" -> {Flow("a2")}]

MCFlows == {Flow("a1"), Flow("a2")}

Moves == {m \in MCWorlds \X MCWorlds : m[1] # m[2]}
Scenario(history, enforces, revisions, count, kinds) ==
    [history |-> history, enforces |-> enforces, moves |-> Moves, revisions |-> revisions,
     faults |-> count, kinds |-> kinds]
EveryFault == {"refuse", "flip", "clean", "undo", "break", "crash", "failover", "reopen"}

\* Changes of every kind, with one fault of any kind; a new node.
MCScenarios == {Scenario(<<"plain">>, 1, 2, 1, EveryFault), Scenario(<<"plain">>, 0, 1, 1, EveryFault)}
MCDeep == {Scenario(<<"plain">>, 1, 3, 2, EveryFault), Scenario(<<"plain">>, 0, 2, 2, EveryFault)}

\* The worlds mean what they are to mean, closed or not.
ASSUME \A w \in MCWorlds, c \in SUBSET Closable : \A f \in Flows :
    Allowed(Served(w, c), f) <=> f \in Oracle(w, c)

\* `fired` says what the last step did, nothing of what may come.
Told == <<publicVars, serverVars, linkVars, agentVars, kernelVars, faults>>

=============================================================================
