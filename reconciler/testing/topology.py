"""A cluster's network on one machine: node, pod and world namespaces, wired and routed.

    pod ── veth ── node-1 ── veth ─┐
    pod ── veth ──┘                ├── fabric ── veth ── world (addresses outside the cluster)
    pod ── veth ── node-2 ── veth ─┘

Namespaces have no name: they are descriptors of this process. So nothing is left behind however it
ends – the kernel drops a namespace, and every device in it, with the last descriptor – and two
topologies on one machine never meet. Processes started in one die with this process as well.

Each pod has a veth pair to its node, whose end there is called `pod<n>`, and host routes to it, as
routed CNIs have. Neighbours are static (as with point-to-point links) and there is no duplicate
address detection, so nothing waits for either. Needs root; IPv4 and IPv6.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from reconciler.errors import UnavailableError
from reconciler.testing.process import bound

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

FABRIC: Final = "fabric"
WORLD: Final = "world"
GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"
NEAR_MAC: Final = "ee:ee:ee:ee:ee:ee"  # of every gateway: each is alone on its link

_DEFAULTS: Final = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}

_SYSCTLS: Final = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv4/icmp_ratelimit": "0",
    "ipv6/conf/all/forwarding": "1",
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/addr_gen_mode": "1",  # no link-local addresses but ours
}


class NodeSpec(msgspec.Struct, frozen=True):
    """pod_cidrs: what is routed to the node."""

    name: str
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...]


class PodSpec(msgspec.Struct, frozen=True):
    """name: "namespace/pod"; node: name of a NodeSpec."""

    name: str
    node: str
    addresses: tuple[str, ...]


class Spec(msgspec.Struct, frozen=True):
    """world: addresses outside the cluster; fabric: addresses of the control plane's host."""

    nodes: tuple[NodeSpec, ...]
    pods: tuple[PodSpec, ...]
    world: tuple[str, ...] = ()
    fabric: tuple[str, ...] = ()


class Namespace:
    """A network namespace, alive until `close`."""

    def __init__(self) -> None:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("unshare", _CLONE_NEWNET)
            try:
                self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
                for name, value in _SYSCTLS.items():
                    Path("/proc/sys/net", name).write_text(value)
            finally:
                _call("setns", home, _CLONE_NEWNET)
        finally:
            os.close(home)

    @property
    def path(self) -> str:
        """For `nsenter --net=` and `ip netns`-like options, while this process is there."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread inside the namespace: what it opens or starts belongs there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", self.fd, _CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", home, _CLONE_NEWNET)
        finally:
            os.close(home)

    def socket(self, family: int, kind: int) -> socket.socket:
        with self.entered():
            return socket.socket(family, kind)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Topology:
    """The wired network, while in the context. Namespaces by name: nodes, pods ("namespace/pod"),
    "fabric" and "world"."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.namespaces: dict[str, Namespace] = {}
        self.devices: dict[str, str] = {}  # pod → its device on the node
        self._macs: dict[str, str] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Topology:
        if os.geteuid() != 0:
            raise UnavailableError("network namespaces need root")
        with ExitStack() as stack:
            names = (FABRIC, WORLD, *(node.name for node in self.spec.nodes))
            for name in (*names, *(pod.name for pod in self.spec.pods)):
                namespace = self.namespaces[name] = Namespace()
                stack.callback(namespace.close)
            for number, pod in enumerate(self.spec.pods):
                self.devices[pod.name] = f"pod{number}"
                self._macs[pod.name] = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
            self._wire()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, where: str, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """A process inside a namespace; killed when this one ends, however that happens."""
        with self.namespaces[where].entered():
            return subprocess.Popen(bound(command), **options)

    def address(self, name: str, family: int) -> str:
        """A pod's address of a family (AF_INET, AF_INET6); for an address, itself."""
        for pod in self.spec.pods:
            if pod.name == name:
                return next(one for one in pod.addresses if _family(one) == family)
        return name

    def namespace_of(self, name: str) -> Namespace:
        """Of a pod or node by name; of an address, the world's."""
        return self.namespaces.get(name) or self.namespaces[WORLD]

    # ------------------------------------------------------------------------------ wiring

    def _wire(self) -> None:
        """Two rounds of ip(8), one process a namespace and all at once: links, then the rest."""
        links: dict[str, list[str]] = {name: ["link set lo up"] for name in self.namespaces}
        rest: dict[str, list[str]] = {name: [] for name in self.namespaces}
        for address in self.spec.fabric:
            links[FABRIC].append(_add(address, "lo"))
        self._uplink(links, rest, WORLD, "world", self.spec.world, self.spec.world)
        for number, node in enumerate(self.spec.nodes):
            routed = (*node.addresses, *node.pod_cidrs)
            self._uplink(links, rest, node.name, f"node{number}", node.addresses, routed)
        for pod in self.spec.pods:
            self._pod(links, rest, pod)
        _batch(self.namespaces, links)
        _batch(self.namespaces, rest)

    def _uplink(
        self,
        links: Mapping[str, list[str]],
        rest: Mapping[str, list[str]],
        name: str,
        device: str,
        addresses: Sequence[str],
        routed: Sequence[str],
    ) -> None:
        """A veth between the fabric (`device`) and a namespace (`up0`), and the routes over it."""
        path = self.namespaces[name].path
        links[FABRIC].append(
            f"link add {device} address {NEAR_MAC} type veth "
            f"peer name up0 address {NEAR_MAC} netns {path}"
        )
        for where, end in ((FABRIC, device), (name, "up0")):
            rest[where] += [f"link set {end} up", _add(GATEWAY6, end), _add(GATEWAY4, end)]
            rest[where] += _neighbours(end)
        for address in addresses:
            rest[name].append(_add(address, "lo"))
        for prefix in routed:
            rest[FABRIC].append(_route(prefix, device))
        for family, everything in _DEFAULTS.items():
            source = next((a for a in addresses if _family(a) == family), "")
            chosen = f" src {source}" if source else ""
            rest[name].append(_route(everything, "up0") + chosen)

    def _pod(
        self, links: Mapping[str, list[str]], rest: Mapping[str, list[str]], pod: PodSpec
    ) -> None:
        device, mac = self.devices[pod.name], self._macs[pod.name]
        path = self.namespaces[pod.name].path
        links[pod.node].append(
            f"link add {device} address {NEAR_MAC} type veth "
            f"peer name eth0 address {mac} netns {path}"
        )
        node, own = rest[pod.node], rest[pod.name]
        node += [f"link set {device} up", _add(GATEWAY4, device), _add(GATEWAY6, device)]
        own += ["link set eth0 up", *_neighbours("eth0", far=True)]
        for address in pod.addresses:
            node.append(f"route add {address} dev {device}")
            node.append(f"neigh add {address} lladdr {mac} dev {device} nud permanent")
            own.append(_add(address, "eth0"))
        for family, everything in _DEFAULTS.items():
            if any(_family(address) == family for address in pod.addresses):
                own.append(_route(everything, "eth0"))


def _neighbours(device: str, *, far: bool = False) -> list[str]:
    """The other end of the link; `far`: it alone has the gateway addresses, else both ends do."""
    four, six = (GATEWAY4, GATEWAY6) if far else ("169.254.1.2", "fe80::2")
    return [
        f"neigh add {four} lladdr {NEAR_MAC} dev {device} nud permanent",
        f"neigh add {six} lladdr {NEAR_MAC} dev {device} nud permanent",
    ]


def _add(address: str, device: str) -> str:
    if _family(address) == socket.AF_INET:
        return f"addr add {address}/32 dev {device}"
    return f"addr add {address}/128 dev {device} nodad"


def _route(prefix: str, device: str) -> str:
    """Over a link: by way of the neighbour that stands for its other end."""
    six = ":" in prefix
    if device == "eth0":
        return f"route add {prefix} via {GATEWAY6 if six else GATEWAY4} dev {device} onlink"
    return f"route add {prefix} via {'fe80::2' if six else '169.254.1.2'} dev {device} onlink"


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _batch(namespaces: Mapping[str, Namespace], lines: Mapping[str, list[str]]) -> None:
    running = []
    for name, batch in lines.items():
        if batch:
            with namespaces[name].entered():
                process = subprocess.Popen(
                    ["ip", "-batch", "-"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            assert process.stdin is not None
            process.stdin.write("\n".join(batch) + "\n")
            process.stdin.close()
            running.append((name, process))
    failures = []
    for name, process in running:
        assert process.stderr is not None
        text = process.stderr.read()
        process.stderr.close()
        if process.wait(30):
            failures.append(f"{name}: {text.strip()}")
    if failures:
        raise UnavailableError(f"ip: {'; '.join(failures)}")


def _call(function: str, *arguments: int) -> None:
    if getattr(_libc, function)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), function)
