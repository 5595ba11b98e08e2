"""A replica of the server as XdsStream has it, made of the real classes, for its adapter.

What stands for a cut's content is its root alone: a cut that differs in nothing else is committed
at once, which makes it one frame.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Final, cast

from reconciler.core.resources.build import NodeView
from reconciler.core.resources.encode import version_of
from reconciler.core.resources.types import CUT_TYPES, IDENTITY, Resource
from reconciler.core.xds.codec import Encoder, Frame
from reconciler.core.xds.rollout import Rollout
from reconciler.core.xds.served import Due, Served
from reconciler.core.xds.stream import Acked, DeltaStream, Nacked, StreamEvent, Subscribed
from reconciler.core.xds.subscription import Wanted

SERVED: Final = frozenset((*CUT_TYPES, IDENTITY))
GRACE: Final = 5.0
ENCODER: Final = Encoder()  # what it keeps are shared bytes: no state of a server


def root(version: int) -> bytes:
    return bytes([version]) * 32


def label(name: str, version: int) -> Resource:
    body = b"%d" % version
    return Resource(IDENTITY, name, version_of(body), body)


VERSIONS: Final = {version_of(b"%d" % version): version for version in range(10)}


class _View:
    """A node view that differs from every other in its root alone."""

    position = None

    def __init__(self, revision: int, root: bytes) -> None:
        self.revision, self.root = revision, root

    def parts_lacking(self, _held: object) -> tuple[()]:
        return ()

    def parts_since(self, _view: object) -> tuple[()]:
        return ()

    def get(self, _type: str, _name: str) -> None:
        return None

    def shorten(self) -> None:
        pass


class Source:
    """What a replica has loaded; its rollout asks for the view."""

    def __init__(self) -> None:
        self.revision = 0
        self.contents: tuple[Mapping[str, int], ...] = ()
        self.star = ""

    def view(self, _refused: frozenset[str]) -> NodeView:
        content = self.contents[self.revision - 1]
        return cast(NodeView, _View(self.revision, root(content[self.star])))

    def labels(self) -> dict[str, Resource]:
        if not self.revision:
            return {}
        content = self.contents[self.revision - 1]
        return {
            name: label(name, version)
            for name, version in content.items()
            if name != self.star and version
        }


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: object) -> str | None:
        return "encoder" if value is ENCODER else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, _id: str) -> Encoder:
        return ENCODER


class Replica:
    def __init__(self) -> None:
        self.source = Source()
        self.rollout = Rollout(self.source.view, ENCODER, GRACE)
        self.stream = 0
        self.core: DeltaStream | None = None
        self.served: Served | None = None

    def copied(self) -> Replica:
        """An independent copy, that shares the encoder."""
        data = io.BytesIO()
        _Pickler(data, pickle.HIGHEST_PROTOCOL).dump(self)
        data.seek(0)
        copy: Replica = _Unpickler(data).load()
        return copy

    def open(self, stream: int) -> None:
        self.stream = stream
        self.core = DeltaStream(SERVED, whole=CUT_TYPES)
        self.served = None

    def close(self, now: float) -> None:
        """As the control plane does when a stream is over."""
        self.stream, self.core, self.served = 0, None, None
        self.rollout.disconnected(now)
        self.rollout.take()

    def published(self, revision: int, contents: tuple[Mapping[str, int], ...], now: float) -> None:
        self.source.revision, self.source.contents = revision, contents
        self.rollout.view_changed(revision, now)

    def receive(self, data: bytes, now: float) -> tuple[tuple[StreamEvent, ...], list[Frame]]:
        assert self.core is not None
        events = self.core.receive(data)
        frames: list[Frame] = []
        for event in events:
            match event:
                case _ if event.type_url == IDENTITY:
                    if isinstance(event, Subscribed):
                        self.served = Served(event.initial)
                    assert self.served is not None
                    subscription = self.core.subscription(IDENTITY)
                    assert subscription is not None
                    for due in self.served.answer(event, subscription, self.source.labels()):
                        frames += self._send(due)
                case Subscribed():
                    self.rollout.subscribed(event.type_url, event.initial, now)
                case Acked():
                    self.rollout.acked_response(event.type_url, event.nonce, now)
                case Nacked():
                    self.rollout.nacked_response(
                        event.type_url, event.nonce, event.reason, event.refusal, now
                    )
        return events, frames + self.flush()

    def changed(self) -> list[Frame]:
        """What of labels is due after a publication."""
        if self.core is None or self.served is None:
            return []
        subscription = self.core.subscription(IDENTITY)
        assert subscription is not None
        return self._send(self.served.due(subscription, self.source.labels(), Wanted()))

    def flush(self) -> list[Frame]:
        frames: list[Frame] = []
        for out in self.rollout.take():
            assert isinstance(out, Frame)
            if self.core is not None:
                self.core.sent(out)
                frames.append(out)
        return frames

    def _send(self, due: Due) -> list[Frame]:
        assert self.core is not None
        assert self.served is not None
        frames = ENCODER.frames(IDENTITY, due.put, due.removed)
        self.served.sent(due, frames)
        for frame in frames:
            self.core.sent(frame)
        return list(frames)
