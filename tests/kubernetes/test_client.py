"""The client against a real API server: who it is by each kind of credentials, what is refused."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import ConfigError, UnavailableError
from reconciler.server.kubernetes import credentials
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.testing.kubernetes import Cluster
from reconciler.testing.kubernetes.pki import Authority
from tests.kubernetes.api import Api


async def whoami(client: ApiClient) -> tuple[str, list[str]]:
    """User and groups, as the API server sees them."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    answer = await client.request("POST", path, body=json.dumps(review).encode())
    user = json.loads(answer.body)["status"]["userInfo"]
    return user["username"], user["groups"]


async def token_of(api: Api, namespace: str, **spec: Any) -> str:
    """A token of the namespace's service account `default`."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    made = await api.create(path, {"spec": {"expirationSeconds": 3600, **spec}})
    return str(made["status"]["token"])


def kubeconfig(cluster: Cluster, path: Path, user: dict[str, Any], **entry: Any) -> str:
    there = {"server": cluster.url, "certificate-authority": str(cluster.ca), **entry}
    other = {"cluster": "none", "user": "u"}
    config = {
        "clusters": [
            {"name": "c", "cluster": there},
            {"name": "none", "cluster": {"server": "https://127.0.0.1:1"}},
        ],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": "right", "context": {"cluster": "c", "user": "u"}},
            {"name": "wrong", "context": other},
        ],
        "current-context": "right",
    }
    path.write_text(json.dumps(config))
    return str(path)


async def test_a_client_certificate_names_user_and_groups(cluster: Cluster) -> None:
    client = await ApiClient.connect(cluster.kubeconfig("jane", ["auditors", "readers"]))
    user, groups = await whoami(client)
    assert user == "jane"
    assert {"auditors", "readers", "system:authenticated"} <= set(groups)
    with pytest.raises(ApiError, match="403 Forbidden") as refused:
        await client.request("GET", "/api/v1/pods")
    assert refused.value.reason == "Forbidden"
    assert 'User "jane" cannot list resource "pods"' in refused.value.message
    assert client.requests == {("create", "selfsubjectreviews"): 1, ("list", "pods"): 1}
    await client.close()


async def test_what_the_api_server_says_of_a_conflict(api: Api) -> None:
    shop = await api.namespace("shop")
    with pytest.raises(ApiError) as refused:
        await api.create("/api/v1/namespaces", {"metadata": {"name": shop}})
    assert (refused.value.status, refused.value.reason) == (409, "AlreadyExists")
    path = f"/api/v1/namespaces/{shop}"
    stale = await api.get(path)
    await api.patch(path, {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(ApiError) as refused:
        await api.update(path, stale)
    assert (refused.value.status, refused.value.reason) == (409, "Conflict")


async def test_a_server_of_another_ca_is_not_spoken_to(cluster: Cluster, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    config = json.loads(Path(cluster.kubeconfig()).read_text())
    data = base64.b64encode(other.ca.read_bytes()).decode()
    config["clusters"][0]["cluster"]["certificate-authority-data"] = data
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    client = await ApiClient.connect(str(path))
    with pytest.raises(UnavailableError, match="certificate verify failed"):
        await client.request("GET", "/version")
    await client.close()


async def test_tokens_of_a_kubeconfig(api: Api, cluster: Cluster, tmp_path: Path) -> None:
    """Inline, from a file, and from a plugin."""
    shop = await api.namespace("shop")
    token = await token_of(api, shop)
    (tmp_path / "token").write_text(token)
    plugin = tmp_path / "plugin.py"
    said = {"kind": "ExecCredential", "apiVersion": EXEC, "status": {"token": token}}
    plugin.write_text(f"print({json.dumps(json.dumps(said))})")
    run = {"apiVersion": EXEC, "command": sys.executable, "args": [str(plugin)], "env": None}
    for user in ({"token": token}, {"tokenFile": str(tmp_path / "token")}, {"exec": run}):
        client = await ApiClient.connect(kubeconfig(cluster, tmp_path / "config", user))
        assert (await whoami(client))[0] == f"system:serviceaccount:{shop}:default"
        await client.close()


EXEC = "client.authentication.k8s.io/v1"


async def test_the_context_that_is_asked_for(cluster: Cluster, tmp_path: Path) -> None:
    config = kubeconfig(cluster, tmp_path / "config", {})
    client = await ApiClient.connect(config, "wrong")
    assert client.host == "https://127.0.0.1:1"
    await client.close()
    with pytest.raises(ConfigError, match="Expected object with name missing"):
        await ApiClient.connect(config, "missing")
    with pytest.raises(ConfigError, match="absent"):
        await ApiClient.connect(str(tmp_path / "absent"))


@pytest.fixture
def in_pod(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], credentials.Credentials]:
    """What loads a pod's credentials; its token is the file `token`."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.port))
    return lambda: credentials.in_cluster(str(tmp_path / "token"), str(cluster.ca))


async def test_a_pod_goes_on_with_the_token_that_its_file_holds_now(
    api: Api, tmp_path: Path, in_pod: Callable[[], credentials.Credentials]
) -> None:
    """The first token is bound to a pod that is deleted: from then on it is refused."""
    shop = await api.namespace("shop")
    pod = await api.pod(shop, "server")
    bound = {"kind": "Pod", "apiVersion": "v1", "name": "server", "uid": pod["metadata"]["uid"]}
    token = tmp_path / "token"
    token.write_text(await token_of(api, shop, boundObjectRef=bound))
    client = await ApiClient.load(in_pod)
    user = f"system:serviceaccount:{shop}:default"
    assert (await whoami(client))[0] == user

    probe = await ApiClient.load(in_pod)
    assert (await whoami(probe))[0] == user
    await api.delete_pod(shop, "server")
    async with asyncio.timeout(60):  # the API server believes a token for ten seconds
        while await refusal(probe) != 401:
            await asyncio.sleep(0.1)
    token.write_text(await token_of(api, shop))
    assert await refusal(probe) == 401, "it has read its credentials just now"
    client._read_at -= 100.0  # this one has not
    assert (await whoami(client))[0] == user
    await client.close()
    await probe.close()


async def refusal(client: ApiClient) -> int:
    """Status of the answer to who it is; 0 where it is told."""
    try:
        await whoami(client)
    except ApiError as error:
        return error.status
    return 0


async def test_a_client_certificate_that_has_expired_is_read_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    past = datetime.timedelta(seconds=-60)
    config.write_text(Path(cluster.kubeconfig("jane", (), lasts=past)).read_text())
    client = await ApiClient.connect(str(config))
    with pytest.raises(ApiError, match="401 Unauthorized"):
        await whoami(client)
    config.write_text(Path(cluster.kubeconfig("jane", ())).read_text())
    client._read_at -= 100.0
    assert (await whoami(client))[0] == "jane"
    await client.close()


async def test_a_watch_tells_and_ends_when_it_is_asked_to(api: Api, client: ApiClient) -> None:
    shop = await api.namespace("shop")
    path = f"/api/v1/namespaces/{shop}/pods"
    version = (await api.get(path))["metadata"]["resourceVersion"]
    made = await api.pod(shop, "web")
    async with client.stream(path, {"resourceVersion": version, "timeoutSeconds": "1"}) as lines:
        events = [json.loads(line) async for line in lines]
    assert [(e["type"], e["object"]["metadata"]["uid"]) for e in events] == [
        ("ADDED", made["metadata"]["uid"])
    ]
    assert client.requests["watch", "pods"] == 1


async def test_closing_leaves_no_socket_of_a_request_that_was_cancelled(cluster: Cluster) -> None:
    """Also where the server doesn't answer, not even to the goodbye of TLS."""
    client = await ApiClient.connect(cluster.kubeconfig())
    await whoami(client)
    sockets = list(client._sockets)
    assert sockets
    cluster.pause_apiserver()
    try:
        with pytest.raises(UnavailableError, match="no answer in time to GET /api/v1/pods"):
            await client.request("GET", "/api/v1/pods", timeout=0.2)
        await client.close()
    finally:
        cluster.resume_apiserver()
    assert [each.fileno() for each in sockets] == [-1] * len(sockets)
