---------------------------- MODULE MCLeadership ----------------------------
\* Bounds for model checking Leadership.
EXTENDS Leadership
=============================================================================
