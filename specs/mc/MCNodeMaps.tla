---------------------------- MODULE MCNodeMaps ----------------------------
\* Bounds for model checking NodeMaps: cuts in which everything collides. Groups and peers 1, 2 are
\* unknown and world; group 3 is the pod's, group 4 a remote pod's. Keys: everywhere, the cluster,
\* one address. Peers 4 and 5 are the same number with two births.
EXTENDS NodeMaps, TLC

Cut(pod, owner, peer4, policy, allows1, allows2) == [
    pod |-> pod, owner |-> owner, peer |-> <<1, 2, 3, peer4>>,
    policy |-> <<0, 0, policy, 0, 0>>, allows |-> <<allows1, allows2>>]

MCMeaning ==
    0 :> Cut(0, <<2, 0, 0>>, 4, 1, {2}, {}) @@
    1 :> Cut(3, <<2, 0, 0>>, 4, 1, {2}, {}) @@           \* the address is world's, and may pass
    2 :> Cut(3, <<2, 1, 4>>, 4, 1, {2, 4}, {}) @@        \* it is a pod's; the cluster is unknown
    3 :> Cut(3, <<2, 0, 4>>, 4, 1, {2}, {}) @@           \* the same pod left the peer set
    4 :> Cut(3, <<2, 1, 4>>, 5, 2, {2}, {5}) @@          \* its number has a new birth; a policy edit
    5 :> Cut(0, <<2, 1, 0>>, 4, 1, {2}, {})              \* the pod is gone
=============================================================================
