-------------------------- MODULE MCNodeRefinement --------------------------
\* NodeMaps keeps the promise of Node: what the maps say at an instant is what the cut in force
\* says, and changes by the flip alone; a packet's many look-ups are one question.
EXTENDS MCNodeMaps

Promise == INSTANCE Node WITH
    AnyCut <- 0..Cuts,
    AnswerOf <- Allowed,
    None <- [at |-> "none", address |-> 0, cut |-> 0, passed |-> FALSE],
    staged <- target,
    says <- [k \in 1..Keys |-> Passes(active, k)],
    question <- [
        at |-> IF packet.at \in {"none", "judged"} THEN packet.at ELSE "asked",
        address |-> packet.address, cut |-> packet.cut, passed |-> packet.passed]

KeepsPromise == Promise!Spec
=============================================================================
