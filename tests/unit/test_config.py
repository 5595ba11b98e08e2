"""Options: one definition for flag, variable and file; precedence; errors name their source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from reconciler.cli import build
from reconciler.config import (
    CONFIG_ENV,
    AgentConfig,
    Configuration,
    DiscoveryConfig,
    ServerConfig,
    docs_table,
    load,
    options,
    parse_address,
)
from reconciler.errors import ConfigError

INSECURE = {"insecure": True}


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[server]\ndebounce-ms = 1\ndrain-seconds = 2\nabsent-grace = 3\n[agent]\n")
    env = {"RECONCILER_DEBOUNCE_MS": "10", "RECONCILER_DRAIN_SECONDS": "20"}
    flags = {**INSECURE, "debounce_ms": 100}
    loaded = load(ServerConfig, flags=flags, environ=env, file=str(file))
    config = loaded.config
    assert (config.debounce_ms, config.drain_seconds, config.absent_grace) == (100, 20.0, 3.0)
    assert config.closed_grace == ServerConfig().closed_grace
    assert loaded.sources["debounce_ms"] == "--debounce-ms"
    assert loaded.sources["drain_seconds"] == "RECONCILER_DRAIN_SECONDS"
    assert loaded.sources["absent_grace"] == f"{file}: [server] absent-grace"


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[agent]\nnode = "n7"\ninsecure = true\n')
    loaded = load(AgentConfig, flags={}, environ={"RECONCILER_CONFIG": str(file)})
    assert loaded.config.node == "n7"


def test_lists_and_switches_from_the_environment() -> None:
    env = {
        "RECONCILER_INSECURE": "true",
        "RECONCILER_NAMED_PORTS": "false",
        "RECONCILER_CLUSTER_CIDR": "10.0.0.0/8, fd00::/8",
    }
    config = load(ServerConfig, flags={}, environ=env).config
    assert config.insecure
    assert not config.named_ports
    assert config.cluster_cidr == ("10.0.0.0/8", "fd00::/8")


@pytest.mark.parametrize(
    ("flags", "env", "text"),
    [
        ({"debounce_ms": -1}, {}, "--debounce-ms: "),
        ({}, {"RECONCILER_DEBOUNCE_MS": "soon"}, "RECONCILER_DEBOUNCE_MS: "),
        ({"scope": "some"}, {}, "--scope: "),
        ({"cluster_name": "Prod!"}, {}, "--cluster-name: "),
        ({"cluster_cidr": ["10.0.0.1/8"]}, {}, "--cluster-cidr: 10.0.0.1/8 has host bits set"),
        ({"listen": "0.0.0.0:1"}, {}, "--insecure: 0.0.0.0:1: plaintext"),
        ({"status": "192.0.2.1:80"}, {}, "--status: 192.0.2.1:80: only a Unix socket"),
        ({"listen": "localhost"}, {}, "--listen: localhost: expected host:port"),
        ({"tls_cert": "x"}, {}, "--insecure: can't be combined"),
        ({"kubernetes": True}, {}, "--insecure: can't be combined with --kubernetes"),
    ],
)
def test_errors_name_source_and_field(
    flags: dict[str, object], env: dict[str, str], text: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ServerConfig, flags={**INSECURE, **flags}, environ=env)
    assert text in str(caught.value)


def test_plaintext_must_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="--tls-cert: is needed"):
        load(ServerConfig, flags={}, environ={})
    with pytest.raises(ConfigError, match="--tls-ca: is needed"):
        load(AgentConfig, flags={"tls_cert": "a", "tls_key": "b"}, environ={})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "[::1]:1", "localhost:1", "unix:/run/x"])
def test_plaintext_stays_on_the_machine(address: str) -> None:
    assert load(ServerConfig, flags={**INSECURE, "listen": address}, environ={})
    assert load(AgentConfig, flags={**INSECURE, "server": address}, environ={})


@pytest.mark.parametrize("address", ["10.0.0.1:1", "[::]:1", "example.com:1", "0.0.0.0:1"])
def test_plaintext_beyond_the_machine_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="plaintext"):
        load(ServerConfig, flags={**INSECURE, "listen": address}, environ={})
    with pytest.raises(ConfigError, match="plaintext"):
        load(AgentConfig, flags={**INSECURE, "server": address}, environ={})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[server]\ndebounce = 1\n", "debounce: no such option"),
        ("debounce-ms = 1\n", "only the tables"),
        ("[server\n", "c.toml: "),
        ('[server]\ndebounce-ms = "1"\n', "debounce-ms: Expected `int`"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(ServerConfig, flags=INSECURE, environ={}, file=str(file))
    assert reason in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(ServerConfig, flags=INSECURE, environ={}, file="/nonexistent/c.toml")


@pytest.mark.parametrize("cls", [ServerConfig, AgentConfig, DiscoveryConfig])
def test_every_option_is_documented_once(cls: type[Configuration]) -> None:
    table = docs_table(cls)
    for option in options(cls):
        assert option.help.endswith(".")
        assert table.count(f"`{option.env}`") == 1
    assert len(table.splitlines()) == 2 + len(options(cls))


def test_no_variable_means_two_things() -> None:
    """Processes and commands may share an environment: a name is of one option in all of them."""
    meanings: dict[str, set[str]] = {CONFIG_ENV: {"--config"}}
    for cls in (ServerConfig, AgentConfig, DiscoveryConfig):
        for option in options(cls):
            meanings.setdefault(option.env, set()).add(option.flag)
    commands: list[Any] = [typer.main.get_command(build())]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
        for parameter in command.params:
            names = parameter.envvar or ()
            for name in (names,) if isinstance(names, str) else names:
                meanings.setdefault(name, set()).add(parameter.opts[0])
    assert "RECONCILER_XDS_SERVER" in meanings, "commands are looked at"
    several = {name: flags for name, flags in meanings.items() if len(flags) > 1}
    assert several == {}


def test_addresses_in_grpc_form() -> None:
    assert parse_address("[fd00::1]:80").target == "[fd00::1]:80"
    assert parse_address("h:80").target == "h:80"
    assert parse_address("unix:/run/s").target == "unix:/run/s"


@pytest.mark.parametrize("text", ["", "a", ":1", "h:", "h:x", "fd00::1:80", "unix:run", "h:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_address(text)


TOKENS = {
    "node_auth": "token",
    "agent_service_account": "ns/agent",
    "tls_cert": "a",
    "tls_key": "b",
}


def test_tokens_need_no_ca_of_nodes() -> None:
    assert load(ServerConfig, flags={**TOKENS, "listen": "0.0.0.0:1"}, environ={})
    agent = {"token_file": "t", "tls_ca": "c", "server": "xds.example:1"}
    assert load(AgentConfig, flags=agent, environ={})


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"agent_service_account": ""}, "--agent-service-account: is needed"),
        ({"agent_service_account": "agent"}, "--agent-service-account: is needed"),
        ({"token_audience": ""}, "--token-audience: is needed"),
        ({"tls_ca": "c"}, "--tls-ca: has no use"),
        ({"tls_cert": ""}, "--tls-cert: is needed"),
        ({"tls_cert": "", "tls_key": "", "insecure": True}, "--insecure: can't be combined"),
        ({"token_listen": "0.0.0.0:2"}, "--token-listen: is for a server whose"),
        ({"node_auth": "certificate", "token_listen": "x", "tls_ca": "c"}, "--token-listen: x: "),
    ],
)
def test_half_a_setup_of_tokens_is_refused(flags: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ServerConfig, flags={**TOKENS, **flags}, environ={})
    assert text in str(caught.value)


def test_an_agent_has_one_proof() -> None:
    flags: dict[str, object] = {"token_file": "t", "tls_ca": "c"}
    with pytest.raises(ConfigError, match="--tls-cert: has no use"):
        load(AgentConfig, flags={**flags, "tls_cert": "a", "tls_key": "b"}, environ={})
    with pytest.raises(ConfigError, match="--insecure: can't be combined"):
        load(AgentConfig, flags={"token_file": "t", "insecure": True}, environ={})


DISCOVERY = {"resources": "r", "insecure": True}


def test_options_of_xds_serve_have_names_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[xds]\nresources = "r"\n[server]\nlisten = "127.0.0.1:9"\n')
    env = {"RECONCILER_XDS_INSECURE": "true", "RECONCILER_LISTEN": "127.0.0.1:8"}
    config = load(DiscoveryConfig, flags={}, environ=env, file=str(file)).config
    assert (config.resources, config.listen) == ("r", "127.0.0.1:18000")


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"resources": ""}, "--resources: is needed"),
        ({"admin": "10.0.0.1:9"}, "--admin: 10.0.0.1:9: only a Unix socket or a loopback"),
        ({"status": "10.0.0.1:9"}, "--status: 10.0.0.1:9: only a Unix socket or a loopback"),
        ({"listen": "0.0.0.0:9"}, "--insecure: 0.0.0.0:9: plaintext is for loopback"),
        ({"insecure": False}, "--tls-cert: is needed"),
        ({"max_streams": -1}, "--max-streams: "),
    ],
)
def test_what_xds_serve_refuses(flags: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(DiscoveryConfig, flags={**DISCOVERY, **flags}, environ={})
    assert str(caught.value).startswith(text)
    assert load(DiscoveryConfig, flags={**DISCOVERY, "status": "", "admin": ""}, environ={})
