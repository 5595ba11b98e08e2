"""One real API server for this folder (for each worker, with -n), a prefix for each test.

It ends with the folder's last test: one that nobody asks still takes a tenth of a processor. A test
that kills or pauses the API server, or compacts etcd, leaves it running and ready.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api
from tests.kubernetes.identities import clean
from tests.kubernetes.plane import Plane

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """Fails, with what to do, where its programs are not built."""
    with Cluster() as running:
        yield running


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ApiClient]:
    """The administrator's."""
    connected = await ApiClient.connect(cluster.kubeconfig())
    yield connected
    await connected.close()


@pytest.fixture
def api(client: ApiClient) -> Api:
    return Api(client, f"t{next(_numbers)}")


@pytest.fixture
async def plane(
    cluster: Cluster, client: ApiClient, api: Api, tmp_path: Path
) -> AsyncIterator[Plane]:
    """Nothing runs yet; what a test starts with it ends with the test."""
    await clean(client)
    made = Plane(tmp_path, str(cluster.kubeconfig()), api.name("cluster"))
    yield made
    made.kill_all()
