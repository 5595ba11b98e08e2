"""KWOK beside a test cluster: keeps nodes ready and gives pods the addresses of their nodes' CIDRs.

    with Kwok(cluster): ...

One process for all nodes. Its stages are the few that are needed here, each one write: a node
becomes Ready, a pod Running with addresses, a pod that is deleted goes. Nodes have no Leases, since
nobody looks at them.
"""

from __future__ import annotations

import json
import signal
from typing import Any, Final

from reconciler.testing.kubernetes import binaries
from reconciler.testing.kubernetes.cluster import Cluster
from reconciler.testing.process import Process

PARALLEL: Final = 16
"""Writes under way for pods, and for nodes; KWOK's own default is 4."""

ENVIRONMENT: Final = {"KUBE_FEATURE_WatchListClient": "false"}
"""Debian's etcd (3.4) can't serve the streaming lists that KWOK would ask for, and KWOK then takes
minutes to begin with plain ones."""

_POD: Final = """\
phase: Running
conditions:
- type: Ready
  status: "True"
{{ $ips := PodIPsWith .spec.nodeName false ( or .metadata.uid "" ) ( or .metadata.name "" ) \
( or .metadata.namespace "" ) }}
podIP: {{ index $ips 0 | Quote }}
podIPs:
{{ range $ips }}
- ip: {{ . | Quote }}
{{ end }}
"""

_NODE: Final = """\
phase: Running
conditions:
- type: Ready
  status: "True"
  reason: KubeletReady
"""

_READY: Final = '.status.conditions.[] | select( .type == "Ready" ) | .status'


class Kwok:
    """Started by `start` or `with`; ends with this process, like all that a test cluster has."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._program = binaries.kwok()
        self._process: Process | None = None

    def __enter__(self) -> Kwok:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns at once: what is there by now, and what comes, is taken up in a second or so."""
        folder = self._cluster.folder
        config = folder / "kwok.yaml"
        config.write_text("\n---\n".join(json.dumps(each) for each in _config()))
        self._process = Process(
            [
                str(self._program),
                f"--kubeconfig={self._cluster.kubeconfig('kwok')}",
                f"--config={config}",
                "--manage-all-nodes=true",
                "--v=WARN",
            ],
            folder / "kwok.log",
            environment=ENVIRONMENT,
        )

    def check(self) -> None:
        """UnavailableError, with the end of its log, when it runs no more."""
        if self._process is not None:
            self._process.check()

    def stop(self) -> None:
        if self._process is not None:
            self._process.end(signal.SIGKILL)
        self._process = None


def _config() -> list[dict[str, Any]]:
    options = {"podPlayStageParallelism": PARALLEL, "nodePlayStageParallelism": PARALLEL}
    api = "config.kwok.x-k8s.io/v1alpha1"
    alive = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    deleted = {"key": ".metadata.deletionTimestamp", "operator": "Exists"}
    without = {"key": ".status.podIP", "operator": "DoesNotExist"}
    unready = {"key": _READY, "operator": "NotIn", "values": ["True"]}
    return [
        {"apiVersion": api, "kind": "KwokConfiguration", "options": options},
        _stage("node-ready", "Node", [unready], {"statusTemplate": _NODE}),
        _stage("pod-running", "Pod", [alive, without], {"statusTemplate": _POD}),
        _stage("pod-gone", "Pod", [deleted], {"delete": True}),
    ]


def _stage(
    name: str, kind: str, when: list[dict[str, Any]], then: dict[str, Any]
) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": when},
            "next": then,
        },
    }
