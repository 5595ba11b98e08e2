"""A real Kubernetes API server on this machine: built from its sources, started and ended by tests.

python -m reconciler.testing.kubernetes.build        # once; minutes, into a cache folder
with Cluster() as cluster:                           # seconds
    client = await ApiClient.connect(cluster.kubeconfig())
"""

from reconciler.testing.kubernetes.cluster import Cluster

__all__ = ["Cluster"]
