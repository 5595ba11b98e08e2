"""`verdicts --kernel`: the same matrix from the eBPF programs, by probe packets.

The objects go the whole way – control plane, xDS frames, agent, maps of a kernel – in this
process, on maps of its own that are pinned for the time of the command. Nothing is attached
anywhere: a probe names the pod whose device it stands for. Every pod is put on one node, and gets
an address if it has none; that changes no verdict between pods, or between pods and the world.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from reconciler.agent.applier import read_kernel
from reconciler.core.dataplane import effects as agent_effects
from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import map_specs
from reconciler.core.intake import IntakeConfig
from reconciler.core.objects import KubeObject, Node, Pod, PodIP, Upsert, parse_address
from reconciler.core.plane import ControlPlane, PlaneConfig, WriteJournal
from reconciler.core.policy.ir import Direction
from reconciler.core.verdicts import ALLOW, DENY, Probe, Row
from reconciler.core.xds.effects import Close, Send
from reconciler.datapath.base import Datapath
from reconciler.datapath.kernel import KernelDatapath
from reconciler.errors import ReconcilerError
from reconciler.server.app import label_filter, prefix
from reconciler.testing.journal import MemoryJournal
from reconciler.testing.packets import Flow

NODE: Final = "verdicts"
BPFFS: Final = Path("/sys/fs/bpf")
FIRST_IFINDEX: Final = 1
SPARE: Final = (ipaddress.ip_network("240.0.0.0/8"), ipaddress.ip_network("fdff:ffff::/64"))
"""Addresses for pods that have none: no cluster's."""


def disagreements(
    objects: Iterable[KubeObject],
    rows: Sequence[Row],
    labels: tuple[str, ...],
    cluster_cidrs: tuple[str, ...],
) -> list[str]:
    """A line for each row of which the kernel says something else."""
    placed = list(_placed(objects))
    pods = {
        f"{item.metadata.namespace}/{item.metadata.name}": tuple(i.ip for i in item.status.pod_ips)
        for item in placed
        if isinstance(item, Pod) and item.spec.node_name == NODE
    }
    numbers = {name: number for number, name in enumerate(pods, FIRST_IFINDEX)}
    nodes = {
        each.address for item in placed if isinstance(item, Node) for each in item.status.addresses
    }
    wrong = []
    with _datapath(len(pods)) as datapath:
        _enforce(placed, pods, numbers, labels, cluster_cidrs, datapath)
        for row in rows:
            if row.source in nodes or row.destination in nodes:
                continue  # host or remote node depends on where the pod runs
            found = _ask(row, pods, numbers, datapath)
            if found != (row.egress, row.ingress):
                what = f"{row.port}/{row.protocol.lower()}"
                wrong.append(
                    f"{row.source} -> {row.destination} {what}: computed egress {row.egress}, "
                    f"ingress {row.ingress}; kernel {found[0]}, {found[1]}"
                )
    return wrong


def _placed(objects: Iterable[KubeObject]) -> Iterator[KubeObject]:
    spare4, spare6 = (iter(network.hosts()) for network in SPARE)
    for item in objects:
        if isinstance(item, Pod) and not item.spec.host_network and not item.done:
            addresses = item.status.pod_ips or (
                PodIP(ip=str(next(spare4))),
                PodIP(ip=str(next(spare6))),
            )
            yield msgspec.structs.replace(
                item,
                spec=msgspec.structs.replace(item.spec, node_name=NODE),
                status=msgspec.structs.replace(
                    item.status, pod_ip=addresses[0].ip, pod_ips=addresses
                ),
            )
        else:
            yield item


@contextmanager
def _datapath(pods: int) -> Iterator[KernelDatapath]:
    from reconciler.datapath import pins

    directory = BPFFS / f"reconciler-verdicts-{os.getpid()}"
    try:
        specs = map_specs(endpoints=max(64, pods), addresses=max(4096, 8 * pods))
        with KernelDatapath(directory, specs) as datapath:
            yield datapath
    finally:
        pins.unpin_all(directory)


def _enforce(
    objects: Sequence[KubeObject],
    pods: dict[str, tuple[str, ...]],
    numbers: dict[str, int],
    labels: tuple[str, ...],
    cluster_cidrs: tuple[str, ...],
    datapath: Datapath,
) -> None:
    """Everything from the objects to the maps, until nothing more happens."""
    journal = MemoryJournal()
    intake = IntakeConfig(
        filter=label_filter(labels, ""), cluster_cidrs=tuple(map(prefix, cluster_cidrs))
    )
    plane = ControlPlane(PlaneConfig(intake=intake), journal.open(), 0.0)
    agent = AgentCore(NODE, datapath.limits, read_kernel(datapath), None, 0.0)
    plane.objects_changed([Upsert(item, "") for item in objects], 0.0)
    for name, addresses in pods.items():
        own = frozenset(map(parse_address, addresses))
        agent.link_added(Link(numbers[name], f"pod{numbers[name]}", own, name), 0.0)
    agent.tick(0.0)
    while True:
        asked, answered = plane.effects(), agent.effects()
        if not asked and not answered:
            break
        for effect in asked:
            match effect:
                case WriteJournal(batch):
                    plane.journal_written(journal.append(batch), 0.0)
                case Send(_, frame):
                    agent.received(frame, 0.0)
                case Close(_, _, reason):
                    raise ReconcilerError(f"the stream ended: {reason}")
        for done in answered:
            _carry_out(done, plane, agent, datapath)
        agent.tick(0.0)
    if not agent.enforced[0]:
        raise ReconcilerError(f"nothing is enforced: {agent.row().refusal or 'no cut came'}")


def _carry_out(
    effect: agent_effects.Effect, plane: ControlPlane, agent: AgentCore, datapath: Datapath
) -> None:
    match effect:
        case agent_effects.Connect():
            plane.stream_opened(1, NODE, 0.0)
            agent.connected(0.0)
        case agent_effects.Send(frame):
            plane.received(1, frame, 0.0)
        case agent_effects.Apply(token, ops):
            datapath.apply(ops)
            agent.applied(token, 0.0)
        case agent_effects.Attach(ifindex):
            agent.attached(ifindex, 0.0)
        case agent_effects.Alarm(_, object, text):
            raise ReconcilerError(f"{object}: {text}")


def _ask(
    row: Row, pods: dict[str, tuple[str, ...]], numbers: dict[str, int], datapath: Datapath
) -> tuple[str, str]:
    """(egress, ingress) for the first family that both ends have; an outsider allows everything."""
    source, destination = next(
        (one, other)
        for one in pods.get(row.source, (row.source,))
        for other in pods.get(row.destination, (row.destination,))
        if (":" in one) == (":" in other)
    )
    probe = Probe(row.protocol, row.port)
    number = probe.number
    if number in (1, 58):
        number = 58 if ":" in source else 1
    frame = Flow(source, destination, number, destination_port=row.port).frame()

    def side(name: str, direction: Direction) -> str:
        if name not in numbers:
            return ALLOW
        reason = datapath.probe(frame, ifindex=numbers[name], direction=direction)
        return ALLOW if reason.passed else DENY

    return side(row.source, Direction.EGRESS), side(row.destination, Direction.INGRESS)
