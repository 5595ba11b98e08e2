"""`reconciler xds clients`: what the clients of an xDS server were sent and answered (CSDS)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from reconciler.commands.output import Column, Format, emit, with_json
from reconciler.config import address_of
from reconciler.errors import ConfigError, UnavailableError

_SECONDS: Final = 30.0

_COLUMNS: Final[list[Column]] = [
    (name, lambda row, name=name: row[name])  # type: ignore[misc]
    for name in ("node", "stream", "type", "name", "status", "version", "reason")
]


def register(app: typer.Typer) -> None:
    app.command("clients")(with_json(clients))


def clients(
    server: Annotated[
        str,
        typer.Option(
            "--server",
            envvar="RECONCILER_XDS_SERVER",
            help="host:port or unix:PATH where the server has CSDS, without TLS.",
        ),
    ] = "127.0.0.1:18000",
    node: Annotated[str, typer.Option("--node", help="Only the client of this node id.")] = "",
    refused: Annotated[
        bool, typer.Option("--refused", help="Only what a client has refused.")
    ] = False,
    output: Annotated[Format, typer.Option("-o", "--output", help="table, yaml, json, csv.")] = (
        Format.TABLE
    ),
) -> None:
    """Print what each client was sent, and what it made of it."""
    found = _ask(server, node)
    rows = [row for config in found.config for row in _rows(config)]
    emit([row for row in rows if not refused or _is_refused(row)], _COLUMNS, output)


def _is_refused(row: Mapping[str, Any]) -> bool:
    """As the server or the client has it; a NACK need not give a reason."""
    return bool(row["status"] == "ERROR" or row["client"] == "NACKED")


def _ask(server: str, node: str) -> Any:
    import grpc
    from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc

    target = address_of(server, "--server").target
    request = csds_pb2.ClientStatusRequest(exclude_resource_contents=True)
    if node:
        request.node_matchers.add().node_id.exact = node
    options = (("grpc.max_receive_message_length", -1),)
    with grpc.insecure_channel(target, options=options) as channel:
        stub = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(channel)
        try:
            return stub.FetchClientStatus(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            status: Any = error
            if status.code() is grpc.StatusCode.UNIMPLEMENTED:
                reason = "has no CSDS here; where clients come over TLS it is on its --admin"
                raise ConfigError(f"{server}: {reason}") from None
            raise UnavailableError(f"{server}: {status.details()}") from None


def _rows(config: Any) -> list[dict[str, Any]]:
    from envoy.admin.v3 import config_dump_shared_pb2
    from envoy.service.status.v3 import csds_pb2

    from reconciler.probe.services import message_name

    return [
        {
            "node": config.node.id,
            "cluster": config.node.cluster,
            "stream": config.client_scope,
            "type": message_name(each.type_url),
            "name": each.name,
            "status": csds_pb2.ConfigStatus.Name(each.config_status),
            "client": config_dump_shared_pb2.ClientResourceStatus.Name(each.client_status),
            "version": each.version_info,
            "reason": each.error_state.details,
            "refused_version": each.error_state.version_info,
        }
        for each in config.generic_xds_configs
    ]
