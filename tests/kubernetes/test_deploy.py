"""What is in deploy/: one source for each thing, taken by a real API server, run by the real
programs' own option parsers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
import yaml

from reconciler import local
from reconciler.cli import build
from reconciler.config import AgentConfig, Config, ServerConfig, load
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.server.kubernetes.install import definitions
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api, absent
from tests.kubernetes.deployed import CHART, DEPLOY, NAMESPACE, PATHS, collection
from tests.kubernetes.rendered import files, helm, rendered, template

Json = dict[str, Any]

VALUES: Final[Mapping[str, Json]] = {
    "default": {},
    "certificate": {"auth": {"nodes": "certificate"}, "createNamespace": True},
    "pod network": {
        "server": {"hostNetwork": False, "listenHost": "[::]", "replicas": 3},
        "networkPolicy": {
            "agentCidrs": ["10.0.0.0/8", "fd00::/8"],
            "metricsFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
            "apiServerCidrs": ["192.0.2.1/32"],
        },
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "everything": {
        "clusterName": "east",
        "imagePullSecrets": ["registry"],
        "auth": {"tokenAudience": "reconciler-east", "tokenSeconds": 600},
        "server": {
            "clusterCidrs": ["10.0.0.0/8"],
            "labels": ["!k8s:job.*", "k8s:app"],
            "scope": "selected",
            "extraArgs": ["--lease-seconds=20", "--absent-grace=7200"],
            "podDisruptionBudget": {"maxUnavailable": "50%"},
            "podAnnotations": {"example.org/note": "yes"},
            "logJson": False,
        },
        "agent": {
            "servers": ["192.0.2.1:18000", "[2001:db8::1]:18000"],
            "serverName": "control.example.org",
            "podInterfaces": "lxc*",
            "serviceCidrs": ["10.96.0.0/12"],
            "extraArgs": ["--max-stale=600"],
            "podAnnotations": {"example.org/note": "yes"},
            "logJson": False,
            "datapath": "memory",
            "hostPaths": {"run": "/var/run/reconciler"},
            "cni": {
                "plugin": "install",
                "binDir": "/usr/libexec/cni",
                "confDir": "/etc/cni",
                "waitSeconds": 2,
            },
        },
    },
    "plugin out": {"agent": {"cni": {"plugin": "remove"}}},
    "server alone": {"agent": {"enabled": False}, "serviceMonitor": {"enabled": True}},
}

WITHOUT_A_KIND: Final = {"ServiceMonitor"}
"""The kind is the Prometheus Operator's, which the test's API server does not have."""


@pytest.fixture(params=sorted(VALUES))
def values(request: pytest.FixtureRequest) -> Json:
    return VALUES[request.param]


# -------------------------------------------------------------------------------------- one source


def test_plain_manifests_are_the_charts() -> None:
    """`python -m tests.kubernetes.rendered` makes them anew."""
    for path, text in files().items():
        assert path.read_text() == text, f"{path} is stale"


def test_kustomization_has_all_of_them() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    listed = sorted(map(_id, yaml.safe_load_all(done.stdout)))
    texts = (yaml.safe_load_all(text) for text in files().values())
    assert listed == sorted(_id(object) for objects in texts for object in objects)


def _id(object: Json) -> tuple[str, str]:
    return object["kind"], object["metadata"]["name"]


def test_the_chart_brings_the_kinds_that_install_brings() -> None:
    shown = helm("show", "crds", str(CHART))
    assert shown.returncode == 0, shown.stderr
    kinds = [each for each in yaml.safe_load_all(shown.stdout) if each is not None]
    by_name = {each["metadata"]["name"]: each for each in kinds}
    assert by_name == {each["metadata"]["name"]: each for each in definitions()}


def test_every_value_is_in_the_schema_and_every_one_of_the_schema_is_a_value() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(_fields(schema, schema["$defs"])) - {("global",)} == set(_leaves(values, schema))


def _fields(schema: Json, known: Json, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema:
        yield at
        return
    assert schema["additionalProperties"] is False, f"{at}: a misspelt value would be silently off"
    for name, field in schema["properties"].items():
        yield from _fields(field, known, (*at, name))


def _leaves(value: Any, schema: Json, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of the values, as deep as the schema goes."""
    paths = {path[: len(at)] for path in _fields(schema, schema["$defs"]) if len(path) > len(at)}
    if not isinstance(value, dict) or at not in paths:
        yield at
        return
    for name, each in value.items():
        yield from _leaves(each, schema, (*at, name))


# ------------------------------------------------------------------------------------- Helm itself


def test_helm_finds_nothing_to_say_against_the_chart(values: Json, tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text(json.dumps(values))
    done = helm("lint", "--strict", str(CHART), "--values", str(tmp_path / "values.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"server": {"replicas": "two"}}, "'/server/replicas': got string, want integer"),
        ({"auth": {"nodes": "password"}}, "value must be one of 'token', 'certificate'"),
        ({"agnet": {}}, "additional properties 'agnet' not allowed"),
        ({"server": {"port": 99999}}, "'/server/port': maximum: got 99,999, want 65,535"),
        ({"clusterName": "East"}, "'/clusterName': 'East' does not match pattern"),
        ({"agent": {"servers": ["a,b:1"]}}, "'/agent/servers/0': 'a,b:1' does not match pattern"),
        ({"agent": {"hostPaths": {"bpf": "bpf"}}}, "'/agent/hostPaths/bpf': 'bpf' does not match"),
    ],
)
def test_a_wrong_value_is_named(wrong: Json, said: str) -> None:
    done = template(wrong)
    assert done.returncode != 0
    assert said in done.stderr
    assert not done.stdout


# ---------------------------------------------------------------------------------- the API server


async def dry(client: ApiClient, object: Json) -> None:
    """All of the API server's checks, unknown fields among them; nothing is kept."""
    body = json.dumps(object).encode()
    params = {"dryRun": "All", "fieldValidation": "Strict"}
    await client.request("POST", collection(object), params=params, body=body)


async def test_the_api_server_takes_every_object(client: ApiClient, api: Api, values: Json) -> None:
    namespace = await api.namespace("deploy")
    kinds = set()
    for object in rendered(values, namespace=namespace):
        kinds.add(object["kind"])
        if object["kind"] in WITHOUT_A_KIND or _id(object) == ("Namespace", namespace):
            continue
        await dry(client, object)
    assert {"Deployment", "ClusterRole", "Service"} <= kinds
    assert ("NetworkPolicy" in kinds) == (values.get("server", {}).get("hostNetwork") is False)
    assert ("ServiceMonitor" in kinds) == values.get("serviceMonitor", {}).get("enabled", False)
    assert ("DaemonSet" in kinds) == values.get("agent", {}).get("enabled", True)


async def test_the_api_server_would_refuse_an_unknown_field(client: ApiClient, api: Api) -> None:
    namespace = await api.namespace("deploy")
    (server,) = (o for o in rendered({}, namespace=namespace) if o["kind"] == "Deployment")
    server["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnly"] = True
    with pytest.raises(ApiError, match="unknown field") as refused:
        await dry(client, server)
    assert refused.value.status == 400


def test_kubectl_takes_the_plain_manifests(cluster: Cluster) -> None:
    """As docs/deploy.md has it, but for the namespace: a dry run makes none."""
    text = "".join(
        path.read_text().replace(f"namespace: {NAMESPACE}\n", "namespace: default\n") + "---\n"
        for path in files()
    )
    command = ["kubectl", "--kubeconfig", cluster.kubeconfig(), "apply", "-f", "-"]
    options = ["--dry-run=server", "--validate=strict"]
    done = subprocess.run(
        [*command, *options], input=text, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "daemonset.apps/reconciler-agent created (server dry run)" in lines
    assert len(lines) == sum(len(list(yaml.safe_load_all(text))) for text in files().values())


async def test_helm_installs_upgrades_rolls_back_and_removes(cluster: Cluster, api: Api) -> None:
    """And keeps the kinds, with the numbers in them. Nobody schedules here: it is not waited."""
    namespace = await api.namespace("helm")
    where = ("--kubeconfig", cluster.kubeconfig(), "--namespace", namespace)

    def run(*arguments: str) -> None:
        done = helm(*arguments, *where)
        assert done.returncode == 0, done.stderr

    async def there() -> tuple[int, str, str]:
        at = f"/apis/apps/v1/namespaces/{namespace}"
        server = await api.get(f"{at}/deployments/reconciler-server")
        (container,) = server["spec"]["template"]["spec"]["containers"]
        agent = await api.get(f"{at}/daemonsets/reconciler-agent")
        (other,) = agent["spec"]["template"]["spec"]["containers"]
        return server["spec"]["replicas"], container["image"], other["image"]

    old, new = ("reconciler-server:0.1.0", "reconciler-agent:0.1.0"), "--set=server.image.tag=0.2.0"
    run("install", "reconciler", str(CHART))
    assert await there() == (2, *old)
    run("upgrade", "reconciler", str(CHART), new, "--set=agent.image.tag=0.1.0")
    assert await there() == (2, "reconciler-server:0.2.0", old[1])  # the server first
    run("upgrade", "reconciler", str(CHART), new, "--set=agent.image.tag=0.2.0,server.replicas=3")
    assert await there() == (3, "reconciler-server:0.2.0", "reconciler-agent:0.2.0")
    run("rollback", "reconciler", "1")
    assert await there() == (2, *old)
    run("uninstall", "reconciler")
    assert await absent(api, f"{PATHS['ClusterRole']}/reconciler-server")
    for each in definitions():
        path = f"{PATHS['CustomResourceDefinition']}/{each['metadata']['name']}"
        assert not await absent(api, path)


# -------------------------------------------------------------------------------------- containers


def containers(values: Json) -> Iterator[tuple[Json, Json]]:
    """(pod spec, its only container)."""
    for object in rendered(values):
        if object["kind"] in ("Deployment", "DaemonSet"):
            spec = object["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            yield spec, container


def parsed(container: Json) -> Config:
    """What the container's program makes of its arguments; it would refuse what it refuses."""
    program, *arguments = (expanded(container, each) for each in container["args"])
    command: Any = typer.main.get_command(build())
    with command.commands[program].make_context(program, arguments) as context:
        flags = dict(context.params)
    assert flags.pop("config") is None
    flags.pop("log_json")
    if program == "server":
        return load(ServerConfig, flags=flags, environ={}).config
    assert program == "agent"
    return load(AgentConfig, flags=flags, environ={}).config


def expanded(container: Json, text: str) -> str:
    """As a kubelet does it. A variable that is not set would stay as it is written."""
    for variable in container["env"]:
        text = text.replace(f"$({variable['name']})", variable["name"].lower())
    assert "$(" not in text
    return text


def test_the_programs_take_their_arguments(values: Json) -> None:
    for spec, container in containers(values):
        config = parsed(container)
        mounts = {each["mountPath"] for each in container["volumeMounts"]}
        mounted = [container, *spec.get("initContainers", ())]
        assert {mount["name"] for each in mounted for mount in each["volumeMounts"]} == {
            volume["name"] for volume in spec["volumes"]
        }
        for option in (config.tls_cert, config.tls_key, config.tls_ca):
            assert not option or str(Path(option).parent) in mounts
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        assert int(config.metrics.rpartition(":")[2]) == ports["metrics"]
        if isinstance(config, ServerConfig):
            assert config.kubernetes
            assert int(config.listen.rpartition(":")[2]) == ports["xds"]
            assert (config.namespace, config.replica) == ("namespace", "pod")
        else:
            assert config.node == "node"
            assert config.cache_dir in mounts
            assert config.datapath == "memory" or config.pin_dir in mounts
            assert str(Path(config.cni_socket).parent) in mounts
        assert str(Path(config.status.removeprefix("unix:")).parent) in mounts


def test_the_plugin_is_installed_where_the_node_has_its_own(values: Json) -> None:
    """And asks the agent's socket, as the node sees it."""
    wanted = values.get("agent", {}).get("cni", {})
    installers = [c for spec, _ in containers(values) for c in spec.get("initContainers", ())]
    assert len(installers) == bool(wanted)
    for spec, agent in containers(values):
        for each in spec.get("initContainers", ()):
            program, *arguments = each["args"]
            command: Any = typer.main.get_command(build())
            with command.commands[program].make_context(program, arguments) as context:
                options = context.params
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            host = {
                mount["mountPath"]: volumes[mount["name"]]["hostPath"]["path"]
                for container in (each, agent)
                for mount in container["volumeMounts"]
                if "hostPath" in volumes[mount["name"]]
            }
            assert host[str(options["bin_dir"])] == wanted.get("binDir", "/opt/cni/bin")
            assert host[str(options["conf_dir"])] == wanted.get("confDir", "/etc/cni/net.d")
            assert options["remove"] == (wanted["plugin"] == "remove")
            assert options["wait_seconds"] == wanted.get("waitSeconds", 0)
            config = parsed(agent)
            assert isinstance(config, AgentConfig)
            socket = Path(config.cni_socket)
            assert options["socket"] == f"{host[str(socket.parent)]}/{socket.name}"
            assert each["image"] == agent["image"]
            assert "add" not in each["securityContext"]["capabilities"]


def test_server_and_agent_agree(values: Json) -> None:
    """On the audience, the ServiceAccount and the port."""
    server, *agents = (parsed(container) for _, container in containers(values))
    if isinstance(server, AgentConfig):
        server, agents = agents[0], [server]
    assert isinstance(server, ServerConfig)
    for spec, container in containers(values):
        agent = parsed(container)
        if not isinstance(agent, AgentConfig):
            continue
        assert spec["automountServiceAccountToken"] is False
        assert bool(agent.token_file) == (server.node_auth == "token")
        if agent.token_file:
            (volume,) = (each for each in spec["volumes"] if "projected" in each)
            (source,) = volume["projected"]["sources"]
            assert source["serviceAccountToken"]["audience"] == server.token_audience
            assert server.agent_service_account == f"namespace/{spec['serviceAccountName']}"
        if "servers" not in values.get("agent", {}):
            port = server.listen.rpartition(":")[2]
            assert agent.server == f"reconciler-server.{NAMESPACE}.svc:{port}"


def test_probes_ask_what_is_answered(values: Json) -> None:
    class Page:
        async def text(self) -> bytes:
            return b""

    known = local.public(Page(), "text/plain", str)
    for _, container in containers(values):
        names = {each["name"] for each in container["ports"]}
        probes = {name: each for name, each in container.items() if name.endswith("Probe")}
        assert {"livenessProbe", "readinessProbe"} <= set(probes)
        for probe in probes.values():
            assert probe["httpGet"]["path"] in known
            assert probe["httpGet"]["port"] in names


def test_containers_may_do_no_more_than_they_need(values: Json) -> None:
    of_all = [
        (s, each) for s, c in containers(values) for each in (c, *s.get("initContainers", ()))
    ]
    for spec, container in of_all:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "privileged" not in security
        if container["name"] == "server":
            assert "add" not in security["capabilities"]
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert not any("hostPath" in volume for volume in spec["volumes"])


# ------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize("name", ["server", "agent"])
def test_containerfiles(name: str) -> None:
    """Versions of Debian's packages are not pinned: a build takes what is repaired by then."""
    file = DEPLOY / f"Containerfile.{name}"
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "--no-color", "--ignore", "DL3008", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")
    last = {
        line.partition(" ")[0]: line.partition(" ")[2] for line in file.read_text().splitlines()
    }
    (container,) = (c for _, c in containers({}) if c["name"] == name)
    assert json.loads(last["ENTRYPOINT"]) == ["reconciler"], "arguments begin with the command"
    assert json.loads(last["CMD"])[0] == container["args"][0] == name
    (spec,) = (s for s, c in containers({}) if c["name"] == name)
    user = {**spec["securityContext"], **container["securityContext"]}["runAsUser"]
    assert last.get("USER", "0:0").partition(":")[0] == str(user)
