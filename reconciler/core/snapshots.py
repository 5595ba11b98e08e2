"""Plain rows that tell a human (or a script) what a control plane or an agent believes.

They are read by the status APIs and printed by `reconciler get`; nothing in the cores depends on
them. A snapshot method builds them from the state at hand when asked, so that nothing is kept up to
date for nobody. Addresses are text here ("10.1.0.7", "fd00:1::7", "" for none), since they are only
shown; times are the monotonic seconds that the core was given as `now`.
"""

from __future__ import annotations

import msgspec

from reconciler.errors import Rejected


class IdentityRow(msgspec.Struct, frozen=True):
    """One live identity. phase: state of models/identity.toml; groups, pods: how many have it."""

    number: int
    birth: int
    phase: str
    label_set: str
    groups: int
    pods: int


class GroupRow(msgspec.Struct, frozen=True):
    """One group; number 0: its label set has no identity yet."""

    name: str
    namespace: str
    labels: tuple[str, ...]
    number: int
    birth: int
    pods: int


class PolicyRow(msgspec.Struct, frozen=True):
    """One NetworkPolicy. subjects: identities it selects; rules: rules of both directions.

    state: "enforced", or "refused" with the reasons in `problems`
    """

    namespace: str
    name: str
    ingress: bool
    egress: bool
    rules: int
    subjects: int
    state: str
    problems: tuple[str, ...] = ()


class EndpointRow(msgspec.Struct, frozen=True):
    """One pod that owns an address. state: "" at the server; models/endpoint.toml at an agent."""

    namespace: str
    pod: str
    node: str
    ipv4: str
    ipv6: str
    group: str
    number: int
    interface: str = ""
    ifindex: int = 0
    state: str = ""


class NodeRow(msgspec.Struct, frozen=True):
    """One node as the server sees it.

    state:     of models/node.toml;   rollout: of models/rollout.toml
    committed: revision of the last cut that the node acknowledged (0: none)
    target:    revision of the newest cut made for it
    nack:      text of its last NACK that still stands ("" when none)
    resources: resources (and removals) sent to it since the server started
    committed_at: `now` of its last ACK of a commit
    """

    name: str
    state: str
    rollout: str
    committed: int
    target: int
    nack: str
    alarms: tuple[str, ...]
    endpoints: int
    resources: int
    committed_at: float


class AlarmRow(msgspec.Struct, frozen=True):
    kind: str
    object: str
    text: str


class StatusRow(msgspec.Struct, frozen=True):
    """The whole server in a few numbers; `problems` are those of the objects at hand."""

    cluster: str
    epoch: int
    revision: int
    pods: int
    groups: int
    policies: int
    identities: int
    identity_capacity: int
    nodes: dict[str, int]  # node state -> how many
    alarms: tuple[AlarmRow, ...] = ()
    problems: tuple[Rejected, ...] = ()


class PeerRow(msgspec.Struct, frozen=True):
    """What one end of a connection was taken for. number 0: unknown."""

    name: str
    address: str
    number: int
    labels: tuple[str, ...] = ()
    node: str = ""


class DirectionRow(msgspec.Struct, frozen=True):
    """One side's decision.

    verdict: "allow" or "deny"; enforced: whether any policy isolates this side
    origins: policy objects of the deciding rule; empty when the default decided
    """

    verdict: str
    enforced: bool
    origins: tuple[str, ...]
    reason: str


class ExplanationRow(msgspec.Struct, frozen=True):
    """A connection passes when both sides say allow; None: that end is not a pod of the cluster."""

    source: PeerRow
    destination: PeerRow
    protocol: int
    port: int
    egress: DirectionRow | None
    ingress: DirectionRow | None

    @property
    def allowed(self) -> bool:
        sides = (self.egress, self.ingress)
        return all(side is None or side.verdict == "allow" for side in sides)


class AgentRow(msgspec.Struct, frozen=True):
    """One agent. client, cut: states of models/client.toml and models/cut.toml.

    committed: revision that the kernel enforces (0: none); usage: entries in use per map
    """

    node: str
    client: str
    cut: str
    committed: int
    root: str
    refusal: str
    endpoints: int
    usage: dict[str, int] = {}
    limits: dict[str, int] = {}
