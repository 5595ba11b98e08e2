"""Real packets between pods in network namespaces, on TCX links and on clsact filters."""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reconciler.core.dataplane.layout import IdentityIndex, MapId, Reason
from reconciler.core.dataplane.ops import Flip, Put, Remove
from reconciler.core.policy.ir import Direction, Verdict
from reconciler.errors import DatapathError
from tests.integration import frames, kernel_world, netns
from tests.integration.conftest import own_pins
from tests.integration.kernel_world import Entry, policy_entry, small_specs, world
from tests.integration.netns import Namespace, node_with_pods, wait_until
from tests.root import need_feature

if TYPE_CHECKING:
    from reconciler.datapath.kernel import KernelDatapath

pytestmark = pytest.mark.kernel

IN, OUT = Direction.INGRESS, Direction.EGRESS
ALLOWED_PORT, DENIED_PORT = 8000, 8001


class Net:
    """A node whose pods are attached to a kernel datapath, driven from inside its namespace."""

    def __init__(self, node: Namespace, pods: list[netns.Pod], datapath: object) -> None:
        from reconciler.datapath.kernel import KernelDatapath

        assert isinstance(datapath, KernelDatapath)
        self.node, self.pods, self.datapath = node, pods, datapath
        self.known = [
            kernel_world.Pod(number, pod.ifindex, pod.ipv4, pod.ipv6)
            for number, pod in enumerate(pods)
        ]
        for pod in pods:
            datapath.attach(pod.ifindex)

    def policies(self) -> list[Entry]:
        """Pod 0 may send anything but to DENIED_PORT; pod 1 takes ALLOWED_PORT and ICMP."""
        a, b = self.known
        entries = [policy_entry(a.egress, IdentityIndex.ANY, OUT)]
        for protocol in (6, 17):
            entries.append(
                policy_entry(b.ingress, a.group, IN, protocol=protocol, port=ALLOWED_PORT)
            )
            entries.append(
                policy_entry(
                    a.egress, b.group, OUT, Verdict.DENY, protocol=protocol, port=DENIED_PORT
                )
            )
        entries += [policy_entry(b.ingress, a.group, IN, protocol=p) for p in (1, 58)]
        return entries

    def count(self, reason: Reason, direction: Direction) -> int:
        return self.datapath.metrics().get((reason, direction), (0, 0))[0]

    @contextlib.contextmanager
    def udp_pair(self, six: bool, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
        a, b = self.pods
        family = socket.AF_INET6 if six else socket.AF_INET
        with (
            a.socket(family, socket.SOCK_DGRAM) as client,
            b.socket(family, socket.SOCK_DGRAM) as server,
        ):
            server.bind((b.ipv6 if six else b.ipv4, port))
            client.connect((b.ipv6 if six else b.ipv4, port))
            yield client, server


@pytest.fixture(params=["tcx", "clsact"])
def mode(request: pytest.FixtureRequest, kernel: None) -> str:
    if request.param == "tcx":
        need_feature("tcx")
    return str(request.param)


@pytest.fixture(scope="module")
def loaded(kernel: None) -> Iterator[Callable[[str], KernelDatapath]]:
    """One datapath for each mode: to have its programs verified is most of what a test costs."""
    from reconciler.datapath.kernel import KernelDatapath

    with contextlib.ExitStack() as stack:

        @functools.cache
        def of(mode: str) -> KernelDatapath:
            path = stack.enter_context(own_pins(mode))
            made = KernelDatapath(path, small_specs(), attach=mode)  # type: ignore[arg-type]
            return stack.enter_context(made)

        yield of


@pytest.fixture
def net(mode: str, loaded: Callable[[str], KernelDatapath]) -> Iterator[Net]:
    """A node and pods of this test alone, and its mode's datapath as if new."""
    datapath = loaded(mode)
    kernel_world.empty(datapath)
    with node_with_pods(2) as (node, pods), node.entered():
        assert datapath.attached() == set(), "a test has left something attached"
        assert list((datapath.pin_dir / "links").iterdir()) == []
        net = Net(node, pods, datapath)
        datapath.apply(world(net.known, net.policies()))
        yield net
        for ifindex in datapath.attached():  # forgets those of devices that are gone, too
            datapath.detach(ifindex)


@pytest.mark.parametrize("six", [False, True])
def test_udp(net: Net, six: bool) -> None:
    with net.udp_pair(six, ALLOWED_PORT) as (client, server):
        client.send(b"question")
        data, back = server.recvfrom(100)
        server.sendto(b"answer", back)
        assert (data, client.recv(100)) == (b"question", b"answer")
    assert net.count(Reason.REPLY, OUT) == 1
    assert net.count(Reason.REPLY, IN) == 1
    with net.udp_pair(six, DENIED_PORT) as (client, server):
        client.send(b"x")
        wait_until(lambda: net.count(Reason.DENIED, OUT) == 1, "the drop is counted")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)
    with net.udp_pair(six, ALLOWED_PORT + 100) as (client, server):
        client.send(b"x")
        wait_until(lambda: net.count(Reason.NO_RULE, IN) == 1, "the drop is counted")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)


@pytest.mark.parametrize("six", [False, True])
def test_tcp(net: Net, six: bool) -> None:
    a, b = net.pods
    family = socket.AF_INET6 if six else socket.AF_INET
    to = b.ipv6 if six else b.ipv4
    with b.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((to, ALLOWED_PORT))
        listener.listen()
        with a.socket(family, socket.SOCK_STREAM) as client:
            client.connect((to, ALLOWED_PORT))
            server, _ = listener.accept()
            with server:
                server.settimeout(10)
                sent = bytes(range(256)) * 4096  # with segmentation offload
                client.settimeout(10)
                got = bytearray()
                client.setblocking(False)
                view = memoryview(sent)
                while len(got) < len(sent):
                    with contextlib.suppress(BlockingIOError):
                        view = view[client.send(view) :] if view else view
                    got += server.recv(65536)
                assert got == sent
                server.shutdown(socket.SHUT_WR)
                client.setblocking(True)
                assert client.recv(1) == b""
    assert net.count(Reason.NO_RULE, IN) == net.count(Reason.NO_RULE, OUT) == 0
    with a.socket(family, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        assert client.connect_ex((to, DENIED_PORT)) != 0
        wait_until(lambda: net.count(Reason.DENIED, OUT) >= 1, "the SYN drops")


def test_ping_and_neighbours(net: Net) -> None:
    """The pods found their gateways by ARP and neighbour discovery; echo replies pass by id."""
    a, b = net.pods
    for to in (b.ipv4, b.ipv6):
        assert "1 received" in a.run("ping", "-c", "1", "-W", "5", to).stdout
    assert net.count(Reason.NEIGHBOUR, OUT) > 0
    assert net.count(Reason.NEIGHBOUR, IN) > 0
    before = net.count(Reason.CLOSED, OUT) + net.count(Reason.NO_RULE, OUT)
    assert "0 received" in b.run("ping", "-c", "1", "-W", "0.2", a.ipv4, check=False).stdout
    assert net.count(Reason.CLOSED, OUT) + net.count(Reason.NO_RULE, OUT) == before + 1


@pytest.mark.parametrize("six", [False, True])
def test_fragments(net: Net, six: bool) -> None:
    with net.udp_pair(six, ALLOWED_PORT) as (client, server):
        client.send(bytes(5000))
        assert len(server.recv(10_000)) == 5000
    flows = net.datapath.dump(MapId.FRAGMENTS)
    assert len(flows) == 2, "seen on the way out and on the way in"
    with net.udp_pair(six, DENIED_PORT) as (client, _):
        client.send(bytes(5000))
        wait_until(lambda: net.count(Reason.FRAGMENT, OUT) == 3, "later fragments drop, too")


@pytest.mark.parametrize("six", [False, True])
def test_port_unreachable_comes_back(net: Net, six: bool) -> None:
    a, b = net.pods
    family = socket.AF_INET6 if six else socket.AF_INET
    with a.socket(family, socket.SOCK_DGRAM) as client:
        client.connect((b.ipv6 if six else b.ipv4, ALLOWED_PORT))
        client.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(1)
    assert net.count(Reason.RELATED, OUT) == net.count(Reason.RELATED, IN) == 1


def test_a_spoofed_source_drops(net: Net) -> None:
    a, b = net.pods
    a.ip("addr add 10.77.0.99/32 dev eth0")
    with a.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("10.77.0.99", 0))
        client.sendto(b"x", (b.ipv4, ALLOWED_PORT))
    wait_until(lambda: net.count(Reason.BAD_SOURCE, OUT) == 1, "the drop is counted")


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (frames.ethernet(0x0800, b"\x45" + bytes(10)), Reason.MALFORMED),
        (frames.ethernet(0x86DD, b"\x60" + bytes(30)), Reason.MALFORMED),
        (frames.ethernet(0x86DD, b""), Reason.MALFORMED),
        (frames.ethernet(0x8100, b"\0\5\x08\x06" + bytes(46)), Reason.UNKNOWN_PROTOCOL),
        (frames.ethernet(0x8100, b"\0\5\x81\0\0\6\x08\0" + bytes(46)), Reason.UNKNOWN_PROTOCOL),
        (frames.ethernet(40, bytes(46)), Reason.UNKNOWN_PROTOCOL),
    ],
)
def test_frames_that_no_stack_sends(net: Net, frame: bytes, reason: Reason) -> None:
    """Cut-off IP headers, tags that the receiving device takes off, 802.3 lengths."""
    before = net.count(reason, OUT)
    with net.pods[0].socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(b"\xff" * 6 + frame[6:])
    wait_until(lambda: net.count(reason, OUT) == before + 1, "the drop is counted")


def test_an_attached_device_without_an_endpoint_is_closed(net: Net) -> None:
    a, _ = net.known
    net.datapath.apply([Remove(MapId.ENDPOINTS, (a.endpoint()[0],))])
    net.pods[0].run("ip", "neigh", "flush", "all")
    out = net.pods[0].run("ping", "-c", "1", "-W", "0.2", net.pods[1].ipv4, check=False)
    assert "0 received" in out.stdout
    assert net.count(Reason.NO_ENDPOINT, OUT) > 0


def test_a_flip_shows_in_the_next_packet(net: Net) -> None:
    """One staged half, one word: traffic that was allowed drops, and is allowed again."""
    a, b = net.known
    with net.udp_pair(False, ALLOWED_PORT) as (client, server):
        for revision in range(1, 11):
            half = revision % 2
            groups = (a.group, 60) if half else (a.group, a.group)
            net.datapath.apply(
                [
                    Put(MapId.ENDPOINTS, (a.endpoint(groups=groups),)),
                    Flip(half, revision, bytes(32)),
                ]
            )
            before = net.count(Reason.CLOSED, OUT)
            client.send(b"%d" % revision)
            if half:
                assert net.count(Reason.CLOSED, OUT) == before + 1
            else:
                assert server.recv(10) == b"%d" % revision
        assert b.group != a.group


def test_attachments_go_and_come(net: Net, mode: str) -> None:
    a, b = net.pods
    datapath = net.datapath
    both = {a.ifindex, b.ifindex}
    assert datapath.attached() == both
    assert datapath.tcx is (mode == "tcx")
    filters = net.node.run("tc", "filter", "show", "dev", a.host_device, "ingress").stdout
    assert ("from_pod" in filters) is (mode == "clsact")
    datapath.attach(a.ifindex)
    assert datapath.attached() == both, "again: replaced in place"
    datapath.detach(a.ifindex)
    datapath.drain()
    datapath.detach(a.ifindex)
    assert datapath.attached() == {b.ifindex}
    assert (
        "1 received" not in a.run("ping", "-c", "1", "-W", "0.2", "10.77.0.200", check=False).stdout
    )
    a.run("ping", "-c", "1", "-W", "1", netns.GATEWAY4)
    events = [event for event in datapath.drain() if event.ifindex == a.ifindex]
    assert events == [], "a detached device is not judged"
    datapath.attach(a.ifindex)
    net.node.ip(f"link del {b.host_device}")
    assert datapath.attached() == {a.ifindex}, "a vanished device takes its attachment along"
    datapath.detach(b.ifindex)
    with pytest.raises(DatapathError, match=f"device {b.ifindex}"):
        datapath.attach(b.ifindex)
    assert datapath.attached() == {a.ifindex}


def test_a_detached_device_is_free_at_once(net: Net) -> None:
    """Not some time later, when the kernel gets to it."""
    a = net.pods[0]
    with net.node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(30):
            net.datapath.attach(a.ifindex)
            net.datapath.detach(a.ifindex)
            net.datapath.drain()
            sender.sendto(b"x", (a.ipv4, 9))
            assert [e for e in net.datapath.drain() if e.ifindex == a.ifindex] == []


def test_an_index_that_comes_back_is_attached_anew(net: Net) -> None:
    b = net.pods[1]
    net.node.ip(f"link del {b.host_device}")
    net.node.ip(f"link add {b.host_device} index {b.ifindex} type veth peer name other")
    net.datapath.attach(b.ifindex)
    assert net.datapath.attached() == {pod.ifindex for pod in net.pods}


def test_a_restart_moves_devices_to_the_other_way(net: Net, mode: str, pin_dir: Path) -> None:
    """Attached by TCX, adopted with clsact (and the other way round): attached once, not twice."""
    from reconciler.datapath.kernel import KernelDatapath

    need_feature("tcx")
    for pod in net.pods:
        net.datapath.detach(pod.ifindex)
    with KernelDatapath(pin_dir, small_specs(), attach=mode) as first:  # type: ignore[arg-type]
        Net(net.node, net.pods, first)
        first.apply(world(net.known, net.policies()))
    other = "clsact" if mode == "tcx" else "tcx"
    with KernelDatapath(pin_dir, small_specs(), attach=other) as second:  # type: ignore[arg-type]
        assert second.attached() == {pod.ifindex for pod in net.pods}
        links = list((pin_dir / "links").iterdir())
        assert len(links) == (4 if other == "tcx" else 0)
        device = net.pods[0].host_device
        shown = net.node.run("tc", "filter", "show", "dev", device, "egress").stdout
        assert ("to_pod" in shown) is (other == "clsact")
        before = second.metrics().get((Reason.ALLOWED, OUT), (0, 0))[0]
        with net.udp_pair(False, ALLOWED_PORT) as (client, server):
            client.send(b"x")
            assert server.recv(1) == b"x"
        assert second.metrics()[Reason.ALLOWED, OUT][0] == before + 1, "judged once"
        assert net.count(Reason.ALLOWED, OUT) == 0, "by no other"


def test_foreign_filters_stay(net: Net, mode: str) -> None:
    """Another program's filter of our kind at our priority is neither replaced nor removed."""
    from reconciler.datapath.objects import Programs, check, lib

    device = net.pods[0]
    foreign = Programs.load({})
    check(lib.rk_tc_attach(foreign.to_pod, device.ifindex, False, 7, 1), "attach", "foreign")
    foreign.close()
    net.datapath.attach(device.ifindex)
    net.datapath.detach(device.ifindex)
    shown = net.node.run("tc", "filter", "show", "dev", device.host_device, "ingress").stdout
    assert "to_pod" in shown
    assert "from_pod" not in shown


def test_namespaces_are_gone_with_their_process() -> None:
    with Namespace() as space:
        pid = space.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    holder = subprocess.Popen(
        ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert holder.stdin is not None
    holder.stdin.close()  # what the kernel does when the test is killed
    assert holder.wait(10) == 0
