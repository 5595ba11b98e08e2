"""The state of the cluster, kept up to date from changes to objects."""

from reconciler.core.store.cluster import INTERFACE, Cluster
from reconciler.core.store.values import Delta, Endpoint, Group, NodeInfo

__all__ = ["INTERFACE", "Cluster", "Delta", "Endpoint", "Group", "NodeInfo"]
