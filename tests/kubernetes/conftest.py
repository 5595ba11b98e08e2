"""One real API server for the whole session (for each worker, with -n), a prefix for each test.

A test that kills or pauses the API server, or compacts etcd, leaves it running and ready.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from reconciler.server.kubernetes.client import ApiClient
from reconciler.testing.kubernetes import Cluster
from tests.kubernetes.api import Api

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
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
