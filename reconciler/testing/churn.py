"""Generated label churn: moves of a cluster as lines of a scenario, by a declared profile.

A profile (profiles/*.toml, or a file of one's own) says how large the cluster is and how often each
move comes; this module knows the moves. A move draws what it needs from a `Chooser`, so that the
same moves serve a seeded run and Hypothesis. Names come from small ranges: that is what makes moves
meet.
"""

from __future__ import annotations

import importlib.resources
import json
import random
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec

from reconciler.errors import ConfigError
from reconciler.testing.scenario import Line, parse

T = TypeVar("T")


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """nodes: how many; pods: names of pods in each namespace; pools, scopes, policies: one of each
    is chosen for a run (numbers to give, `--scope`, entries of a node's policies map); moves: name
    of a move → weight."""

    summary: str
    nodes: int
    namespaces: tuple[str, ...]
    pods: int
    pools: tuple[int, ...]
    scopes: tuple[str, ...]
    policies: tuple[int, ...]
    moves: Mapping[str, int]


class Chooser(Protocol):
    def choice(self, options: Sequence[T], /) -> T: ...


def profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the product."""
    return tuple(sorted(each.name.removesuffix(".toml") for each in _directory().iterdir()))


def _directory() -> Any:
    return importlib.resources.files("reconciler.testing").joinpath("profiles")


def load(name: str) -> Profile:
    """A profile by its name, or by the path of a file. ConfigError names file, field and reason."""
    path = Path(name)
    if path.suffix == ".toml":
        source, found = name, path
    elif name in profiles():
        source, found = f"{name}.toml", _directory().joinpath(f"{name}.toml")
    else:
        raise ConfigError(f"no profile {name!r}; there are {', '.join(profiles())}")
    try:
        profile = msgspec.convert(tomllib.loads(found.read_text()), Profile)
    except (OSError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{source}: {error}") from None
    for move, weight in profile.moves.items():
        if move not in MOVES:
            raise ConfigError(f"{source}: moves.{move}: there are {', '.join(MOVES)}")
        if weight < 0:
            raise ConfigError(f"{source}: moves.{move}: a weight is not negative")
    for field in ("namespaces", "pools", "scopes", "policies"):
        if not getattr(profile, field):
            raise ConfigError(f"{source}: {field}: at least one is needed")
    if profile.nodes < 1 or profile.pods < 1 or not any(profile.moves.values()):
        raise ConfigError(f"{source}: nodes, pods and the sum of moves are 1 or more")
    return profile


def head(profile: Profile, chooser: Chooser) -> tuple[str, ...]:
    """The cluster and its namespaces."""
    return (
        f"cluster nodes={profile.nodes} pool={chooser.choice(profile.pools)} "
        f"scope={chooser.choice(profile.scopes)} policies={chooser.choice(profile.policies)}",
        *(f"namespace {name} tier=t0" for name in profile.namespaces),
    )


def move(profile: Profile, chooser: Chooser) -> tuple[str, ...]:
    """One move, as one or more lines."""
    name = chooser.choice([name for name, weight in profile.moves.items() for _ in range(weight)])
    return MOVES[name](_Pick(profile, chooser))


def generate(profile: Profile, seed: int, steps: int) -> tuple[Line, ...]:
    """The scenario of a seed: `steps` moves, and everything settled at the end."""
    chance = random.Random(seed)
    lines = [*head(profile, chance)]
    for _ in range(steps):
        lines += move(profile, chance)
    return parse("\n".join([*lines, "settle"]))


# --------------------------------------------------------------------------------------- moves


class _Pick:
    """What moves draw from."""

    def __init__(self, profile: Profile, chooser: Chooser) -> None:
        self.profile, self._chooser = profile, chooser

    def of(self, *options: T) -> T:
        return self._chooser.choice(options)

    def number(self, most: int) -> int:
        """0 to most - 1"""
        return self._chooser.choice(range(most))

    @property
    def node(self) -> str:
        return f"n{1 + self.number(self.profile.nodes)}"

    @property
    def namespace(self) -> str:
        return self._chooser.choice(self.profile.namespaces)

    @property
    def pod(self) -> str:
        return f"{self.namespace}/p{self.number(self.profile.pods)}"

    def placed(self) -> str:
        """A node and addresses on it; few, so that they are used again by other pods."""
        number, host = 1 + self.number(self.profile.nodes), 1 + self.number(4)
        return f"n{number} 10.{number}.0.{host},fd00:{number}::{host}"


def _pod(pick: _Pick) -> tuple[str, ...]:
    return (f"pod {pick.pod} {pick.placed()} app=x{pick.number(3)}",)


def _delete_pod(pick: _Pick) -> tuple[str, ...]:
    return (f"delete pod {pick.pod}",)


def _relabel_pod(pick: _Pick) -> tuple[str, ...]:
    return (f"labels {pick.pod} app=x{pick.number(4)}",)


def _relabel_namespace(pick: _Pick) -> tuple[str, ...]:
    return (f"namespace {pick.namespace} tier=t{pick.number(3)}",)


def _storm(pick: _Pick) -> tuple[str, ...]:
    """Every namespace, as one `kubectl label ns --all` would."""
    tier = pick.number(4)
    return tuple(f"namespace {name} tier=t{tier}" for name in pick.profile.namespaces)


def _rollout(pick: _Pick) -> tuple[str, ...]:
    """A deployment, pod by pod: the new one first, then the old one goes; hashes are filtered."""
    namespace, version = pick.namespace, pick.number(3)
    lines: list[str] = []
    for number in range(2):
        lines += [
            f"pod {namespace}/r{version}{number} {pick.placed()} app=roll version=v{version} "
            f"pod-template-hash=h{version}",
            f"delete pod {namespace}/r{(version + 2) % 3}{number}",
        ]
        if pick.of(True, False):
            lines.append(f"sync {pick.node}")
    return tuple(lines)


def _flap(pick: _Pick) -> tuple[str, ...]:
    """There and back, with a little time between: enough to drain, to retire, or for neither."""
    pod, one, other = pick.pod, pick.number(3), pick.number(3)
    between = [f"wait {pick.of(0, 2, 8, 70)}"] if pick.of(True, False) else ["journal"]
    return (f"labels {pod} app=x{one}", *between, f"labels {pod} app=x{other}")


NEAR: Final = (
    "app=x0 b=y",
    "app=x0 b=y-",
    "app=x0 b-=y",
    "app=x0b =y",
    "app=x0",
    "app=x00",
    "app=",
    "App=x0",
    "app=X0",
    "a=app",
    "k8s.app=x0",
    "io.cilium.k8s.namespace.labels.tier=t1",
    "io.kubernetes.pod.namespace=b",
    "io.cilium.k8s.policy.serviceaccount=root",
    "reserved.host=",
    "tier=t0",
)
"""Labels that are nearly the same, or that say what only the server may say."""

EDGES: Final = (
    "pod-template-hash=1",
    "my-pod-template-hash=1",
    "pod-template-hashed=1",
    "foo.kubernetes.io/x=1",
    "kubernetes.io/x=1",
    "app.kubernetes.io/name=1",
    "apps.kubernetes.io/pod-index=1",
    "statefulset.kubernetes.io/pod-name=1",
    "topology.kubernetes.io/zone=1",
    "etcd_nodes=1",
    "annotationfoo=1",
    "k8s.io/x=1",
    "controller-uid=1",
    "foo.beta.kubernetes.io/x=1",
)
"""Labels at the edges of the default filter's patterns."""


def _near_collision(pick: _Pick) -> tuple[str, ...]:
    words = [word for word in pick.of(*NEAR).split() if not word.startswith("=")]
    return (f"pod {pick.pod} {pick.placed()} {' '.join(words)}",)


def _filter_edge(pick: _Pick) -> tuple[str, ...]:
    return (f"labels {pick.pod} app=x{pick.number(2)} {pick.of(*EDGES)} {pick.of(*EDGES)}",)


def _policy(pick: _Pick) -> tuple[str, ...]:
    return (f"policy {pick.namespace}/np{pick.number(2)} {json.dumps(_spec(pick))}",)


def _delete_policy(pick: _Pick) -> tuple[str, ...]:
    return (f"delete policy {pick.namespace}/np{pick.number(2)}",)


def _spec(pick: _Pick) -> dict[str, Any]:
    """A few policies that tell most things apart."""
    app: dict[str, Any] = pick.of(
        {"matchLabels": {"app": f"x{pick.number(3)}"}},
        {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x0"]}]},
        {"matchExpressions": [{"key": "pod-template-hash", "operator": "DoesNotExist"}]},
    )
    tier = {"matchLabels": {"tier": f"t{pick.number(3)}"}}
    block = {"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}}
    web = [{"protocol": "TCP", "port": 80}]
    subject = pick.of({}, {"matchLabels": {"app": f"x{pick.number(3)}"}})
    spec: dict[str, Any] = pick.of(
        {"policyTypes": ["Ingress"]},
        {"policyTypes": ["Ingress"], "ingress": [{"from": [{"namespaceSelector": tier}]}]},
        {
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"namespaceSelector": tier, "podSelector": app}], "ports": web}],
        },
        {"policyTypes": ["Egress"], "egress": [{"to": [block]}]},
        {
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [block]}],
            "egress": [{"to": [{"podSelector": app}], "ports": web}],
        },
        {"policyTypes": ["Ingress"], "ingress": [{"ports": web}]},
    )
    return {"podSelector": subject, **spec}


def _overtake(pick: _Pick) -> tuple[str, ...]:
    """A policy edit right behind the relabel that it is about."""
    return (*_relabel_namespace(pick), *_policy(pick), "journal", f"sync {pick.node}")


def _frames(pick: _Pick) -> tuple[str, ...]:
    node, count = pick.node, 1 + pick.number(4)
    return (pick.of(f"up {node} {count}", f"down {node} {count}", f"connect {node}"),)


MOVES: Final[Mapping[str, Callable[[_Pick], tuple[str, ...]]]] = {
    "sync": lambda pick: (f"sync {pick.node}",),
    "some-frames": _frames,
    "some-writes": lambda pick: (f"work {pick.node} {1 + pick.number(8)}",),
    "journal": lambda pick: ("journal",),
    "wait": lambda pick: (f"wait {1 << pick.number(8)}",),
    "pod": _pod,
    "delete-pod": _delete_pod,
    "relabel-pod": _relabel_pod,
    "relabel-namespace": _relabel_namespace,
    "storm": _storm,
    "rollout": _rollout,
    "flap": _flap,
    "near-collision": _near_collision,
    "filter-edge": _filter_edge,
    "policy": _policy,
    "delete-policy": _delete_policy,
    "overtake": _overtake,
    "break": lambda pick: (f"break {pick.node}",),
    "journal-fails": lambda pick: (pick.of("journal refused", "journal lost"),),
    "write-fails": lambda pick: (f"refuse {pick.node}",),
    "crash-agent": lambda pick: (f"{pick.of('crash', 'start', 'start', 'reboot')} {pick.node}",),
    "crash-server": lambda pick: (pick.of("start server", "crash server"),),
}
