--------------------------- MODULE MCAllocationCore ---------------------------
\* Bounds for AllocationCore: from Init, and from every state of the inductive invariant.
EXTENDS AllocationCore, TLC
Symmetry == Permutations(LabelSets) \cup Permutations(Nodes)
\* TLC lists all subsets of a set; of a plan there is at most one.
Plans == {{}} \cup {{w} : w \in [number : Numbers, epoch : 1..MaxEpoch, expected : 0..MaxRevision]}
=============================================================================
