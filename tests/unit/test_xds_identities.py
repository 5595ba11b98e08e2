"""Identity resources: what a number means, by name only, kept up to date."""

from __future__ import annotations

import pytest

from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.plane import ControlPlane, PlaneConfig, WriteJournal
from reconciler.core.resources.decode import decode
from reconciler.core.resources.types import IDENTITY, PEER_SET
from reconciler.core.resources.values import IdentityLabels
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Request, decode_response
from reconciler.core.xds.effects import Close, Send
from reconciler.testing.journal import MemoryJournal
from reconciler.testing.world import World


class Rig:
    def __init__(self) -> None:
        self.journal = MemoryJournal()
        config = PlaneConfig(intake=IntakeConfig(filter=LabelFilter.default()))
        self.plane = ControlPlane(config, self.journal.open(), 0.0)
        self.world = World()
        self.world.node("n1", 1)
        self.world.namespace("shop", {})
        self.world.pod("shop", "web", "n1", {"app": "web"}, ["10.1.0.1"])
        self.plane.objects_changed(self.world.everything(), 0.0)
        self.sent: list[bytes] = []
        self.closed: list[Close] = []
        self.settle()
        self.plane.stream_opened(1, "n1", 0.0)

    def settle(self) -> None:
        while effects := self.plane.effects():
            for effect in effects:
                if isinstance(effect, WriteJournal):
                    self.plane.journal_written(self.journal.append(effect.batch), 0.0)
                elif isinstance(effect, Send):
                    self.sent.append(effect.frame)
                elif isinstance(effect, Close):
                    self.closed.append(effect)

    def ask(self, type_url: str, *names: str) -> None:
        frame = codec.encode_request(Request(type_url=type_url, subscribe=names))
        self.plane.received(1, frame, 0.0)
        self.settle()

    def got(self) -> tuple[list[IdentityLabels], list[str]]:
        found: list[IdentityLabels] = []
        removed: list[str] = []
        for frame in self.sent:
            response = decode_response(frame)
            for each in response.resources:
                value = decode(response.type_url, each.name, each.version, each.body)
                assert isinstance(value, IdentityLabels)
                found.append(value)
            removed += response.removed
        self.sent.clear()
        return found, removed


def test_a_number_is_answered_with_its_labels_or_as_removed() -> None:
    rig = Rig()
    (number,) = {each.number for each in rig.plane.intake.allocator.live().values()}
    rig.ask(IDENTITY, str(number), "60000")
    (found,), removed = rig.got()
    assert found.number == number
    assert "k8s:app=web" in found.labels
    assert removed == ["60000"]


def test_a_number_that_comes_to_mean_something_is_sent_then() -> None:
    rig = Rig()
    (number,) = {each.number for each in rig.plane.intake.allocator.live().values()}
    rig.ask(IDENTITY, str(number + 1))
    assert rig.got() == ([], [str(number + 1)])
    pod = rig.world.pod("shop", "db", "n1", {"app": "db"}, ["10.1.0.2"])
    rig.plane.objects_changed([pod], 0.0)
    rig.settle()
    (found,), removed = rig.got()
    assert found.number == number + 1
    assert "k8s:app=db" in found.labels
    assert not removed


@pytest.mark.parametrize(("type_url", "names"), [(IDENTITY, ("*",)), (PEER_SET, ("a/0",))])
def test_the_wrong_kind_of_subscription_ends_the_stream(
    type_url: str, names: tuple[str, ...]
) -> None:
    rig = Rig()
    rig.ask(type_url, *names)
    assert [each.status for each in rig.closed] == ["INVALID_ARGUMENT"]
    assert not rig.sent
