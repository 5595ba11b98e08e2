"""Which devices count as pods': by their names once, by their indices from then on."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from reconciler.agent import links
from reconciler.agent.links import Device, Links

ADDRESS = bytes([10, 1, 0, 1])


class Watch:
    """Links over devices that are set by hand; what it was told, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, adopted: Collection[int] = ()) -> None:
        self.devices: dict[int, Device] = {}
        self.told: list[Device | int] = []
        monkeypatch.setattr(links, "devices", lambda: dict(self.devices))
        self.links = Links("veth*", self.told.append, self.told.append, adopted)

    def set(self, *devices: Device) -> list[Device | int]:
        """These are there now; what was told of it."""
        self.devices = {device.ifindex: device for device in devices}
        self.links.refresh()
        return self.took()

    def took(self) -> list[Device | int]:
        told = self.told.copy()
        self.told.clear()
        return told


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_devices_that_match_come_change_and_go(watch: Watch) -> None:
    veth, other = Device(7, "veth7"), Device(2, "eth0")
    assert watch.set(veth, other) == [veth]
    assert watch.set(veth, other) == []
    routed = Device(7, "veth7", frozenset({ADDRESS}))
    assert watch.set(routed, other) == [routed]
    assert watch.set(other) == [7]
    assert watch.links.known == {}


def test_an_included_device_counts_until_it_goes(watch: Watch) -> None:
    pod = Device(9, "lxc9")
    assert watch.set(pod) == []
    watch.links.include("lxc9")
    assert watch.took() == [pod]
    assert watch.links.named("lxc9") == pod
    renamed = Device(9, "tap9")
    assert watch.set(renamed) == [renamed]
    assert watch.set(renamed, Device(10, "lxc9")) == []
    assert watch.set() == [9]
    assert watch.set(Device(9, "lxc9")) == []


def test_a_device_that_is_renamed_is_not_gone(watch: Watch) -> None:
    watch.set(Device(7, "veth7"))
    renamed = Device(7, "eth1")
    assert watch.set(renamed) == [renamed]
    assert watch.links.known == {7: renamed}


def test_an_adopted_device_counts_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch, adopted={7, 8})
    pod = Device(7, "lxc7")
    assert watch.set(pod, Device(2, "eth0")) == [pod]
    assert watch.set(pod, Device(8, "eth1")) == []  # it went while no agent was there
    assert watch.set() == [7]
    assert watch.set(pod) == []
