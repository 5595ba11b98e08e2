"""The kinds that the server needs, put into a cluster: `reconciler install`.

    done = await install(client)      # or dry_run=True: the API server checks, nothing is kept

Our own kinds are made, or brought to this version; kinds of others (CiliumIdentity) are made only
where they are absent, and never changed. Doing it again changes nothing. It returns when the API
server serves all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any, Final, Literal

import msgspec
import yaml

from reconciler.errors import UnavailableError
from reconciler.server.kubernetes.client import ApiClient, ApiError

PATH: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OWN_GROUP: Final = "reconciler.io"
FIELD_MANAGER: Final = "reconciler"
ESTABLISHED_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.2

Done = Literal["created", "configured", "unchanged", "kept"]


class Installed(msgspec.Struct, frozen=True):
    """What became of one definition. kept: it is another project's, and was there already."""

    name: str
    kind: str
    versions: tuple[str, ...]
    done: Done


class _Condition(msgspec.Struct, frozen=True):
    type: str
    status: str
    message: str = ""


class _Version(msgspec.Struct, frozen=True):
    name: str
    served: bool


class _Spec(msgspec.Struct, frozen=True):
    versions: tuple[_Version, ...]


class _Status(msgspec.Struct, frozen=True):
    conditions: tuple[_Condition, ...] | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    generation: int = 0


class _Definition(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec
    status: _Status = _Status()


def definitions() -> tuple[dict[str, Any], ...]:
    """The CustomResourceDefinitions of this version, by name."""
    folder = resources.files("reconciler.server.kubernetes").joinpath("crds")
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return tuple(
        yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in files
        if file.name.endswith(".yaml")
    )


async def install(
    client: ApiClient,
    *,
    dry_run: bool = False,
    seconds: float = ESTABLISHED_SECONDS,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> tuple[Installed, ...]:
    """Needs create, get and patch of CRDs (else ApiError). UnavailableError: not served in time.

    dry_run: the API server checks everything, and nothing is written
    """
    found = tuple([await _install(client, each, dry_run) for each in definitions()])
    if not dry_run:
        for each in found:
            await _wait_established(client, each.name, seconds, sleep)
    return found


async def _install(client: ApiClient, wanted: dict[str, Any], dry_run: bool) -> Installed:
    name, group = wanted["metadata"]["name"], wanted["spec"]["group"]
    there = await _get(client, name)
    params = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
    done: Done
    if there is not None and group != OWN_GROUP:
        served = {each.name for each in there.spec.versions if each.served}
        missing = [v["name"] for v in wanted["spec"]["versions"] if v["name"] not in served]
        if missing:
            raise UnavailableError(
                f"{name}: the one that is there does not serve version {', '.join(missing)}, "
                "which this program reads; it belongs to another project and was left as it is"
            )
        done = "kept"
    elif there is None and group != OWN_GROUP:
        try:
            await client.request("POST", PATH, params=params, body=msgspec.json.encode(wanted))
            done = "created"
        except ApiError as error:
            if error.status != 409:
                raise
            done = "kept"
    else:
        answer = await client.request(
            "PATCH",
            f"{PATH}/{name}",
            params={**params, "force": "true"},
            body=msgspec.json.encode(wanted),
            content_type="application/apply-patch+yaml",
        )
        new = msgspec.json.decode(answer.body, type=_Definition)
        same = there is not None and there.metadata.generation == new.metadata.generation
        done = "unchanged" if same else "configured" if there is not None else "created"
    versions = tuple(each["name"] for each in wanted["spec"]["versions"])
    return Installed(name, wanted["spec"]["names"]["kind"], versions, done)


async def _get(client: ApiClient, name: str) -> _Definition | None:
    try:
        answer = await client.request("GET", f"{PATH}/{name}")
    except ApiError as error:
        if error.status != 404:
            raise
        return None
    return msgspec.json.decode(answer.body, type=_Definition)


async def _wait_established(
    client: ApiClient, name: str, seconds: float, sleep: Callable[[float], Awaitable[None]]
) -> None:
    """Until the API server says that it serves it."""
    tries = max(1, round(seconds / POLL_SECONDS))
    conditions: dict[str, _Condition] = {}
    for _ in range(tries):
        found = await _get(client, name)
        listed = () if found is None else found.status.conditions or ()
        conditions = {each.type: each for each in listed}
        if (met := conditions.get("Established")) is not None and met.status == "True":
            return
        await sleep(POLL_SECONDS)
    names = conditions.get("NamesAccepted")
    why = names.message if names is not None and names.status == "False" else "no reason given"
    raise UnavailableError(f"{name}: not served after {seconds:.0f} s: {why}")
