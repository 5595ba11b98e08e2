"""Runs the container of a pod on this machine as the pod's specification says.

    pod = await api.create(..., the template of a Deployment)      # as the API server has it
    with Container(pod, await mounts(api, pod, ...), log=...) as running: ...

What a kubelet and a container runtime would do of it, and matters to the program: its user, its
capabilities, no new privileges, a root file system that is only read, its volumes, its environment
and its arguments. The root is this machine's, under an overlay that ends with the container; the
network is this machine's (hostNetwork). Not: seccomp, AppArmor, limits of memory and CPU. Needs
root.
"""

from __future__ import annotations

import base64
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.kubernetes.api import Api

REPOSITORY: Final = Path(__file__).parents[2]
END_SECONDS: Final = 30.0

Json = dict[str, Any]


async def mounts(api: Api, pod: Json, directory: Path, ca: Path) -> dict[str, Path]:
    """Directory of each volume by its name, as the kubelet fills it. ca: of the API server."""
    found = {}
    group = pod["spec"].get("securityContext", {}).get("fsGroup")
    for volume in pod["spec"]["volumes"]:
        at = directory / volume["name"]
        if "hostPath" in volume:
            at = Path(volume["hostPath"]["path"])
            if volume["hostPath"]["type"] == "DirectoryOrCreate":
                at.mkdir(parents=True, exist_ok=True)
            assert at.is_dir()
        elif "emptyDir" in volume:
            at.mkdir()
            os.chown(at, 0, group or 0)
            at.chmod(0o2777)
        else:
            at.mkdir()
            for name, mode, data in await _files(api, pod, volume, ca):
                (at / name).write_bytes(data)
                os.chown(at / name, 0, group or 0)
                (at / name).chmod(mode)
        found[volume["name"]] = at
    return found


async def _files(api: Api, pod: Json, volume: Json, ca: Path) -> list[tuple[str, int, bytes]]:
    """(name, mode, content) of a volume that is made of objects."""
    namespace = pod["metadata"]["namespace"]
    where = f"/api/v1/namespaces/{namespace}"
    if secret := volume.get("secret"):
        held = (await api.get(f"{where}/secrets/{secret['secretName']}"))["data"]
        mode = secret["defaultMode"]
        return [(name, mode, base64.b64decode(data)) for name, data in held.items()]
    if listed := volume.get("configMap"):
        held = (await api.get(f"{where}/configmaps/{listed['name']}"))["data"]
        return [(name, listed["defaultMode"], data.encode()) for name, data in held.items()]
    files = []
    mode = volume["projected"]["defaultMode"]
    for source in volume["projected"]["sources"]:
        if token := source.get("serviceAccountToken"):
            data = await _token(api, pod, token.get("audience"))
            files.append((token["path"], mode, data.encode()))
        elif source.get("configMap", {}).get("name") == "kube-root-ca.crt":
            # Made in every namespace by a controller that this cluster does not have
            files.append(("ca.crt", mode, ca.read_bytes()))
        else:
            (item,) = source["downwardAPI"]["items"]
            assert item["fieldRef"]["fieldPath"] == "metadata.namespace"
            files.append((item["path"], mode, namespace.encode()))
    return files


async def _token(api: Api, pod: Json, audience: str | None) -> str:
    meta, account = pod["metadata"], pod["spec"]["serviceAccountName"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
    spec: Json = {"expirationSeconds": 3600, "boundObjectRef": bound}
    if audience:
        spec["audiences"] = [audience]
    path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
    return str((await api.create(path, {"spec": spec}))["status"]["token"])


class Container:
    """The only container of a pod, started by `with`; ended with SIGTERM.

    mounts: directory of each volume; environment: beside the container's own, as of Services
    """

    def __init__(
        self,
        pod: Json,
        mounts: Mapping[str, Path],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._pod, self._mounts = pod, mounts
        (self._container,) = pod["spec"]["containers"]
        self._environment = dict(environment or {})
        self.log = directory / f"{pod['metadata']['name']}.log"
        self._root = directory / f"{pod['metadata']['name']}.root"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Container:
        self._root.mkdir(exist_ok=True)
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "sh", "-euc", self._script()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def wait(self) -> int:
        """Its exit code."""
        assert self._process is not None
        return self._process.wait(END_SECONDS)

    def end(self) -> int:
        """Ask it to end, as a kubelet does; its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self.wait()
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def status(self, field: str) -> str:
        """Of /proc/PID/status, for what the process really is."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(field))

    # ------------------------------------------------------------------------------- its root

    def _script(self) -> str:
        """Exec to the end, so that the process that was started is the program."""
        return "\n".join([*self._lay_out(), " ".join(["exec", *map(shlex.quote, self._command())])])

    def _lay_out(self) -> Iterator[str]:
        scratch, root = str(self._root), f"{self._root}/all"
        yield f"mount -t tmpfs -o mode=755 scratch {scratch}"
        yield f"mkdir {scratch}/upper {scratch}/work {root}"
        layers = f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work"
        yield f"mount -t overlay -o {layers} root {root}"
        for path in sorted(self._program()):
            if (device := os.stat(path).st_dev) == os.stat("/").st_dev:
                yield f"chmod o+x {root}{path}"  # in an image, everyone can read it
            elif os.stat(os.path.dirname(path)).st_dev != device:  # the overlay has nothing of it
                yield f"mount --bind {path} {root}{path}"
        for name in ("proc", "dev"):
            yield f"mount --rbind /{name} {root}/{name}"
        yield f"mount -t sysfs -o ro sysfs {root}/sys"
        for mount in self._container["volumeMounts"]:
            # A link on the way, as /var/run is one, would lead out of the root
            target = f"{root}{os.path.realpath(mount['mountPath'])}"
            yield f"mkdir -p {target}"
            yield f"mount --bind {self._mounts[mount['name']]} {target}"
            if mount.get("readOnly"):
                yield f"mount -o remount,ro,bind {target}"
        if self._container["securityContext"]["readOnlyRootFilesystem"]:
            yield f"mount -o remount,ro,bind {root}"

    def _program(self) -> set[str]:
        """Directories on the way to the interpreter and the package."""
        ends = {Path(sys.prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix), REPOSITORY}
        ends.add(Path(sys.executable).parent)
        return {str(path) for end in ends for path in (end, *end.parents) if path != Path("/")}

    # ---------------------------------------------------------------------------- the program

    def _command(self) -> list[str]:
        context = {**self._pod["spec"].get("securityContext", {})}
        context |= self._container["securityContext"]
        user, group = context["runAsUser"], context.get("runAsGroup", 0)
        assert not (context.get("runAsNonRoot") and user == 0)
        assert context["capabilities"]["drop"] == ["ALL"]
        kept = "".join(f",+{name.lower()}" for name in context["capabilities"].get("add", ()))
        command = ["chroot", f"{self._root}/all", "setpriv", "--pdeathsig=KILL"]
        command += [f"--reuid={user}", f"--regid={group}"]
        command += (
            [f"--groups={context['fsGroup']}"] if "fsGroup" in context else ["--clear-groups"]
        )
        command += [f"--bounding-set=-all{kept}", "--inh-caps=-all"]
        if context["allowPrivilegeEscalation"] is False:
            command += ["--no-new-privs"]
        environment = self._variables()
        command += ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        arguments = [_expanded(each, environment) for each in self._container["args"]]
        return [*command, sys.executable, "-m", "reconciler.cli", *arguments]

    def _variables(self) -> dict[str, str]:
        found = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **self._environment}
        found["PYTHONDONTWRITEBYTECODE"] = "1"
        for each in self._container.get("env", ()):
            value: Any = self._pod
            for part in each["valueFrom"]["fieldRef"]["fieldPath"].split("."):
                value = value[part]
            found[each["name"]] = value
        return found


def _expanded(text: str, environment: Mapping[str, str]) -> str:
    for name, value in environment.items():
        text = text.replace(f"$({name})", value)
    return text
