----------------------------- MODULE APStageCommit -----------------------------
\* StageCommit for Apalache: constants by ConstInit. A pod of group g1 with address a1, and one of this
\* node, of g2; g1 is relabelled, and the peer set of the policy with it. Tables are functions.
EXTENDS StageCommit

RuleKeys == {"rules:r", "rules:closed", "egress:e", "egress:closed"}
AllKeys == RuleKeys \union
    {"peers:s", "policy:2", "bindings:ns", "address:g1", "address:g2", "endpoint:g2"}

\* @type: $meaning;
Blank == [names |-> {}, numbers |-> {}, bound |-> {}, number |-> 0, birth |-> 0, group |-> ""]

\* @type: (Str, Int, Int) => $bound;
Bound(group, number, birth) == [group |-> group, number |-> number, birth |-> birth]

\* @type: (Str, Str) => $meaning;
Policy(ingress, egress) == [Blank EXCEPT !.number = 2, !.birth = 1, !.names = {ingress, egress}]

\* @type: Str => (Int -> $meaning);
Versions(k) ==
    IF k = "policy:2" THEN [v \in 1..4 |->
        Policy(IF v \in {1, 3} THEN "rules:r" ELSE "rules:closed",
               IF v \in {1, 2} THEN "egress:e" ELSE "egress:closed")]
    ELSE IF k = "peers:s" THEN
        [v \in 1..2 |-> [Blank EXCEPT !.numbers = IF v = 1 THEN {1} ELSE {3}]]
    ELSE IF k = "bindings:ns" THEN
        [v \in 1..2 |-> [Blank EXCEPT !.bound =
            {IF v = 1 THEN Bound("g1", 1, 1) ELSE Bound("g1", 3, 2), Bound("g2", 2, 1)}]]
    ELSE [v \in 1..1 |->
        IF k = "rules:r" THEN [Blank EXCEPT !.names = {"peers:s"}]
        ELSE IF k = "address:g1" THEN [Blank EXCEPT !.group = "g1", !.names = {"a1"}]
        ELSE IF k \in RuleKeys THEN Blank
        ELSE [Blank EXCEPT !.group = "g2", !.names = {"d"}]]

\* @type: Seq(Str);
Begun == <<"plain">>

ConstInit ==
    /\ Nodes = {"n1_OF_NODE"}
    /\ Keys = AllKeys
    /\ TypeOf = [k \in AllKeys |->
        IF k \in RuleKeys THEN "rules" ELSE IF k = "peers:s" THEN "peers"
        ELSE IF k = "policy:2" THEN "policies" ELSE IF k = "bindings:ns" THEN "bindings"
        ELSE IF k = "endpoint:g2" THEN "endpoints" ELSE "addresses"]
    /\ Says = [k \in AllKeys |-> Versions(k)]
    /\ ClosedBy = [r \in RuleKeys |->
        IF r \in {"egress:e", "egress:closed"} THEN "egress:closed" ELSE "rules:closed"]
    /\ Worlds = {"plain", "relabel"}
    /\ Content = [w \in {"plain", "relabel"} |-> [k \in AllKeys |->
        IF k \in {"rules:closed", "egress:closed"} THEN 0
        ELSE IF w = "plain" THEN 1
        ELSE IF k \in {"peers:s", "bindings:ns"} THEN 2 ELSE 1]]
    /\ Flows = {[src |-> "a1", dst |-> "d"]}
    /\ Allows = [w \in {"plain", "relabel"} |-> {[src |-> "a1", dst |-> "d"]}]
    /\ MaxRevision = 2
    /\ Scenarios = {[history |-> Begun, enforces |-> 1, moves |-> {<<"plain", "relabel">>},
                     revisions |-> 2, faults |-> 1, kinds |-> {"refuse", "break", "crash"}]}
===============================================================================
