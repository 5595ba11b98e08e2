"""Real connections inside a topology: servers on every pod, a matrix of attempts, lasting flows.

A socket belongs to the namespace that its thread was in when it was made, for ever. So one thread
with a selector serves all pods, and one caller attempts from all of them at once; no process has to
be started anywhere. Drops are silent, so an attempt fails by its time running out: everything that
is tried is tried at the same time, and what got no answer is tried once more, since a busy machine
may lose a packet and the policy would drop both.
"""

from __future__ import annotations

import contextlib
import errno
import resource
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from reconciler.testing.topology import Topology

ATTEMPT_SECONDS: Final = 0.25
AT_ONCE: Final = 800  # attempts under way: bounded by descriptors, and by what a machine answers
_MESSAGE: Final = struct.Struct(">IQ")  # flow, sequence number
_KINDS: Final = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}


class Way(msgspec.Struct, frozen=True, order=True):
    """source, destination: pod ("namespace/pod") or an address of the world."""

    source: str
    destination: str
    protocol: str
    port: int
    family: int = socket.AF_INET


class FlowReport(msgspec.Struct, frozen=True):
    """One flow. lost: sent and never answered; arrived: at the other end, by sequence number;
    longest: seconds between two answers."""

    way: Way
    sent: int
    answered: int
    arrived: int
    lost: int
    longest: float
    failure: str = ""


class _Flow:
    def __init__(self, number: int, way: Way, sock: socket.socket) -> None:
        self.number = number
        self.way = way
        self.socket = sock
        self.sent = 0
        self.answered: set[int] = set()
        self.buffer = b""
        self.last = time.monotonic()
        self.longest = 0.0
        self.failure = ""


class Traffic:
    """Servers and flows in one background thread, while in the context."""

    def __init__(
        self, topology: Topology, ports: Iterable[tuple[str, int]], *, period: float = 0.005
    ) -> None:
        """ports: ("TCP" | "UDP", number), open on every pod and on the world's addresses.

        period: seconds between two messages of a flow
        """
        self._topology = topology
        self._ports = tuple(dict.fromkeys(ports))
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._running = False
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._flows: dict[int, _Flow] = {}
        self._next_flow = 1
        self._arrived: Counter[int] = Counter()
        self._period = period

    def __enter__(self) -> Traffic:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
        for name in (*(pod.name for pod in self._topology.spec.pods), "world"):
            with self._topology.namespaces[name].entered():
                for protocol, port in self._ports:
                    self._serve(protocol, port)
        self._running = True
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):  # servers, what they accepted, flows
                key.fileobj.close()
        self._selector.close()

    def _serve(self, protocol: str, port: int) -> None:
        sock = socket.socket(socket.AF_INET6, _KINDS[protocol])
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        if protocol == "UDP":  # answer from the address that was asked
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        sock.bind(("::", port))
        if protocol == "TCP":
            sock.listen(1024)
        kind = self._accept if protocol == "TCP" else self._answer_datagrams
        self._selector.register(sock, selectors.EVENT_READ, kind)

    # ------------------------------------------------------------------------- the thread

    def _run(self) -> None:
        due = time.monotonic()
        while self._running:
            wait = due - time.monotonic()
            for key, _ in self._selector.select(max(0.0, wait)):
                key.data(key.fileobj)
            now = time.monotonic()
            if now >= due:
                with self._lock:
                    flows = list(self._flows.values())
                for flow in flows:
                    self._send(flow)
                due = max(due + self._period, now - 0.05)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                sock, _ = listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                buffer = bytearray()
                self._selector.register(
                    sock, selectors.EVENT_READ, lambda sock, buffer=buffer: self._echo(sock, buffer)
                )

    def _echo(self, sock: socket.socket, buffer: bytearray) -> None:
        try:
            data = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(sock)
            sock.close()
            return
        buffer += data
        whole = len(buffer) // _MESSAGE.size * _MESSAGE.size
        for number, _ in _MESSAGE.iter_unpack(buffer[:whole]):
            self._arrived[number] += 1
        with contextlib.suppress(OSError):
            sock.sendall(bytes(buffer[:whole]))
        del buffer[:whole]

    def _answer_datagrams(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                data, ancillary, _, sender = sock.recvmsg(2048, 256)
            except OSError:
                return
            if len(data) == _MESSAGE.size:
                self._arrived[_MESSAGE.unpack(data)[0]] += 1
            with contextlib.suppress(OSError):
                sock.sendmsg([data], [one for one in ancillary if _is_source(one)], 0, sender)

    # ------------------------------------------------------------------------------ flows

    def flow(self, way: Way) -> int:
        """Begin a flow, a message each period, each answered by an echo. Its number is its name in
        `report`. TCP: connected first; OSError if that fails."""
        sock = self._socket(way)
        if way.protocol == "TCP":
            sock.settimeout(5)
            sock.connect((self._target(way), way.port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            sock.connect((self._target(way), way.port))
        sock.setblocking(False)
        with self._lock:
            flow = _Flow(self._next_flow, way, sock)
            self._next_flow += 1
            self._flows[flow.number] = flow
        self._selector.register(sock, selectors.EVENT_READ, lambda _: self._collect(flow))
        return flow.number

    def _send(self, flow: _Flow) -> None:
        if flow.failure:
            return
        try:
            flow.socket.send(_MESSAGE.pack(flow.number, flow.sent))
        except (BlockingIOError, ConnectionRefusedError, PermissionError):
            pass  # counted as sent: it has no answer
        except OSError as error:
            if error.errno not in (errno.EHOSTUNREACH, errno.ENETUNREACH):
                flow.failure = str(error)
                return
        flow.sent += 1

    def _collect(self, flow: _Flow) -> None:
        try:
            data = flow.socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            if flow.way.protocol == "TCP":
                flow.failure = flow.failure or str(error)
                self._selector.unregister(flow.socket)
            return
        if not data and flow.way.protocol == "TCP":
            flow.failure = flow.failure or "the other end closed"
            self._selector.unregister(flow.socket)
            return
        flow.buffer += data
        whole = len(flow.buffer) // _MESSAGE.size * _MESSAGE.size
        for _, sequence in _MESSAGE.iter_unpack(flow.buffer[:whole]):
            flow.answered.add(sequence)
        flow.buffer = flow.buffer[whole:]
        now = time.monotonic()
        flow.longest = max(flow.longest, now - flow.last)
        flow.last = now

    def stop_flows(self, settle: float = 0.5) -> list[FlowReport]:
        """Send no more, wait for answers that are on their way, and report every flow."""
        with self._lock:
            flows, self._flows = list(self._flows.values()), {}
        end = time.monotonic() + settle
        pause = threading.Event()
        while time.monotonic() < end and any(
            len(flow.answered) < flow.sent and not flow.failure for flow in flows
        ):
            pause.wait(0.01)
        reports = []
        for flow in flows:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(flow.socket)
            flow.socket.close()
            reports.append(
                FlowReport(
                    way=flow.way,
                    sent=flow.sent,
                    answered=len(flow.answered),
                    arrived=self._arrived[flow.number],
                    lost=flow.sent - len(flow.answered),
                    longest=flow.longest,
                    failure=flow.failure,
                )
            )
        return reports

    def answered(self) -> dict[int, int]:
        """Answers so far of each running flow."""
        with self._lock:
            return {number: len(flow.answered) for number, flow in self._flows.items()}

    # ----------------------------------------------------------------------------- matrix

    def matrix(
        self, ways: Sequence[Way], *, seconds: float = ATTEMPT_SECONDS, attempts: int = 2
    ) -> dict[Way, bool]:
        """Which ways pass: a TCP connection that is set up (or refused by its receiver), a
        datagram that is answered."""
        passed = dict.fromkeys(ways, False)
        for _ in range(attempts):
            left = [way for way, ok in passed.items() if not ok]
            for start in range(0, len(left), AT_ONCE):
                for way in self._attempt(left[start : start + AT_ONCE], seconds):
                    passed[way] = True
        return passed

    def _attempt(self, ways: Sequence[Way], seconds: float) -> set[Way]:
        selector = selectors.DefaultSelector()
        passed: set[Way] = set()
        opened: list[socket.socket] = []
        try:
            for way in ways:
                sock = self._socket(way)
                opened.append(sock)
                sock.setblocking(False)
                stream = way.protocol == "TCP"
                status = sock.connect_ex((self._target(way), way.port))
                if status not in (0, errno.EINPROGRESS):
                    continue
                if not stream:
                    with contextlib.suppress(OSError):
                        sock.send(b"?")
                selector.register(
                    sock, selectors.EVENT_WRITE if stream else selectors.EVENT_READ, way
                )
            end = time.monotonic() + seconds
            while selector.get_map() and (left := end - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    ready = key.fileobj
                    assert isinstance(ready, socket.socket)
                    selector.unregister(ready)
                    if _got_through(ready, key.data):
                        passed.add(key.data)
        finally:
            selector.close()
            for sock in opened:
                with contextlib.suppress(OSError):  # no FIN to wait for
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
        return passed

    def _socket(self, way: Way) -> socket.socket:
        sock = self._topology.namespace_of(way.source).socket(way.family, _KINDS[way.protocol])
        if way.source in self._topology.spec.world:
            sock.bind((way.source, 0))
        return sock

    def _target(self, way: Way) -> str:
        return self._topology.address(way.destination, way.family)


def _got_through(sock: socket.socket, way: Way) -> bool:
    if way.protocol == "TCP":
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNREFUSED)
    try:
        return bool(sock.recv(64))
    except ConnectionRefusedError:
        return True  # an ICMP error of the receiver: the datagram got there
    except OSError:
        return False


def _is_source(ancillary: tuple[int, int, bytes]) -> bool:
    level, kind, _ = ancillary
    return (level, kind) in ((socket.IPPROTO_IPV6, socket.IPV6_PKTINFO), (socket.IPPROTO_IP, 8))
