"""`reconciler xds clients`: which rows are shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from envoy.service.status.v3 import csds_pb2
from google.protobuf import json_format

from reconciler.commands import xds_clients
from reconciler.commands.output import Format

STATUS: dict[str, Any] = {
    "config": [
        {
            "node": {"id": "n1"},
            "generic_xds_configs": [
                {"name": "good", "config_status": "SYNCED", "client_status": "ACKED"},
                {"name": "silent", "config_status": "ERROR", "client_status": "NACKED"},
                {"name": "of-server", "config_status": "ERROR", "error_state": {"details": "no"}},
                {"name": "of-client", "client_status": "NACKED"},
                {"name": "old", "config_status": "SYNCED", "error_state": {"details": "once"}},
            ],
        }
    ]
}


@pytest.mark.parametrize(
    ("refused", "names"),
    [
        (False, ["good", "silent", "of-server", "of-client", "old"]),
        (True, ["silent", "of-server", "of-client"]),
    ],
)
def test_refused_is_a_status_and_not_a_reason(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: bool,
    names: list[str],
) -> None:
    answer = json_format.ParseDict(STATUS, csds_pb2.ClientStatusResponse())
    monkeypatch.setattr(xds_clients, "_ask", lambda server, node: answer)
    xds_clients.clients("", "", refused, Format.JSON)
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == names
