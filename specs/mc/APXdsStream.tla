----------------------------- MODULE APXdsStream ------------------------------
\* XdsStream for Apalache: constants by ConstInit.
EXTENDS XdsStream

\* Typed, since <<...>> may be a tuple as well.
\* @type: Seq(NAME);
Order == <<"a_OF_NAME", "b_OF_NAME">>

ConstInit ==
    /\ Servers = {"s1_OF_SERVER", "s2_OF_SERVER"}
    /\ NameOrder = Order
    /\ Star = "Star_OF_NAME"
    /\ Versions = 2
    /\ MaxRevision = 3
    /\ MaxFaults = 1
    /\ MaxStreams = 2
    /\ MaxAsks = 1
    /\ Edited = {"a_OF_NAME", "Star_OF_NAME"}
    /\ Begins = {[wild |-> FALSE, names |-> {"a_OF_NAME"}]}
===============================================================================
