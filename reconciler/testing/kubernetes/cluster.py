"""etcd and a kube-apiserver on this machine's loopback, for one test session or one demo.

    with Cluster() as cluster:
        cluster.kubeconfig()                        # path; an administrator's
        cluster.kubeconfig("reconciler", groups=("system:authenticated",))   # under RBAC
        cluster.kill_apiserver(); cluster.start_apiserver()

Authorization (Node, RBAC), admission (the API server's defaults and NodeRestriction), service
account tokens (TokenRequest and TokenReview, bound to pods and nodes) and the watch cache are as in
a real cluster. Nothing else runs: there is no controller, scheduler or kubelet, so a namespace has
no service account `default` until somebody makes it, and one that is deleted waits for somebody who
finalizes it; the tests' helpers do what controllers would.

Ports are free ones, kept over restarts. Everything is in a folder that `stop` removes; the two
processes end with this one.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import re
import shutil
import signal
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from reconciler.errors import UnavailableError
from reconciler.testing.kubernetes import binaries, pki
from reconciler.testing.process import Process

ISSUER: Final = "https://kubernetes.default.svc"
"""Of service account tokens, and the audience of those that ask for none."""

ADVERTISED: Final = "192.0.2.1"
"""In the EndpointSlice default/kubernetes, where no loopback address may be; nothing goes there."""

ADMIN_GROUP: Final = "system:masters"
START_SECONDS: Final = 90.0
POLL_SECONDS: Final = 0.05

_PREFIX: Final = "reconciler-cluster-"

_LARGE: Final = {"GOGC": "300"}

_ETCD_FLAGS: Final = (
    "--name=test",
    "--unsafe-no-fsync",
    "--log-level=warn",
    "--logger=zap",
    "--quota-backend-bytes=4294967296",
    # So that bookmarks of quiet kinds move; installers of clusters set 5 s
    "--experimental-watch-progress-notify-interval=1s",
)


class Cluster:
    """Started by `start` or `with`; blocking, since nothing can be done before it stands.

    apiserver_flags: further flags, after those that are always set
    large:           for thousands of objects: the API server spends memory rather than time on its
                     garbage (some 2 GB for 20,000 pods)

    ConfigError: a program is missing
    """

    def __init__(self, *, apiserver_flags: Sequence[str] = (), large: bool = False) -> None:
        self._flags = tuple(apiserver_flags)
        self._environment = _LARGE if large else {}
        self._programs = binaries.etcd(), binaries.apiserver()
        self._folder: Path | None = None
        self._etcd: Process | None = None
        self._apiserver: Process | None = None

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -------------------------------------------------------------------------- start and stop

    def start(self) -> None:
        """UnavailableError with the end of a log: it did not get ready in time."""
        sweep()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        try:
            self._authority = pki.Authority(self._folder)
            self._port, self._etcd_port, self._peer_port = _free_ports(3)
            self._admin = self._tls(*self._authority.client("test-admin", (ADMIN_GROUP,)))
            self.start_etcd()
            self.start_apiserver()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both processes and remove the folder; what isn't there is no error."""
        for process in (self._apiserver, self._etcd):
            if process is not None:
                process.end(signal.SIGKILL)  # nothing of it is wanted any more
        self._apiserver = self._etcd = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None

    def start_etcd(self) -> None:
        folder = self.folder
        client, peer = (f"http://127.0.0.1:{p}" for p in (self._etcd_port, self._peer_port))
        self._etcd = Process(
            [
                str(self._programs[0]),
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=test={peer}",
                *_ETCD_FLAGS,
            ],
            folder / "etcd.log",
        )
        self._wait(self._etcd, self.revision)

    def start_apiserver(self) -> None:
        """Also after `kill_apiserver`: same port, same keys, same objects."""
        folder = self.folder
        self._apiserver = Process(
            [
                str(self._programs[1]),
                f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
                "--bind-address=127.0.0.1",
                f"--secure-port={self._port}",
                f"--advertise-address={ADVERTISED}",
                "--service-cluster-ip-range=10.96.0.0/16",
                f"--cert-dir={folder}",
                f"--tls-cert-file={folder / 'apiserver.crt'}",
                f"--tls-private-key-file={folder / 'apiserver.key'}",
                f"--client-ca-file={self._authority.ca}",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                f"--service-account-issuer={ISSUER}",
                f"--service-account-key-file={folder / 'tokens.pub'}",
                f"--service-account-signing-key-file={folder / 'tokens.key'}",
                "--shutdown-delay-duration=0s",
                *self._flags,
            ],
            folder / "kube-apiserver.log",
            environment=self._environment,
        )
        self._wait(self._apiserver, self._ready)

    def kill_apiserver(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it without a word, or with another signal."""
        assert self._apiserver is not None
        self._apiserver.end(number)

    def pause_apiserver(self) -> None:
        """It answers nothing, and its connections stay open."""
        assert self._apiserver is not None
        self._apiserver.signal(signal.SIGSTOP)

    def resume_apiserver(self) -> None:
        assert self._apiserver is not None
        self._apiserver.signal(signal.SIGCONT)

    # ------------------------------------------------------------------------------ who and where

    @property
    def folder(self) -> Path:
        """Keys, kubeconfigs, logs; gone after `stop`."""
        if self._folder is None:
            raise UnavailableError("the test cluster is not started")
        return self._folder

    @property
    def port(self) -> int:
        """Of the API server, on 127.0.0.1."""
        return self._port

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    @property
    def apiserver_pid(self) -> int:
        assert self._apiserver is not None
        return self._apiserver.pid

    @property
    def ca(self) -> Path:
        return self._authority.ca

    def kubeconfig(
        self,
        user: str = "test-admin",
        groups: Sequence[str] = (ADMIN_GROUP,),
        *,
        lasts: datetime.timedelta = datetime.timedelta(days=1),
    ) -> str:
        """Path of a kubeconfig with a new client certificate; `lasts` may be short, or past."""
        certificate, key = self._authority.client(user, groups, lasts)
        text = pki.kubeconfig(self.url, self.ca.read_bytes(), certificate, key)
        name = re.sub(r"[^a-zA-Z0-9.-]", "_", user)
        with tempfile.NamedTemporaryFile(
            "w", dir=self.folder, prefix=f"{name}-", suffix=".kubeconfig", delete=False
        ) as file:
            file.write(text)
        return file.name

    # --------------------------------------------------------------------------------------- etcd

    def revision(self) -> int:
        """etcd's revision, which resourceVersions are."""
        return int(self._etcd_call("maintenance/status", {})["header"]["revision"])

    def compact(self) -> int:
        """Forget all history in etcd before now; returns the revision."""
        revision = self.revision()
        self._etcd_call("kv/compaction", {"revision": str(revision), "physical": True})
        return revision

    def _etcd_call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._etcd_port, timeout=10)
        try:
            connection.request("POST", f"/v3/{method}", json.dumps(body))
            response = connection.getresponse()
            said = response.read()
            if response.status != 200:
                raise UnavailableError(f"etcd: {method}: {response.status} {said[:500]!r}")
            answer: dict[str, Any] = json.loads(said)
            return answer
        finally:
            connection.close()

    # ------------------------------------------------------------------------------------ waiting

    def get(self, path: str) -> bytes:
        """A GET as the administrator, on a connection of its own; for the harness itself."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=10, context=self._admin
        )
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            said = response.read()
            if response.status != 200:
                raise UnavailableError(f"GET {path}: {response.status} {said[:500]!r}")
            return said
        finally:
            connection.close()

    def _ready(self) -> None:
        """Serves, and has made the objects that it makes itself."""
        self.get("/readyz")
        self.get("/api/v1/namespaces/default")
        self.get("/api/v1/namespaces/kube-system")
        self.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")

    def _wait(self, process: Process, check: Callable[[], object]) -> None:
        """Until `check` raises nothing. There is no event to wait for: it is another program."""
        end = time.monotonic() + START_SECONDS
        while True:
            process.check()
            try:
                check()
                return
            except (OSError, http.client.HTTPException, UnavailableError) as error:
                if time.monotonic() > end:
                    raise UnavailableError(
                        f"{process.name}: not ready after {START_SECONDS:.0f} s: {error}\n"
                        + process.tail()
                    ) from error
            time.sleep(POLL_SECONDS)

    def _tls(self, certificate: bytes, key: bytes) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._authority.ca))
        with tempfile.NamedTemporaryFile(dir=self.folder) as file:
            file.write(certificate + key)
            file.flush()
            context.load_cert_chain(file.name)
        return context


def sweep() -> None:
    """Remove folders of processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. Found all at once, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [made.getsockname()[1] for made in sockets]
    finally:
        for made in sockets:
            made.close()
