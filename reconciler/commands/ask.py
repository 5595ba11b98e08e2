"""`get`, `explain`, `monitor`: questions to the status APIs of server and agent."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
import typer

from reconciler.commands.output import Column, Format, emit, emit_value, revision, with_json
from reconciler.config import AgentConfig, ServerConfig, address_of
from reconciler.errors import ConfigError, UnavailableError

SERVER_HELP: Final = "Status address of the server: unix:PATH or a loopback host:port."
AGENT_HELP: Final = "Status address of an agent: unix:PATH or a loopback host:port."
SERVER_DEFAULT: Final = ServerConfig().status
AGENT_DEFAULT: Final = AgentConfig().status
Server = Annotated[
    str, typer.Option("--server", envvar="RECONCILER_SERVER_STATUS", help=SERVER_HELP)
]
Agent = Annotated[str, typer.Option("--agent", envvar="RECONCILER_AGENT_STATUS", help=AGENT_HELP)]
Output = Annotated[Format, typer.Option("-o", "--output", help="Form of the output.")]


class Kind(enum.StrEnum):
    IDENTITIES = "identities"
    GROUPS = "groups"
    POLICIES = "policies"
    ENDPOINTS = "endpoints"
    NODES = "nodes"
    STATUS = "status"


def _field(name: str) -> Any:
    return lambda row: row[name]


COLUMNS: Final[Mapping[Kind, tuple[Column, ...]]] = {
    Kind.IDENTITIES: (
        ("number", _field("number")),
        ("birth", _field("birth")),
        ("phase", _field("phase")),
        ("groups", _field("groups")),
        ("pods", _field("pods")),
        ("labels", lambda row: row["label_set"].rstrip(";").replace(";", " ")),
    ),
    Kind.GROUPS: (
        ("namespace", _field("namespace")),
        ("group", lambda row: row["name"].rpartition("/")[2][:12]),
        ("identity", lambda row: row["number"] or None),
        ("pods", _field("pods")),
        ("labels", lambda row: " ".join(row["labels"])),
    ),
    Kind.POLICIES: (
        ("namespace", _field("namespace")),
        ("name", _field("name")),
        ("ingress", _field("ingress")),
        ("egress", _field("egress")),
        ("rules", _field("rules")),
        ("groups", _field("subjects")),
        ("state", _field("state")),
        ("problems", lambda row: "; ".join(row["problems"])),
    ),
    Kind.ENDPOINTS: (
        ("namespace", _field("namespace")),
        ("pod", _field("pod")),
        ("node", _field("node")),
        ("ipv4", _field("ipv4")),
        ("ipv6", _field("ipv6")),
        ("identity", lambda row: row["number"] or None),
    ),
    Kind.NODES: (
        ("name", _field("name")),
        ("state", _field("state")),
        ("rollout", _field("rollout")),
        ("committed", lambda row: revision(row["committed"])),
        ("endpoints", _field("endpoints")),
        ("sent", lambda row: f"{row['sent_bytes']} B"),
        ("reason", lambda row: row["nack"] or "; ".join(row["alarms"])),
    ),
}
_OF_AGENT: Final[tuple[Column, ...]] = (
    ("pod", lambda row: f"{row['namespace']}/{row['pod']}" if row["pod"] else None),
    ("interface", _field("interface")),
    ("ifindex", _field("ifindex")),
    ("ipv4", _field("ipv4")),
    ("ipv6", _field("ipv6")),
    ("identity", lambda row: row["number"] or None),
    ("state", _field("state")),
)


def register(app: typer.Typer) -> None:
    app.command("get", help="List what the server (or an agent) knows.")(with_json(_get))
    app.command("explain", help="Say why a connection passes or falls, on both sides.")(
        with_json(_explain)
    )
    app.command("monitor", help="Show an agent's verdicts as they happen.")(with_json(_monitor))


def query(address: str, path: str, params: Mapping[str, str] | None = None) -> Any:
    """What a status API answers, decoded."""
    return asyncio.run(aquery(address, path, params))


async def aquery(address: str, path: str, params: Mapping[str, str] | None = None) -> Any:
    from reconciler.local import Client

    return msgspec.json.decode(await Client(address_of(address)).get(path, params))


def _get(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    output: Output = Format.TABLE,
    namespace: Annotated[str, typer.Option("-n", "--namespace", help="Only this one's.")] = "",
    server: Server = SERVER_DEFAULT,
    agent: Annotated[
        str | None,
        typer.Option("--agent", help=AGENT_HELP + " With it: `status` and `endpoints` of a node."),
    ] = None,
) -> None:
    if agent is not None and kind not in (Kind.STATUS, Kind.ENDPOINTS):
        raise ConfigError(f"an agent has no {kind}, only status and endpoints")
    found = query(agent or server, f"/v1/{kind}")
    if kind is Kind.STATUS:
        emit_value(found, Format.YAML if output is Format.TABLE else output)
        return
    if namespace:
        found = [row for row in found if row.get("namespace") == namespace]
    emit(found, COLUMNS[kind] if agent is None else _OF_AGENT, output)


def _explain(
    source: Annotated[str, typer.Option("--from", help="namespace/pod or an address.")],
    destination: Annotated[str, typer.Option("--to", help="namespace/pod or an address.")],
    port: Annotated[str, typer.Option("--port", help="As 80/tcp, 53/udp or icmp.")] = "80/tcp",
    node: Annotated[
        bool, typer.Option("--node", help="Ask the agent's kernel too, with a probe packet.")
    ] = False,
    output: Output = Format.TABLE,
    server: Server = SERVER_DEFAULT,
    agent: Agent = AGENT_DEFAULT,
) -> None:
    from reconciler.core.verdicts import parse_probes

    try:
        (probe,) = parse_probes(port)
    except ValueError as error:
        raise ConfigError(f"--port: {error}") from None
    numbers = {"protocol": str(probe.number), "port": str(probe.port)}
    said = query(server, "/v1/explain", {"from": source, "to": destination, **numbers})
    kernel = None
    if node:
        ends = {"from": said["source"]["address"], "to": said["destination"]["address"]}
        kernel = query(agent, "/v1/probe", {**ends, **numbers})
    if output is not Format.TABLE:
        emit_value(said if kernel is None else {**said, "kernel": kernel}, output)
        return
    for line in explained(said, str(probe), kernel):
        print(line)


def explained(said: Mapping[str, Any], probe: str, kernel: Mapping[str, Any] | None) -> list[str]:
    """An explanation as lines for people."""
    lines = []
    for title, end in (("from", said["source"]), ("to", said["destination"])):
        number = f"identity {end['number']}"
        node = f" on {end['node']}" if end["node"] else ""
        lines.append(f"{title:<5} {end['name']} ({end['address']}, {number}{node})")
        if end["labels"]:
            lines.append(f"      {' '.join(end['labels'])}")
    allowed = True
    for title in ("egress", "ingress"):
        side = said[title]
        if side is None:
            lines.append(f"{title:<8} not a pod of this cluster: nothing restricts this side")
            continue
        allowed = allowed and side["verdict"] == "allow"
        lines.append(f"{title:<8} {side['verdict']}: {side['reason']}")
        lines += [f"         {origin}" for origin in side["origins"]]
    lines.append(f"verdict  {probe}: {'allow' if allowed else 'deny'}")
    if kernel is not None:
        for title in ("egress", "ingress"):
            side = kernel[title]
            text = "the pod is not on this node" if side is None else f"{side['reason']} (probe)"
            lines.append(f"kernel   {title}: {text}")
    return lines


def _monitor(
    drops: Annotated[bool, typer.Option("--drops", help="Only packets that fell.")] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="table or json.")] = Format.TABLE,
    agent: Agent = AGENT_DEFAULT,
    server: Server = SERVER_DEFAULT,
) -> None:
    try:
        asyncio.run(_watch(agent, server, drops, output))
    except KeyboardInterrupt:
        return


async def _watch(agent: str, server: str, drops: bool, output: Format) -> None:
    from reconciler.local import Client

    client = Client(address_of(agent, "--agent"))
    names = await _names(server)
    params = {"drops": "1"} if drops else {}
    async for line in client.lines("/v1/events", params):
        event = msgspec.json.decode(line)
        for end in ("source", "destination"):
            event[end + "_pod"] = event.get(end + "_pod") or names.get(event[end], "")
        if output is Format.JSON:
            print(msgspec.json.encode(event).decode(), flush=True)
        else:
            print(event_line(event), flush=True)


async def _names(server: str) -> dict[str, str]:
    """Address → pod of the whole cluster, where the server can be asked; else only local names."""
    try:
        rows = await aquery(server, "/v1/endpoints")
    except UnavailableError:
        return {}
    return {
        row[family]: f"{row['namespace']}/{row['pod']}"
        for row in rows
        for family in ("ipv4", "ipv6")
        if row[family]
    }


def event_line(event: Mapping[str, Any]) -> str:
    """One verdict: time, what happened, direction, both ends, port, and the rule behind it."""
    ends = []
    for end in ("source", "destination"):
        port = event[end + "_port"]
        address = f"[{event[end]}]" if ":" in event[end] and port else event[end]
        text = f"{address}:{port}" if port else address
        ends.append(f"{event[end + '_pod']} ({text})" if event[end + "_pod"] else text)
    passed = "pass" if event["passed"] else "DROP"
    origin = f"  {'; '.join(event['origins'])}" if event["origins"] else ""
    return (
        f"{event['seconds']:.3f} {passed} {event['reason']:<16} {event['direction']:<7} "
        f"{ends[0]} -> {ends[1]} {event['protocol']}{origin}"
    )
