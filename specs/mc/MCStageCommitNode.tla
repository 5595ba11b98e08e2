------------------------- MODULE MCStageCommitNode -------------------------
\* StageCommit asks no more of a node than Node promises: what is in force changes to what is staged
\* alone, as a whole, and staging anything, be it half of a cut, changes no verdict.
EXTENDS MCStageCommitGraph

OneNode == CHOOSE n \in Nodes : TRUE
AnyWhole == {Nothing} \union UNION {Publishable[w] : w \in Worlds}

\* Parts of a cut with parts of another: nothing that may ever be in force.
Mixed == [k \in Keys |-> 99]

AnyCuts == AnyWhole \union {Mixed}

\* Worked out once: to do so in every step takes longer than all the rest.
Verdicts == [c \in AnyCuts |->
    [f \in Flows |-> IF c = Mixed THEN FALSE ELSE Allowed(c, f)]]
NoPacket == [at |-> "none", address |-> "", cut |-> Nothing, passed |-> FALSE]

Promise == INSTANCE Node WITH
    AnyCut <- AnyCuts,
    First <- Nothing,
    AnswerOf <- Verdicts,
    Asked <- Flows,
    None <- NoPacket,
    enforced <- enforced[OneNode],
    staged <- IF held[OneNode] \in AnyWhole THEN held[OneNode] ELSE Mixed,
    says <- IF enforced[OneNode] \in AnyWhole THEN Verdicts[enforced[OneNode]]
            ELSE [f \in Flows |-> Allowed(enforced[OneNode], f)],
    question <- NoPacket

\* Its beginning is left out: which cut is in force then is the scenario's.
AsksNoMore == [][Promise!Next]_Promise!vars
=============================================================================
