"""The agent's process is killed again and again under traffic; its datapath does not notice, nor
that each wants its maps of another size than the one before."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from reconciler.core.dataplane.layout import IdentityIndex, Reason
from reconciler.core.policy.ir import Direction
from tests.integration import kernel_world
from tests.integration.kernel_world import policy_entry, small_specs, world
from tests.integration.netns import Namespace, Pod, node_with_pods, wait_until
from tests.root import need_feature

pytestmark = pytest.mark.kernel

ALLOWED, DENIED = 8000, 8001
KILLS, ROUNDS = 3, 3  # kills; rounds of re-attaching and flipping between two


@contextlib.contextmanager
def agent(
    node: Namespace, pin_dir: Path, mode: str, pods: list[Pod], *, scale: int
) -> Iterator[list[str]]:
    """A process driving the datapath, killed with -9 at the end; its lines so far."""
    process = subprocess.Popen(
        [
            "nsenter",
            f"--net=/proc/{node.pid}/ns/net",
            sys.executable,
            "-m",
            "tests.integration.datapath_process",
            str(pin_dir),
            mode,
            str(scale),
            *(str(pod.ifindex) for pod in pods),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    assert process.stdout is not None

    def read_each() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())

    reader = threading.Thread(target=read_each)
    reader.start()
    try:
        yield lines
    finally:
        process.kill()
        process.wait(10)
        reader.join(10)
        process.stdout.close()


class Traffic(threading.Thread):
    """Sends numbered datagrams from one pod to another, echoed back, until stopped; and between
    every two of them one that policy forbids."""

    def __init__(self, a: Pod, b: Pod) -> None:
        super().__init__()
        self.client = a.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.forbidden = a.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server = b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.victim = b.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind((b.ipv4, ALLOWED))
        self.victim.bind((b.ipv4, DENIED))
        self.client.connect((b.ipv4, ALLOWED))
        self.forbidden.connect((b.ipv4, DENIED))
        self.answered = 0
        self.failure = ""
        self._stop_asked = threading.Event()

    def run(self) -> None:
        number = 0
        try:
            while not self._stop_asked.is_set():
                number += 1
                data = number.to_bytes(8, "big")
                self.forbidden.send(data)
                self.client.send(data)
                got, back = self.server.recvfrom(100)
                self.server.sendto(got, back)
                answer = self.client.recv(100)
                if not got == answer == data:
                    raise OSError(f"lost or reordered: sent {number}, got {got!r}, {answer!r}")
                self.answered = number
        except OSError as error:  # a timeout is a lost packet
            self.failure = f"datagram {number}: {error}"

    def progress(self) -> int:
        return self.answered

    def failed_or(self, count: Callable[[], int], past: int) -> bool:
        """Whether there is nothing left to wait for."""
        return bool(self.failure) or count() > past

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(30)

    def leaked(self) -> bool:
        self.victim.setblocking(False)
        try:
            self.victim.recv(100)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        for one in (self.client, self.forbidden, self.server, self.victim):
            one.close()


@pytest.mark.parametrize("mode", ["tcx", "clsact"])
def test_kills_lose_and_leak_nothing(pin_dir: Path, mode: str) -> None:
    from reconciler.datapath.kernel import KernelDatapath

    if mode == "tcx":
        need_feature("tcx")
    with node_with_pods(2) as (node, pods):
        known = [
            kernel_world.Pod(number, pod.ifindex, pod.ipv4, pod.ipv6)
            for number, pod in enumerate(pods)
        ]
        a, b = known
        with (
            node.entered(),
            KernelDatapath(
                pin_dir,
                small_specs(),
                attach=mode,  # type: ignore[arg-type]
            ) as first,
        ):
            for pod in pods:
                first.attach(pod.ifindex)
            allow = [
                policy_entry(a.egress, IdentityIndex.ANY, Direction.EGRESS, protocol=17),
                policy_entry(b.ingress, a.group, Direction.INGRESS, protocol=17, port=ALLOWED),
            ]
            first.apply(world(known, allow))
        traffic = Traffic(pods[0], pods[1])
        try:
            traffic.start()
            wait_until(partial(traffic.failed_or, traffic.progress, 10), "traffic")
            for kill in range(KILLS):
                with agent(node, pin_dir, mode, pods, scale=2 - kill % 2) as lines:
                    wait_until(
                        partial(traffic.failed_or, lines.__len__, ROUNDS),
                        f"{ROUNDS} rounds of an agent",
                        30,
                    )
                    assert lines[:1] == ["ready True 2"], traffic.failure
                seen = traffic.answered
                wait_until(
                    partial(traffic.failed_or, traffic.progress, seen + 100),
                    "traffic goes on without an agent",
                )
            traffic.finish()
            assert traffic.failure == ""
            assert not traffic.leaked()
        finally:
            traffic.finish()
            traffic.close()
        with (
            node.entered(),
            KernelDatapath(
                pin_dir,
                small_specs(),
                attach=mode,  # type: ignore[arg-type]
            ) as last,
        ):
            metrics = last.metrics()
            assert last.cut().revisions[last.cut().active] >= KILLS * ROUNDS
            assert metrics[Reason.NO_RULE, Direction.INGRESS][0] >= traffic.answered
            assert metrics[Reason.REPLY, Direction.INGRESS][0] == traffic.answered
            last.unpin_all()
        assert not pin_dir.exists()
