---------------------------- MODULE MCEndpoint ----------------------------
\* Bounds for model checking Endpoint. Interfaces meet only in the cuts that name them.
EXTENDS Endpoint
=============================================================================
