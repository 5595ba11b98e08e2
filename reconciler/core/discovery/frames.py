"""Responses of both variants, each made once for all streams that need the same.

A resource's bytes are made once too, and joined (protobuf allows a message to be concatenated from
its encoded fields). Delta responses, and those of types whose state of the world need not be
complete, are split where they would pass the limit. What is sent of a type that has a heartbeat, to
a client that can take it, carries a time to live of three heartbeats, and a `Lasting` its own.

Field numbers are those of envoy/service/discovery/v3/discovery.proto and google/protobuf/*.proto.
"""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from reconciler.core.discovery.snapshot import NONE, Names, Snapshot, Step
from reconciler.core.discovery.types import Lasting, Variant
from reconciler.core.resources.types import Resource
from reconciler.core.xds import sotw
from reconciler.core.xds.codec import Frame, field, type_field, varint
from reconciler.core.xds.subscription import WILDCARD

TTL_BEATS: Final = 3
"""Heartbeats in one time to live: one may be late, one may be lost."""

_KEPT_BYTES: Final = 32 << 20
"""Responses that are kept to be shared."""

_KEPT_STEPS: Final = 4096

_KEPT_WRAPPED: Final = 1 << 14
_KEPT_SAID: Final = 1 << 19
"""Names whose versions in recent responses are remembered, for what a NACK is about."""

_RESOURCE: Final = "type.googleapis.com/envoy.service.discovery.v3.Resource"


class Said(msgspec.Struct, frozen=True):
    """What a response says. versions: of the resources, "" where it says that there is none."""

    names: tuple[str, ...]
    versions: tuple[str, ...]


class Frames:
    def __init__(
        self,
        full_state: Collection[str],
        limit: int,
        heartbeat: Mapping[str, float],
        keep: int = _KEPT_BYTES,
    ) -> None:
        """limit: bytes of resources a response; heartbeat: type URL → seconds between two."""
        self._full_state = full_state
        self._limit = limit
        self._ttl = {each: _ttl(seconds * TTL_BEATS) for each, seconds in heartbeat.items()}
        self._keep = keep
        self._kept: OrderedDict[Step, int] = OrderedDict()
        self._kept_bytes = 0
        self._wrapped: OrderedDict[tuple[str, str, str, bool, bytes], bytes] = OrderedDict()
        self._said: OrderedDict[str, Said] = OrderedDict()
        self._said_names = 0

    def of(
        self,
        type_url: str,
        step: Step,
        variant: Variant,
        wildcard: bool,
        names: Names,
        forced: Names = NONE,
        ttl: bool = False,
    ) -> tuple[Frame, ...]:
        """What leads a subscription along a step; () for nothing."""
        delta = variant is Variant.DELTA
        if wildcard:
            key: object = (type_url, delta, ttl, forced)  # whatever it names besides
        elif not forced and names.isdisjoint(step.changed):
            return ()
        else:
            key = (type_url, delta, ttl, forced, names)
        found = step.frames.get(key)
        if found is None:
            made = self._delta if delta else self._sotw
            found = tuple(made(type_url, step, wildcard, names, forced, ttl))
            step.frames[key] = found
            self._keep_frames(step, found)
        return found

    def heartbeat(
        self, type_url: str, target: Snapshot, variant: Variant, wildcard: bool, names: Names
    ) -> tuple[Frame, ...]:
        """That what a subscription holds is as it was."""
        step = target.step(target)
        key = (type_url, "heartbeat", variant, wildcard, names)
        found = step.frames.get(key)
        if found is None:
            held = target.wanted(wildcard, names)
            ending = [each for each in held if self._ends(each)]
            if variant is Variant.DELTA or type_url not in self._full_state or not ending:
                held = ending
            if variant is Variant.DELTA:
                found = tuple(self._split_delta(type_url, held, (), True, body=False))
            else:
                # A complete response has those too that don't end, or it would remove them.
                wrapped = [
                    _wrap_sotw(each, ends, body=False) if ends else self._wrap(each, False, True)
                    for each, ends in ((each, self._ends(each)) for each in held)
                ]
                version = target.version(wildcard, names)
                split = self._split_sotw(type_url, version, held, wrapped)
                found = tuple(split) if held else ()
            step.frames[key] = found
            self._keep_frames(step, found)
        return found

    def said(self, nonce: str) -> Said | None:
        """What a response said, if it is one of the latest."""
        return self._said.get(nonce)

    def forget(self, steps: Iterable[Step]) -> None:
        """Nobody takes these steps any more."""
        for step in steps:
            self._kept_bytes -= self._kept.pop(step, 0)

    # ------------------------------------------------------------------------------- inside

    def _keep_frames(self, step: Step, frames: tuple[Frame, ...]) -> None:
        size = sum(len(frame.data) for frame in frames)
        self._kept[step] = self._kept.pop(step, 0) + size
        self._kept_bytes += size
        while len(self._kept) > 1 and (
            self._kept_bytes > self._keep or len(self._kept) > _KEPT_STEPS
        ):
            oldest, its = self._kept.popitem(last=False)
            oldest.frames.clear()
            self._kept_bytes -= its

    def _delta(
        self,
        type_url: str,
        step: Step,
        wildcard: bool,
        names: Names,
        forced: Names,
        ttl: bool,
    ) -> Iterator[Frame]:
        put, removed = step.due(wildcard, names, forced)
        if put or removed:
            yield from self._split_delta(type_url, put, removed, ttl)
        elif wildcard and WILDCARD in forced:
            # Whoever asks for all there is waits for an answer, if only that there is nothing.
            yield self._join_delta(type_url, [], (), ())

    def _split_delta(
        self,
        type_url: str,
        put: Sequence[Resource],
        removed: Sequence[str],
        ttl: bool,
        *,
        body: bool = True,
    ) -> Iterator[Frame]:
        chunk: list[bytes] = []
        names: list[str] = []
        versions: list[str] = []
        size = 0
        items = [(each.name, each.version, each) for each in put]
        for name, version, resource in (*items, *((name, "", None) for name in removed)):
            if resource is None:
                data = field(6, name.encode())
            elif body:
                data = self._wrap(resource, True, ttl)
            else:
                data = field(2, _inner(resource, self._ends(resource), body=False))
            if chunk and size + len(data) > self._limit:
                yield self._join_delta(type_url, chunk, names, versions)
                chunk, names, versions, size = [], [], [], 0
            chunk.append(data)
            names.append(name)
            versions.append(version)
            size += len(data)
        if chunk:
            yield self._join_delta(type_url, chunk, names, versions)

    def _join_delta(
        self, type_url: str, chunk: Sequence[bytes], names: Sequence[str], versions: Sequence[str]
    ) -> Frame:
        body = b"".join((*chunk, field(4, type_url.encode())))
        nonce = urlsafe_b64encode(hashlib.sha256(body).digest()[:12]).decode()
        frame = Frame(type_url, nonce, body + field(5, nonce.encode()), len(chunk))
        self._remember(nonce, names, versions)
        return frame

    def _sotw(
        self,
        type_url: str,
        step: Step,
        wildcard: bool,
        names: Names,
        forced: Names,
        ttl: bool,
    ) -> Iterator[Frame]:
        put, removed = step.due(wildcard, names, forced)
        target = step.target
        if type_url in self._full_state:
            if not (put or removed or forced):
                return
            held = target.wanted(wildcard, names)
            wrapped = [self._wrap(each, False, ttl) for each in held]
            yield self._join_sotw(type_url, target.version(wildcard, names), held, wrapped)
        elif put:
            wrapped = [self._wrap(each, False, ttl) for each in put]
            yield from self._split_sotw(type_url, target.version(wildcard, names), put, wrapped)

    def _split_sotw(
        self, type_url: str, version: str, held: Sequence[Resource], wrapped: Sequence[bytes]
    ) -> Iterator[Frame]:
        """Only the last one brings a client to the version."""
        begin = size = part = 0
        if type_url not in self._full_state:
            for at, data in enumerate(wrapped):
                if at > begin and size + len(data) > self._limit:
                    part += 1
                    of = f"{version}.{part}"
                    yield self._join_sotw(type_url, of, held[begin:at], wrapped[begin:at])
                    begin, size = at, 0
                size += len(data)
        yield self._join_sotw(type_url, version, held[begin:], wrapped[begin:])

    def _join_sotw(
        self, type_url: str, version: str, held: Sequence[Resource], wrapped: Sequence[bytes]
    ) -> Frame:
        frame = sotw.join(type_url, version, wrapped)
        self._remember(frame.nonce, [r.name for r in held], [r.version for r in held])
        return frame

    def _remember(self, nonce: str, names: Sequence[str], versions: Sequence[str]) -> None:
        if nonce in self._said:
            self._said.move_to_end(nonce)
            return
        self._said[nonce] = Said(tuple(names), tuple(versions))
        self._said_names += len(names) + 1
        while self._said_names > _KEPT_SAID and len(self._said) > 1:
            _, oldest = self._said.popitem(last=False)
            self._said_names -= len(oldest.names) + 1

    def _ends(self, resource: Resource) -> bytes:
        """Its time to live as a field of its wrapper, b"" for none."""
        if isinstance(resource, Lasting):
            return _ttl(resource.ttl)
        return self._ttl.get(resource.type_url, b"")

    def _wrap(self, resource: Resource, delta: bool, able: bool) -> bytes:
        """able: the client can take a time to live"""
        ttl = self._ends(resource) if able else b""
        key = (resource.type_url, resource.name, resource.version, delta, ttl)
        data = self._wrapped.get(key)
        if data is None:
            if delta:
                data = field(2, _inner(resource, ttl))
            elif ttl:
                data = _wrap_sotw(resource, ttl)
            else:
                data = sotw.wrap(resource)
            self._wrapped[key] = data
            if len(self._wrapped) > _KEPT_WRAPPED:
                self._wrapped.popitem(last=False)
        return data


def _inner(resource: Resource, ttl: bytes, *, body: bool = True) -> bytes:
    """A `Resource` {version: 1, resource: Any = 2, name: 3, ttl: 6}."""
    said = field(1, resource.version.encode())
    if body:
        any_bytes = type_field(resource.type_url)
        if resource.body:
            any_bytes += field(2, resource.body)
        said += field(2, any_bytes)
    return said + field(3, resource.name.encode()) + ttl


def _wrap_sotw(resource: Resource, ttl: bytes, *, body: bool = True) -> bytes:
    """The same in the Any of a DiscoveryResponse."""
    return field(2, type_field(_RESOURCE) + field(2, _inner(resource, ttl, body=body)))


def _ttl(seconds: float) -> bytes:
    """Field 6 of a `Resource`: a Duration {seconds: 1, nanos: 2}."""
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    data = b"\x08" + varint(whole) if whole else b""
    if nanos:
        data += b"\x10" + varint(nanos)
    return field(6, data)
