------------------------------ MODULE APLeadership ------------------------------
\* Leadership for Apalache: constants by ConstInit.
EXTENDS Leadership

ConstInit ==
    /\ Replicas = {"r1_OF_REPLICA", "r2_OF_REPLICA"}
    /\ MaxEpoch = 3
=================================================================================
