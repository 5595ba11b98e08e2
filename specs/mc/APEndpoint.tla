------------------------------ MODULE APEndpoint ------------------------------
\* Endpoint for Apalache: constants by ConstInit.
EXTENDS Endpoint

ConstInit == Links = {"l1_OF_LINK", "l2_OF_LINK"}
===============================================================================
