"""`reconciler cni`: a chained CNI plugin that has a pod's device attached before the pod can send.

It stands after the plugin that makes the veth pair, asks the agent over its Unix socket to attach
the host side (closed: it opens with the first cut that has the pod), and passes `prevResult`
through. Without an answer of the agent the ADD fails, and the kubelet tries again: a pod that
nobody restricts never runs.

    {"type": "reconciler-cni", "socket": "/run/reconciler/cni.sock", "waitSeconds": 0}

waitSeconds: how long ADD also waits for the pod to be enforcing; 0: only for the attachment. DEL
always succeeds, since a pod must go even when no agent is there; the agent notices the device's end
on its own, so GC has nothing to do. STATUS says ready even then: a node that is not loses its pods'
place in Services, and an agent that restarts is no reason for that.

Standard library only, and no Python newer than 3.8: this runs once for every pod, with the node's
own (`agent/cni_install.py`). Format: CNI specification 1.1.0.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, TextIO

SUPPORTED: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DEFAULT_SOCKET: Final = "/run/reconciler/cni.sock"
ANSWER_SECONDS: Final = 10.0

# Error codes of the specification; from 100 on, the plugin's own.
INCOMPATIBLE_VERSION, INVALID_ENVIRONMENT, IO_FAILURE, BAD_JSON, BAD_CONFIG = 1, 4, 5, 6, 7
TRY_AGAIN: Final = 11
NOT_ATTACHED: Final = 100


class CniError(Exception):
    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


def main(environ: Mapping[str, str], stdin: BinaryIO, stdout: TextIO) -> int:
    """Run one CNI command; the exit code."""
    version = SUPPORTED[-1]
    try:
        config = _config(stdin.read())
        version = str(config.get("cniVersion", SUPPORTED[0]))
        result = _run(environ, config, version)
    except CniError as error:
        answer = {"cniVersion": version, "code": error.code, "msg": error.message}
        if error.details:
            answer["details"] = error.details
        print(json.dumps(answer), file=stdout)
        return 1
    if result is not None:
        print(json.dumps(result), file=stdout)
    return 0


def _config(data: bytes) -> dict[str, Any]:
    try:
        config = json.loads(data)
    except ValueError as error:
        raise CniError(BAD_JSON, "the network configuration is not JSON", str(error)) from None
    if not isinstance(config, dict):
        raise CniError(BAD_JSON, "the network configuration is not an object")
    return config


def _run(
    environ: Mapping[str, str], config: Mapping[str, Any], version: str
) -> dict[str, Any] | None:
    command = environ.get("CNI_COMMAND", "")
    if command == "VERSION":
        return {"cniVersion": SUPPORTED[-1], "supportedVersions": list(SUPPORTED)}
    if version not in SUPPORTED:
        raise CniError(
            INCOMPATIBLE_VERSION, f"CNI version {version} is not one of {', '.join(SUPPORTED)}"
        )
    if command in ("STATUS", "GC"):
        return None
    if command not in ("ADD", "CHECK", "DEL"):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND {command!r} is not a command")
    if not environ.get("CNI_CONTAINERID"):
        raise CniError(INVALID_ENVIRONMENT, "CNI_CONTAINERID is not set")
    path = config.get("socket", DEFAULT_SOCKET)
    if not isinstance(path, str) or not path.startswith("/"):
        raise CniError(BAD_CONFIG, f"socket {path!r} is not an absolute path")
    request: dict[str, Any] = {
        "command": command,
        "container": environ["CNI_CONTAINERID"],
        "pod": _pod(environ.get("CNI_ARGS", "")),
    }
    if command == "DEL":
        try:
            _ask(path, request, ANSWER_SECONDS)
        except CniError:
            return None  # see the module's promise
        return None
    previous = config.get("prevResult")
    if not isinstance(previous, dict):
        raise CniError(BAD_CONFIG, "no prevResult: the plugin must be chained after another one")
    wait = config.get("waitSeconds", 0)
    if type(wait) not in (int, float) or not 0 <= wait <= 600:  # True is an int too
        raise CniError(BAD_CONFIG, f"waitSeconds {wait!r} is not a number from 0 to 600")
    request["interface"] = _host_device(previous)
    request["addresses"] = _addresses(previous)
    request["wait"] = wait
    answer = _ask(path, request, wait + ANSWER_SECONDS)
    if not answer.get("ok"):
        code = TRY_AGAIN if command == "ADD" else NOT_ATTACHED
        raise CniError(code, str(answer.get("error", "the agent refused without a reason")))
    return dict(previous) if command == "ADD" else None


def _pod(arguments: str) -> str:
    """ "namespace/name" from CNI_ARGS, as a kubelet sets them; "" where they say nothing."""
    pairs = dict(part.split("=", 1) for part in arguments.split(";") if "=" in part)
    namespace, name = pairs.get("K8S_POD_NAMESPACE"), pairs.get("K8S_POD_NAME")
    return f"{namespace}/{name}" if namespace and name else ""


def _host_device(previous: Mapping[str, Any]) -> str:
    """The one device of the result that is on the node and no bridge."""
    interfaces = previous.get("interfaces") or []
    names = [
        str(each.get("name", ""))
        for each in interfaces
        if isinstance(each, dict) and not each.get("sandbox")
    ]
    found = [
        name
        for name in names
        if name and "/" not in name and not os.path.isdir(f"/sys/class/net/{name}/bridge")
    ]
    if len(found) != 1:
        raise CniError(
            BAD_CONFIG, f"prevResult must name one host device of the pod, it has {found or 'none'}"
        )
    return found[0]


def _addresses(previous: Mapping[str, Any]) -> list[str]:
    return [
        str(each["address"]).partition("/")[0]
        for each in previous.get("ips") or []
        if isinstance(each, dict) and each.get("address")
    ]


def _ask(path: str, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """One line of JSON there, one back."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            agent.settimeout(seconds)
            agent.connect(path)
            agent.sendall(json.dumps(request).encode() + b"\n")
            with agent.makefile("rb") as lines:
                answer = json.loads(lines.readline())
    except TimeoutError:
        raise CniError(TRY_AGAIN, f"the agent did not answer within {seconds:g} s") from None
    except OSError as error:
        raise CniError(TRY_AGAIN, "the agent can't be reached", f"{path}: {error}") from None
    except ValueError:
        raise CniError(IO_FAILURE, "the agent's answer can't be read") from None
    if not isinstance(answer, dict):
        raise CniError(IO_FAILURE, "the agent's answer can't be read")
    return answer
