---------------------------- MODULE MCNodeMaps ----------------------------
\* Bounds for model checking NodeMaps: cuts in which everything collides. Groups and peers 1, 2 are
\* unknown and world; group 3 is a remote pod's, group 4 the pod's own. Keys: everywhere, the
\* cluster, one address. Peers 3 and 4 are the same number with two births.
EXTENDS NodeMaps, TLC

Cut(pod, owner, remote, policy, allows1, allows2) == [
    pod |-> pod, owner |-> owner, peer |-> <<1, 2, remote, 5>>,
    policy |-> <<0, 0, 0, 0, policy>>, allows |-> <<allows1, allows2>>]

MCMeaning ==
    0 :> Cut(0, <<2, 0, 0>>, 3, 1, {2}, {1}) @@
    1 :> Cut(4, <<2, 0, 0>>, 3, 1, {2}, {1}) @@          \* the address is world's, and may pass
    2 :> Cut(4, <<2, 1, 3>>, 3, 1, {2, 3}, {1}) @@       \* it is a pod's; the cluster is unknown
    3 :> Cut(4, <<2, 0, 3>>, 3, 1, {2}, {1}) @@          \* the same pod left the peer set
    4 :> Cut(4, <<2, 1, 3>>, 4, 2, {2}, {1, 4}) @@       \* its number has a new birth; a policy edit
    5 :> Cut(0, <<2, 0, 3>>, 3, 1, {2}, {1})             \* the pod is gone
=============================================================================
