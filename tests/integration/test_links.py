"""The node's devices as netlink tells of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from reconciler.agent.links import Device, Links
from tests.integration.netns import Namespace

pytestmark = pytest.mark.kernel


class Told:
    """What was told, in order; `wait` until it is exactly this, and forget it."""

    def __init__(self) -> None:
        self._told: list[Device | int] = []
        self._more = asyncio.Event()

    def tell(self, what: Device | int) -> None:
        self._told.append(what)
        self._more.set()

    async def wait(self, *wanted: Device | int) -> None:
        async with asyncio.timeout(10):
            while len(self._told) < len(wanted):
                self._more.clear()
                await self._more.wait()
        assert self._told == list(wanted)
        self._told.clear()


@pytest.fixture
def node(kernel: None) -> Iterator[Namespace]:
    with Namespace() as namespace:
        yield namespace


def pair(name: str) -> str:
    return f"link add {name} index 71 type veth peer name far index 72"


async def test_a_device_under_the_index_of_one_that_went_is_another(node: Namespace) -> None:
    node.ip(pair("veth1"), "link add bridge type bridge")
    told = Told()
    links = Links("veth*", told.tell, told.tell)
    with node.entered():
        links.start()
        try:
            await told.wait(Device(71, "veth1"))
            node.ip("link del veth1", pair("veth2"))
            await told.wait(71, Device(71, "veth2"))
            node.ip("link del veth2", pair("other"))
            links.refresh()
            await told.wait(71)
            links.include("other")
            await told.wait(Device(71, "other"))
            # A bridge and a name are nothing that a device goes by.
            node.ip("link set other master bridge", "link set other nomaster")
            node.ip("link set other name again")
            await told.wait(Device(71, "again"))
        finally:
            links.stop()
