"""One server process and a few processes with the nodes' ends of streams, over TLS on loopback.

Every node has a certificate and a connection of its own. State is in a temporary directory (in
memory where /dev/shm is there: 200 nodes' disk caches belong on 200 disks, not on this one).
"""

from __future__ import annotations

import contextlib
import datetime
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench import cluster, machine, peers, server
from bench.processes import Child, Setup
from bench.rows import Context
from reconciler import tls
from reconciler.server import certs
from reconciler.tls import KeyPair


class Fleet:
    """server, and the processes with nodes, those that were asked for by name first."""

    def __init__(self, server: Child, children: list[Child], nodes: Sequence[str]) -> None:
        self.server = server
        self.children = children
        self.nodes = nodes

    def start(self, objects: bytes) -> dict[str, Any]:
        """From the server's first look at the objects until every node is in sync."""
        loaded = self.server.ask("load", objects=objects, nodes=list(self.nodes))
        for child in self.children:
            child.tell("start")
        for child in self.children:
            child.answer()
        synced = self.server.ask("wait", seconds=1000)
        return {**loaded, **synced, "seconds": synced["at"] - loaded["began"]}

    def used(self) -> list[dict[str, Any]]:
        """CPU seconds and resident bytes: the server's, then those of the others."""
        return [child.ask("used") for child in (self.server, *self.children)]


@contextlib.contextmanager
def running(
    context: Context,
    kind: str,
    parts: Sequence[Sequence[str]],
    keys: dict[str, KeyPair],
    pods: Mapping[str, Sequence[str]] | None = None,
    transport: str = "grpc",
) -> Iterator[Fleet]:
    """parts: the nodes of each process; pods: of each node, for whole agents.
    transport: the server's."""
    with contextlib.ExitStack() as stack:
        directory = str(stack.enter_context(machine.scratch()))
        address = f"127.0.0.1:{free_port()}"
        context.say(f"starting {1 + len(parts)} processes")
        own = {server.SERVER: keys[server.SERVER]}
        setup = Setup(address, own, directory=directory, transport=transport)
        first = stack.enter_context(Child(server.main, setup))
        children = []
        for nodes in parts:
            own = {node: keys[node] for node in nodes}
            child = Child(peers.main, Setup(address, own, kind, directory))
            children.append(stack.enter_context(child))
            child.tell(
                "make", nodes=list(nodes), pods={node: (pods or {}).get(node, ()) for node in nodes}
            )
        for child in children:
            child.answer()
        yield Fleet(first, children, [node for nodes in parts for node in nodes])


def certificates(context: Context, nodes: Sequence[str]) -> dict[str, KeyPair]:
    """Of the server and of each node, by one new authority."""
    now = datetime.datetime.now(datetime.UTC)
    found: dict[str, KeyPair] = {}
    with machine.scratch() as directory:
        authority = certs.init(directory, cluster="bench", now=now)
        ca = str(authority.certificate)

        def add(name: str, issued: certs.Issued) -> None:
            found[name] = tls.load(str(issued.certificate), str(issued.key), ca)

        add(server.SERVER, certs.issue_server(directory, names=("127.0.0.1",), now=now))
        for at, node in enumerate(nodes):
            if at % 100 == 0:
                context.say(f"certificates: {at} of {len(nodes)}")
            add(node, certs.issue_node(directory, node, now=now))
    return found


def profiled(context: Context, name: str, child: Child, work: Callable[[], Any]) -> Any:
    """Do the work, with a profile of that process if it is asked for by this name."""
    if context.profile != name:
        return work()
    child.ask("profile")
    try:
        return work()
    finally:
        context.keep(name, child.ask("profiled")["text"])


def alarms(start: dict[str, Any]) -> str:
    """What the server warned of meanwhile, shortly: how often, and the first; "" for nothing."""
    said: list[str] = start["warnings"]
    return f"; {len(said)} warnings, first {said[0]}" if said else ""


def relabel(fleet: Fleet, built: cluster.Cluster, generation: int) -> dict[str, Any]:
    """One relabel; what it cost the server, and CPU seconds of the others with their clean-up."""
    before = fleet.used()[1:]
    done = fleet.server.ask("change", changes=built.relabel(generation))
    time.sleep(1.0)  # nodes clean up behind their ACKs; nobody is told when
    after = fleet.used()[1:]
    done["peers"] = [late["cpu"] - early["cpu"] for early, late in zip(before, after, strict=True)]
    return done


def free_port() -> int:
    """That nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
