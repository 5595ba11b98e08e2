-------------------------- MODULE MCAllocationObjects --------------------------
\* Bounds for AllocationObjects.
EXTENDS AllocationObjects
=============================================================================
