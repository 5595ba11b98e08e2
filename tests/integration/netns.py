"""Network namespaces and veths for tests: a node and its pods, gone with the test however it ends.

A namespace is held by a process that reads its standard input: it ends when the test closes the
pipe, and also when the test is killed, because then the kernel closes it. Devices go with their
namespace, so nothing has a name that another test could meet, and nothing is left to clean up.
The node routes to each pod as a CNI plug-in does: one /32 and /128 route for each host side device,
whose gateway addresses (169.254.1.1, fe80::1) are the same on all of them.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll until it holds; fails after `seconds`."""
    end = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        pause.wait(0.002)


class Namespace:
    """A network namespace, alive until `close`."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"ready\n")
        self._holder.stdin.flush()
        if self._holder.stdout.readline() != b"ready\n":
            self.close()
            raise OSError("no network namespace: unshare failed")
        self.pid = self._holder.pid
        self._fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread inside the namespace: what it opens belongs there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self._fd)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command],
            capture_output=True,
            text=True,
            timeout=30,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done

    def ip(self, *lines: str) -> None:
        """Commands of ip(8), one a line."""
        done = subprocess.run(
            ["nsenter", f"--net=/proc/{self.pid}/ns/net", "ip", "-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=30,
        )
        if done.returncode:
            raise AssertionError(f"ip: {done.stderr}")

    def sysctl(self, name: str, value: str) -> None:
        with self.entered():
            Path("/proc/sys/net", *name.split("/")).write_text(value)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        with self.entered():
            made = socket.socket(family, kind, protocol)
        made.settimeout(10)
        return made

    def close(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)
            del self._fd
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                stream.close()
        self._holder.wait(10)

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pod(Namespace):
    """One pod: its namespace, its addresses, and the index of its device on the node."""

    ipv4: str
    ipv6: str
    ifindex: int
    host_device: str


@contextmanager
def node_with_pods(count: int) -> Iterator[tuple[Namespace, list[Pod]]]:
    """A node that routes between `count` pods 10.77.0.<10 + i>, fd77::<10 + i>."""
    with ExitStack() as stack:
        node = stack.enter_context(Namespace())
        node.ip("link set lo up")
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            node.sysctl(name, "1")
        pods = []
        for number in range(count):
            pod = Pod()
            stack.callback(pod.close)
            pod.ipv4, pod.ipv6 = f"10.77.0.{10 + number}", f"fd77::{10 + number:x}"
            pod.host_device = f"pod{number}"
            node.ip(f"link add {pod.host_device} type veth peer name eth0 netns {pod.pid}")
            node.sysctl(f"ipv6/conf/{pod.host_device}/accept_dad", "0")
            node.ip(
                f"link set {pod.host_device} addrgenmode none",
                f"addr add {GATEWAY4}/32 dev {pod.host_device}",
                f"link set {pod.host_device} up",
                f"addr add {GATEWAY6}/64 dev {pod.host_device} nodad",
                f"route add {pod.ipv4}/32 dev {pod.host_device}",
                f"route add {pod.ipv6}/128 dev {pod.host_device}",
            )
            pod.sysctl("ipv6/conf/eth0/accept_dad", "0")
            pod.ip(
                "link set lo up",
                "link set eth0 up",
                f"addr add {pod.ipv4}/32 dev eth0",
                f"addr add {pod.ipv6}/128 dev eth0 nodad",
                f"route add {GATEWAY4}/32 dev eth0 scope link",
                f"route add default via {GATEWAY4} dev eth0",
                f"route add default via {GATEWAY6} dev eth0",
            )
            with node.entered():
                pod.ifindex = socket.if_nametoindex(pod.host_device)
            pods.append(pod)
        yield node, pods


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")
