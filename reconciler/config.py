"""Every option of server and agent, written once.

A field of `ServerConfig` or `AgentConfig` is a flag (`--drain-seconds`), a variable
(`RECONCILER_DRAIN_SECONDS`) and a key of the TOML file (`drain-seconds` in table `[server]` or
`[agent]`). Precedence: flag, variable, file, default. The command line's options, the validation
and the table in the documentation all come from here.

A wrong value is refused with the place that it came from and the field's name; nothing starts on
half a configuration. An unknown key in the file is wrong, so that a misspelt option can't be
silently off.
"""

from __future__ import annotations

import inspect
import ipaddress
import re
import tomllib
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from reconciler.address import Address as Address
from reconciler.address import parse_address as parse_address
from reconciler.errors import ConfigError

ENV_PREFIX = "RECONCILER_"
CONFIG_ENV = "RECONCILER_CONFIG"

Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
MapSize = Annotated[int, Meta(ge=16, le=1 << 24)]


_RECORD = "File that every step is appended to, for `reconciler check trace`; empty: none."
_METRICS = (
    "Address for Prometheus and kubelet, which other machines may reach: `/metrics`, `/healthz`, "
    "`/readyz` and nothing else; empty: none."
)


def _say(text: str) -> Meta:
    return Meta(description=text)


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `reconciler server`."""

    manifests: Annotated[
        str, _say("Directory of Kubernetes manifests (YAML or JSON) to serve; watched for changes.")
    ] = ""
    kubernetes: Annotated[
        bool,
        _say("Serve the objects of a Kubernetes cluster, with its identities as CiliumIdentity."),
    ] = False
    kubeconfig: Annotated[
        str, _say("Kubeconfig file; default: the pod's own credentials, else the usual file.")
    ] = ""
    kube_context: Annotated[str, _say("Context of the kubeconfig; default: its current one.")] = ""
    namespace: Annotated[
        str, _say("Namespace of the server's own objects: its Lease, and what replicas tell.")
    ] = "reconciler"
    lease: Annotated[str, _say("Name of the Lease by which replicas agree on who writes.")] = (
        "reconciler-server"
    )
    lease_seconds: Annotated[
        float,
        Meta(ge=1, le=3600),
        _say("After this long without a sign of life the Lease is another replica's."),
    ] = 15.0
    replica: Annotated[
        str, _say("Name of this replica, like no other's; default: host and process.")
    ] = ""
    state_dir: Annotated[str, _say("Directory of the server's state (the allocation journal).")] = (
        "/var/lib/reconciler"
    )
    journal: Annotated[
        str, _say("Journal file; default: `journal.sqlite` in the state directory.")
    ] = ""
    listen: Annotated[
        str, _say("Address of the xDS service: `host:port`, `[v6]:port` or `unix:PATH`.")
    ] = "127.0.0.1:18000"
    tls_cert: Annotated[str, _say("PEM certificate (chain) of the server.")] = ""
    tls_key: Annotated[str, _say("PEM private key of the server.")] = ""
    tls_ca: Annotated[str, _say("PEM certificates of the CA that signs node certificates.")] = ""
    node_auth: Annotated[
        Literal["certificate", "token"],
        _say("How a node proves who it is on `--listen`: client certificate or its pod's token."),
    ] = "certificate"
    token_listen: Annotated[
        str, _say("Second address of the xDS service, for tokens where `--listen` is for others.")
    ] = ""
    token_audience: Annotated[str, _say("Audience that a node's token must be for.")] = "reconciler"
    agent_service_account: Annotated[
        str, _say("Whose tokens count: `namespace/name` of the agent's ServiceAccount.")
    ] = ""
    max_stream_age: Annotated[
        Seconds,
        _say("After this long, a tenth more or less, a stream is ended and proven anew; 0: never."),
    ] = 3600.0
    insecure: Annotated[
        bool,
        _say(
            "Serve without TLS and believe the node name that a client claims. "
            "Loopback and Unix sockets only."
        ),
    ] = False
    status: Annotated[
        str, _say("Address of the status API: `unix:PATH` or a loopback `host:port`.")
    ] = "unix:/run/reconciler/server.sock"
    metrics: Annotated[str, _say(_METRICS)] = ""
    label: Annotated[
        tuple[str, ...],
        _say("Label filter rule, `[!][source:]pattern`; may be given more than once."),
    ] = ()
    label_filter_file: Annotated[str, _say("Label filter as a JSON file.")] = ""
    cluster_name: Annotated[
        str,
        Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$"),
        _say("Name of the cluster, part of every label set."),
    ] = "default"
    cluster_cidr: Annotated[
        tuple[str, ...],
        _say("CIDR of pods beyond the Nodes' podCIDRs; may be given more than once."),
    ] = ()
    named_ports: Annotated[
        bool, _say("Make a pod's named ports part of its identity, so rules on them are exact.")
    ] = True
    scope: Annotated[
        Literal["all", "selected"],
        _say(
            "What a node is served: `all` groups, or those that a rule on the node can tell apart."
        ),
    ] = "all"
    drain_seconds: Annotated[
        Seconds, _say("How long an identity without pods is kept before it is retired.")
    ] = 30.0
    absent_grace: Annotated[
        Seconds, _say("How long a retired number waits for nodes that are not connected.")
    ] = 3600.0
    closed_grace: Annotated[
        Seconds,
        _say("How long a node may refuse a cut before what it named is replaced by drop-all."),
    ] = 5.0
    policy_capacity: Annotated[
        int,
        Meta(ge=16, le=1 << 24),
        _say("Policy entries that one node can hold; a rule set beyond it is refused here."),
    ] = 262_144
    debounce_ms: Annotated[
        int, Meta(ge=0, le=60_000), _say("How long changes are collected before one cut is made.")
    ] = 20
    record_trace: Annotated[str, _say(_RECORD)] = ""


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Options of `reconciler agent`."""

    node: Annotated[
        str, _say("Name of this node; default: the one in the certificate, else the host's name.")
    ] = ""
    server: Annotated[
        str,
        _say(
            "Address of the xDS server: `host:port`, `[v6]:port` or `unix:PATH`; of several "
            "replicas with commas between."
        ),
    ] = "127.0.0.1:18000"
    tls_cert: Annotated[str, _say("PEM certificate (chain) of this node.")] = ""
    tls_key: Annotated[str, _say("PEM private key of this node.")] = ""
    tls_ca: Annotated[str, _say("PEM certificates of the CA that signs the server's.")] = ""
    token_file: Annotated[
        str, _say("File with the pod's token (projected), instead of a certificate and key.")
    ] = ""
    tls_server_name: Annotated[
        str, _say("Name to expect in the server's certificate, if not that of the address.")
    ] = ""
    insecure: Annotated[bool, _say("Connect without TLS. Loopback and Unix sockets only.")] = False
    datapath: Annotated[
        Literal["kernel", "memory"],
        _say("`kernel`: eBPF maps and programs; `memory`: the same maps in memory, no packets."),
    ] = "kernel"
    pin_dir: Annotated[
        str, _say("Directory in a BPF file system for the pinned maps and links.")
    ] = "/sys/fs/bpf/reconciler"
    cache_dir: Annotated[
        str, _say("Directory of the last committed cut, used until a server answers.")
    ] = "/var/lib/reconciler"
    status: Annotated[
        str, _say("Address of the status API: `unix:PATH` or a loopback `host:port`.")
    ] = "unix:/run/reconciler/agent.sock"
    metrics: Annotated[str, _say(_METRICS)] = ""
    cni_socket: Annotated[str, _say("Unix socket that the CNI plugin asks; empty: none.")] = (
        "/run/reconciler/cni.sock"
    )
    max_addresses: Annotated[MapSize, _say("Entries of the addresses map.")] = 524_288
    max_endpoints: Annotated[MapSize, _say("Entries of the endpoints map.")] = 4_096
    max_groups: Annotated[MapSize, _say("Entries of the groups map.")] = 131_072
    max_policies: Annotated[MapSize, _say("Entries of the policies map.")] = 262_144
    max_conntrack: Annotated[MapSize, _say("Entries of the connection tracking map.")] = 262_144
    max_fragments: Annotated[MapSize, _say("Entries of the fragments map.")] = 8_192
    max_stale: Annotated[
        Seconds,
        _say("After this long without a server, remote pods count as unknown; 0: never."),
    ] = 0.0
    service_cidr: Annotated[
        tuple[str, ...],
        _say(
            "CIDR of Services, whose egress has its own drop reason; may be given more than once."
        ),
    ] = ()
    pod_interfaces: Annotated[str, _say("Glob of the host sides of pods' veth pairs.")] = "veth*"
    attach: Annotated[
        Literal["auto", "tcx", "clsact"],
        _say("How programs are attached; `auto`: TCX where the kernel has it."),
    ] = "auto"
    record_trace: Annotated[str, _say(_RECORD)] = ""


Config = ServerConfig | AgentConfig
C = TypeVar("C", ServerConfig, AgentConfig)


class Option(msgspec.Struct, frozen=True):
    """One field of a configuration, in all the forms that it is written in."""

    field: str
    flag: str
    env: str
    key: str
    type: Any
    kind: str  # "text", "number", "switch", "list" or "choice"
    choices: tuple[str, ...]
    default: Any
    help: str


class Loaded(msgspec.Struct, Generic[C], frozen=True):
    """A valid configuration, and where each field's value came from ("" for a default)."""

    config: C
    sources: dict[str, str]


def section(cls: type[Config]) -> str:
    """Table of the TOML file that holds this configuration."""
    return "server" if cls is ServerConfig else "agent"


def options(cls: type[Config]) -> tuple[Option, ...]:
    """The options in the order in which they are written."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for field in msgspec.structs.fields(cls):
        hint = hints[field.name]
        bare = _bare(hint)
        found.append(
            Option(
                field=field.name,
                flag="--" + field.encode_name.replace("_", "-"),
                env=ENV_PREFIX + field.name.upper(),
                key=field.name.replace("_", "-"),
                type=hint,
                kind=_kind(bare),
                choices=typing.get_args(bare) if typing.get_origin(bare) is Literal else (),
                default=field.default,
                help=next(
                    meta.description
                    for meta in hint.__metadata__
                    if isinstance(meta, Meta) and meta.description
                ),
            )
        )
    return tuple(found)


def _bare(hint: Any) -> Any:
    return _bare(hint.__origin__) if hasattr(hint, "__metadata__") else hint


def _kind(bare: Any) -> str:
    if typing.get_origin(bare) is Literal:
        return "choice"
    if typing.get_origin(bare) is tuple:
        return "list"
    return {bool: "switch", int: "number", float: "number"}.get(bare, "text")


def load(
    cls: type[C],
    *,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: str | None = None,
) -> Loaded[C]:
    """Merge flags (None or an empty list: not given), environment and file; check everything.

    Raises ConfigError whose text begins with the source and the field:
    "RECONCILER_DEBOUNCE_MS: Expected `int` <= 60000".
    """
    path = file or environ.get(CONFIG_ENV) or ""
    from_file = _read(path, section(cls)) if path else {}
    known = {option.key for option in options(cls)}
    for key in from_file:
        if key not in known:
            raise ConfigError(f"{path}: [{section(cls)}] {key}: no such option")
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in options(cls):
        flag = flags.get(option.field)
        if flag is not None and flag != [] and flag != ():
            value, source = flag, option.flag
        elif environ.get(option.env):
            value, source = _from_env(option, environ[option.env]), option.env
        elif option.key in from_file:
            value, source = from_file[option.key], f"{path}: [{section(cls)}] {option.key}"
        else:
            continue
        try:
            loose = source == option.env
            values[option.field] = msgspec.convert(value, option.type, strict=not loose)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{source}: {error}") from None
        sources[option.field] = source
    loaded = Loaded(cls(**values), sources)
    _check(loaded)
    return loaded


def _read(path: str, table: str) -> dict[str, Any]:
    try:
        data = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    for name, value in data.items():
        if name not in ("server", "agent") or not isinstance(value, dict):
            raise ConfigError(f"{path}: {name}: only the tables [server] and [agent] are known")
    found: dict[str, Any] = data.get(table, {})
    return found


def _from_env(option: Option, text: str) -> Any:
    if option.kind == "list":
        return [part.strip() for part in text.split(",") if part.strip()]
    if option.kind == "switch":
        return text.lower() if text.lower() in ("true", "false") else text
    return text


def _check(loaded: Loaded[Any]) -> None:
    """What no single field can tell."""
    config, sources = loaded.config, loaded.sources

    def refuse(field: str, reason: str) -> typing.NoReturn:
        named = next(o for o in options(type(config)) if o.field == field)
        raise ConfigError(f"{sources.get(field, named.flag)}: {reason}")

    def checked(field: str, value: str) -> Address:
        try:
            return parse_address(value)
        except ValueError as error:
            refuse(field, str(error))

    unused: tuple[str, ...]
    peer_field = "listen" if isinstance(config, ServerConfig) else "server"
    peers = [checked(peer_field, part.strip()) for part in _peers(config)]
    if config.metrics:
        checked("metrics", config.metrics)
    if not checked("status", config.status).local:
        refuse("status", f"{config.status}: only a Unix socket or a loopback address")
    for field in ("cluster_cidr", "service_cidr"):
        for value in getattr(config, field, ()):
            try:
                ipaddress.ip_network(value)
            except ValueError as error:
                refuse(field, str(error))
    if isinstance(config, ServerConfig):
        if config.kubernetes and config.manifests:
            refuse("manifests", "can't be combined with --kubernetes")
        if config.kubernetes and config.insecure:
            refuse("insecure", "can't be combined with --kubernetes: nodes must prove who they are")
        _check_tokens(config, refuse)
        tokens, unused = config.node_auth == "token", ("tls_ca",)
        if config.token_listen:
            checked("token_listen", config.token_listen)
    else:
        tokens, unused = bool(config.token_file), ("tls_cert", "tls_key")
    files = {name: getattr(config, name) for name in ("tls_cert", "tls_key", "tls_ca")}
    if config.insecure:
        if any(files.values()) or tokens:
            refuse("insecure", "can't be combined with TLS files or tokens")
        if not all(peer.local for peer in peers):
            refuse(
                "insecure",
                f"{getattr(config, peer_field)}: plaintext is for loopback addresses "
                "and Unix sockets only",
            )
        return
    for name, value in files.items():
        if tokens and name in unused:
            if value:
                refuse(name, "has no use where nodes prove themselves by token")
        elif not value:
            refuse(name, "is needed (or --insecure, on loopback or a Unix socket)")


def _peers(config: Config) -> list[str]:
    """Addresses of the xDS service: where a server listens, or the replicas that an agent knows."""
    return [config.listen] if isinstance(config, ServerConfig) else config.server.split(",")


def _check_tokens(config: ServerConfig, refuse: Callable[[str, str], typing.NoReturn]) -> None:
    if config.token_listen and (config.node_auth == "token" or config.insecure):
        refuse("token_listen", "is for a server whose --listen takes certificates")
    if config.node_auth == "certificate" and not config.token_listen:
        return
    if not re.fullmatch(r"[^/\s]+/[^/\s]+", config.agent_service_account):
        refuse("agent_service_account", "is needed, as namespace/name: only its tokens count")
    if not config.token_audience:
        refuse("token_audience", "is needed: a token for anyone would be one for no one")


def typer_parameters(cls: type[Config]) -> list[inspect.Parameter]:
    """Keyword parameters, one an option, for a typer command; None means not given.

    Imported by the command line only, so that reading a configuration needs no typer.
    """
    import typer

    parameters = []
    for option in options(cls):
        kind: Any = {"switch": bool, "list": list[str]}.get(option.kind, str)
        if option.kind == "number":
            kind = _bare(option.type)
        names = (f"{option.flag}/--no-{option.key}",) if option.kind == "switch" else (option.flag,)
        choices = option.choices
        info = typer.Option(
            *names,
            help=f"{option.help} [env: {option.env}; default: {shown(option)}]",
            show_default=False,
            metavar="|".join(choices) if choices else None,
            autocompletion=_completing(choices) if choices else None,
        )
        parameters.append(
            inspect.Parameter(
                option.field,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[kind | None, info],
            )
        )
    return parameters


def _completing(choices: tuple[str, ...]) -> Callable[[], list[str]]:
    def complete() -> list[str]:
        return list(choices)

    return complete


def shown(option: Option) -> str:
    """The default as the documentation writes it."""
    if option.kind == "switch":
        return "on" if option.default else "off"
    if option.kind == "list" or option.default == "":
        return "none"
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def docs_table(cls: type[Config]) -> str:
    """The options as a Markdown table, with a line for each."""
    rows = ["| flag | variable | key in the file | default | meaning |", "|---|---|---|---|---|"]
    for o in options(cls):
        flag = f"`{o.flag}`" + (f" / `--no-{o.key}`" if o.kind == "switch" else "")
        meaning = o.help + (f" One of `{'`, `'.join(o.choices)}`." if o.choices else "")
        rows.append(f"| {flag} | `{o.env}` | `{o.key}` | {shown(o)} | {meaning} |")
    return "\n".join(rows) + "\n"
