"""`reconciler xds get|watch`: what any xDS server serves; to xDS what grpcurl is to gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer

from reconciler.commands.output import FAILED, Format, emit, emit_value, with_json
from reconciler.commands.xds_access import Access, with_structs
from reconciler.config import address_of
from reconciler.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from reconciler.probe.client import Stream
    from reconciler.probe.follow import Follower
    from reconciler.probe.frames import Item, Request, Response

SETTLE_SECONDS: Final = 0.25
"""`get` of everything: how long nothing must come until what came is all. A server may split it
into several responses, and no field says which of them is the last."""

Output = Annotated[Format, typer.Option("-o", "--output", help="table, yaml or json.")]
Wait = Annotated[
    float, typer.Option("--wait", help="Seconds to wait; SotW can't say that a name is absent.")
]
Count = Annotated[int, typer.Option("--count", help="End after so many responses; 0: never.")]


class Ask(Access, frozen=True):
    """What both commands ask, and of whom; its fields are their options."""

    names: Annotated[
        list[str] | None, typer.Argument(help="Names of resources, or *; none: everything.")
    ] = None
    type: Annotated[
        str, typer.Option("--type", help="CDS, EDS, LDS, RDS, ..., a message's name or a type URL.")
    ] = "CDS"
    server: Annotated[
        str,
        typer.Option("--server", envvar="RECONCILER_XDS_SERVER", help="host:port or unix:PATH."),
    ] = "127.0.0.1:18000"
    sotw: Annotated[bool, typer.Option("--sotw", help="State of the world, not delta.")] = False
    own: Annotated[
        bool, typer.Option("--own", help="The type's own service, not the aggregated one.")
    ] = False
    node: Annotated[str, typer.Option("--node", help="Node id to ask as.")] = "reconciler-probe"
    cluster: Annotated[str, typer.Option("--cluster", help="The node's cluster.")] = ""
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", help="The node's metadata: KEY=VALUE, or KEY:=JSON."),
    ] = None
    feature: Annotated[
        list[str] | None, typer.Option("--feature", help="A client feature to claim.")
    ] = None
    nack: Annotated[
        str | None, typer.Option("--nack", help="Refuse every response, with this reason.")
    ] = None
    have: Annotated[
        list[str] | None,
        typer.Option("--have", help="NAME=VERSION that is held already (delta); VERSION (SotW)."),
    ] = None


def register(app: typer.Typer) -> None:
    app.command("get", help="Print what a server serves.")(with_json(with_structs(_get)))
    app.command("watch", help="Print each response of a server, until Ctrl-C.")(
        with_json(with_structs(_watch))
    )


def _get(ask: Ask, wait: Wait = 5.0, output: Output = Format.YAML) -> None:
    held, absent = asyncio.run(_collect(ask, wait))
    rows = [shown(item) for item in held]
    if output is Format.TABLE:
        emit(rows, (("name", _cell("name")), ("version", _cell("version"))), output)
    else:
        emit_value(rows, output)
    if absent:
        typer.echo(f"reconciler: not there: {', '.join(absent)}", err=True)
        raise typer.Exit(FAILED)


def _watch(ask: Ask, count: Count = 0, output: Output = Format.YAML) -> None:
    asyncio.run(_follow(ask, count, output))


def _cell(name: str) -> Any:
    return lambda row: row[name]


def _metadata(given: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key.strip(":"):
            raise ConfigError(f"--metadata {each}: expected KEY=VALUE or KEY:=JSON")
        if not key.endswith(":"):
            found[key] = value
            continue
        try:
            found[key[:-1]] = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise ConfigError(f"--metadata {each}: {error}") from None
    return found


# ------------------------------------------------------------------------------------ the stream


@asynccontextmanager
async def _opened(ask: Ask) -> AsyncIterator[tuple[Stream, Follower]]:
    """A stream on which the first request has been sent."""
    from reconciler.probe.follow import Follower
    from reconciler.probe.services import AGGREGATED, Variant, own_service, type_url_of

    variant = Variant.SOTW if ask.sotw else Variant.DELTA
    type_url = type_url_of(ask.type)
    service = own_service(type_url) if ask.own else AGGREGATED
    follower = Follower(type_url, variant)
    first = _first(ask, follower)
    client = ask.clients(address_of(ask.server, "--server"))
    async with client() as connection:
        stream = connection.open(service, variant)
        try:
            await stream.send(first)
            yield stream, follower
        finally:
            await stream.close()


def _first(ask: Ask, follower: Follower) -> Request:
    from reconciler.probe.frames import Item, Node

    node = Node(ask.node, ask.cluster, _metadata(ask.metadata or ()), tuple(ask.feature or ()))
    names, have = ask.names or (), ask.have or []
    if ask.sotw:
        if len(have) > 1:
            raise ConfigError("--have: in SotW there is one version of all")
        return follower.first(names, node=node, version="".join(have))
    held = {}
    for each in have:
        name, equals, version = each.rpartition("=")
        if not equals:
            raise ConfigError(f"--have {each}: expected NAME=VERSION")
        held[name] = Item(name, version, None)
    return follower.first(names, node=node, held=held)


async def _collect(ask: Ask, seconds: float) -> tuple[list[Item], tuple[str, ...]]:
    """What is served, by name, and which names are not there."""
    from reconciler.probe.frames import Response

    async with _opened(ask) as (stream, follower):
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        answered = False
        while follower.missing() or follower.wildcard or not answered:
            left = end - loop.time()
            if answered and follower.wildcard:
                left = min(left, SETTLE_SECONDS)
            found = await stream.receive(max(left, 0.0))
            if found is None:
                break
            if not isinstance(found, Response):
                raise UnavailableError(f"{ask.server}: {found}")
            await stream.send(_answer(ask, follower, found))
            answered = True
        if not answered and not follower.held:
            raise UnavailableError(f"{ask.server}: no response in {seconds:g} s")
        await _sent(stream)
        absent = (*follower.missing(), *sorted(follower.absent))
        return sorted(follower.held.values(), key=lambda item: item.name), absent


async def _follow(ask: Ask, count: int, form: Format) -> None:
    if form not in (Format.YAML, Format.JSON):
        raise ConfigError(f"-o {form}: this command prints yaml and json")
    from reconciler.probe.frames import Response

    seen = 0
    async with _opened(ask) as (stream, follower):
        while not count or seen < count:
            found = await stream.receive()
            if not isinstance(found, Response):
                raise UnavailableError(f"{ask.server}: {found}")
            await stream.send(_answer(ask, follower, found))
            seen += 1
            _print(found, form)
        await _sent(stream)


async def _sent(stream: Stream) -> None:
    """Until the server has ended the stream, or for a moment: cancelling may lose the answer."""
    await stream.half_close()
    await stream.receive(SETTLE_SECONDS)


def _answer(ask: Ask, follower: Follower, found: Response) -> Request:
    follower.received(found)
    return follower.ack() if ask.nack is None else follower.nack(ask.nack)


# --------------------------------------------------------------------------------------- output


def shown(item: Item) -> dict[str, Any]:
    """A resource for people: SotW says no version, a heartbeat has no resource."""
    from reconciler.probe.messages import plain

    row: dict[str, Any] = {"name": item.name, "version": item.version}
    if item.ttl is not None:
        row["ttl"] = f"{item.ttl:g}s"
    if item.body is not None:
        row["resource"] = plain(item.body)
    return row


def _print(response: Response, form: Format) -> None:
    value: dict[str, Any] = {
        "type": response.type_url,
        "nonce": response.nonce,
        "version": response.version,
        "resources": [shown(item) for item in response.items],
    }
    if response.removed:
        value["removed"] = list(response.removed)
    if response.unnamed:
        value["unnamed"] = list(response.unnamed)
    if form is Format.JSON:
        print(msgspec.json.encode(value).decode(), flush=True)
    else:
        print("---\n" + msgspec.yaml.encode(value).decode(), end="", flush=True)
