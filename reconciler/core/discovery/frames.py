"""Responses of both variants, each made once for all streams that need the same.

A resource's bytes are made once too, and joined (protobuf allows a message to be concatenated from
its encoded fields). Delta responses, and those of types whose state of the world need not be
complete, are split where they would pass the limit. A `Lasting` has its time to live where the
client can take one.

A response belongs to the step that it leads along, and ends with it; nothing here keeps a step.

Field numbers are those of envoy/service/discovery/v3/discovery.proto and google/protobuf/*.proto.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final
from weakref import ref

from reconciler.core.discovery.snapshot import NONE, Names, Said, Snapshot, Step, Told
from reconciler.core.discovery.types import DELTA, Variant, ttl_of
from reconciler.core.resources.types import Resource
from reconciler.core.xds import codec, sotw
from reconciler.core.xds.codec import Frame, field, type_field, varint
from reconciler.core.xds.kept import Kept
from reconciler.core.xds.subscription import WILDCARD

_KEPT_BYTES: Final = 32 << 20
"""Responses that are kept to be shared, and as much of resources."""

_KEPT_WRAPPED: Final = 1 << 14

_NAME_BYTES: Final = 100
"""What a name takes at least that responses are found by: a string, and a place in a set."""

_RESOURCE: Final = "type.googleapis.com/envoy.service.discovery.v3.Resource"


class Frames:
    def __init__(self, full_state: Collection[str], limit: int, keep: int = _KEPT_BYTES) -> None:
        """limit: bytes of resources and removals a response; keep: bytes of responses."""
        self._full_state = full_state
        self._limit = limit
        self._keep = keep
        self._kept: OrderedDict[ref[Step], int] = OrderedDict()  # bytes of the responses of each
        self._kept_bytes = 0
        self._wrapped: Kept[tuple[str, str, str, bool, bytes], bytes] = Kept(keep, _KEPT_WRAPPED)

    def of(
        self,
        type_url: str,
        step: Step,
        variant: Variant,
        wildcard: bool,
        names: Names,
        forced: Names = NONE,
        ttl: bool = False,
    ) -> tuple[Told, ...]:
        """What leads a subscription along a step; () for nothing. ttl: the client can take one"""
        delta = variant is DELTA
        if wildcard:
            key: object = (type_url, delta, ttl, forced)  # whatever it names besides
        elif not forced and names.isdisjoint(step.changed):
            return ()
        else:
            key = (type_url, delta, ttl, forced, names)
        found = step.frames.get(key)
        if found is None:
            put, removed = step.due(wildcard, names, forced)
            complete = type_url in self._full_state
            found = ()
            if delta:
                # Whoever asks for all there is waits for an answer, if only that there is nothing.
                empty = wildcard and WILDCARD in forced
                wrapped = [self._wrap(each, True, ttl) for each in put]
                found = tuple(self._delta(type_url, put, wrapped, removed, empty=empty))
            elif put or (complete and (removed or forced)):
                held = step.target.wanted(wildcard, names) if complete else put
                wrapped = [self._wrap(each, False, ttl) for each in held]
                version = step.target.version(wildcard, names)
                found = tuple(self._sotw(type_url, version, held, wrapped))
            self._share(step, key, found, len(forced) + (0 if wildcard else len(names)))
        return found

    def heartbeat(
        self, type_url: str, has: Snapshot, variant: Variant, wildcard: bool, names: Names
    ) -> tuple[Told, ...]:
        """That what a subscription has goes on; in the state of the world in full: Envoy (1.40)
        takes a cluster without content for one that is gone, and ends at endpoints without."""
        step = has.step(has)
        key = (type_url, "heartbeat", variant, wildcard, names)
        found = step.frames.get(key)
        if found is None:
            held = has.wanted(wildcard, names)
            ending = [each for each in held if _ttl(each)]
            if variant is DELTA:
                wrapped = [field(2, codec.inner(each, _ttl(each), body=False)) for each in ending]
                found = tuple(self._delta(type_url, ending, wrapped, ()))
            elif ending:
                # A complete response has those too that don't end, or it would remove them.
                held = held if type_url in self._full_state else ending
                wrapped = [self._wrap(each, False, True) for each in held]
                found = tuple(self._sotw(type_url, has.version(wildcard, names), held, wrapped))
            else:
                found = ()
            self._share(step, key, found, len(names))
        return found

    def whole(self, type_url: str, target: Snapshot, wildcard: bool, names: Names) -> Told:
        """All that a subscription holds in one response of the state of the world, with the version
        of it. Nobody answers it, so it says nothing that is to be remembered."""
        step = target.step(target)
        key = (type_url, "whole", wildcard, NONE if wildcard else names)
        found = step.frames.get(key)
        if found is None:
            held = target.wanted(wildcard, names)
            wrapped = [self._wrap(each, False, False) for each in held]
            version = target.version(wildcard, names)
            found = (_told(sotw.join(type_url, version, wrapped), (), ()),)
            self._share(step, key, found, 0 if wildcard else len(names))
        return found[0]

    # ------------------------------------------------------------------------------- inside

    def _share(self, step: Step, key: object, frames: tuple[Told, ...], names: int) -> None:
        """names: how many there are in the key"""
        step.frames[key] = frames
        size = sum(len(frame.data) for frame in frames) + names * _NAME_BYTES
        kept = self._kept
        this = ref(step, self._ended)
        kept[this] = kept.pop(this, 0) + size
        self._kept_bytes += size
        while self._kept_bytes > self._keep and len(kept) > 1:
            oldest, its = kept.popitem(last=False)
            self._kept_bytes -= its
            of = oldest()
            if of is not None:
                of.frames.clear()

    def _ended(self, step: ref[Step]) -> None:
        """There is no way to it any more, so nobody takes it."""
        self._kept_bytes -= self._kept.pop(step, 0)

    def _delta(
        self,
        type_url: str,
        put: Sequence[Resource],
        wrapped: Sequence[bytes],
        removed: Sequence[str],
        *,
        empty: bool = False,
    ) -> Iterator[Told]:
        """empty: one at least, if there is nothing to say"""
        fields = [*wrapped, *(field(6, name.encode()) for name in removed)]
        names = (*(each.name for each in put), *removed)
        versions = (*(each.version for each in put), *("" for _ in removed))
        named = field(4, type_url.encode())
        runs = codec.runs(map(len, fields), self._limit)
        for begin, end in runs if fields or not empty else [(0, 0)]:
            frame = codec.sealed(type_url, (*fields[begin:end], named), end - begin)
            yield _told(frame, names[begin:end], versions[begin:end])

    def _sotw(
        self, type_url: str, version: str, held: Sequence[Resource], wrapped: Sequence[bytes]
    ) -> Iterator[Told]:
        """Only the last one brings a client to the version; a complete one is not split."""
        runs = [(0, len(wrapped))]
        if type_url not in self._full_state:
            runs = list(codec.runs(map(len, wrapped), self._limit))
        for part, (begin, end) in enumerate(runs, 1):
            of = version if part == len(runs) else f"{version}.{part}"
            frame = sotw.join(type_url, of, wrapped[begin:end])
            these = held[begin:end]
            yield _told(frame, (each.name for each in these), (each.version for each in these))

    def _wrap(self, resource: Resource, delta: bool, able: bool) -> bytes:
        """able: the client can take a time to live"""
        ttl = _ttl(resource) if able else b""
        key = (resource.type_url, resource.name, resource.version, delta, ttl)
        data = self._wrapped.get(key)
        if data is None:
            if delta:
                data = field(2, codec.inner(resource, ttl))
            elif ttl:
                data = _in_any(resource, ttl)
            else:
                data = field(2, codec.any_of(resource))
            self._wrapped.put(key, data, len(data))
        return data


def _told(frame: Frame, names: Iterable[str], versions: Iterable[str]) -> Told:
    said = Said(frame.nonce, tuple(names), tuple(versions))
    return Told(frame.type_url, frame.nonce, frame.data, frame.resources, (said,))


def _in_any(resource: Resource, ttl: bytes) -> bytes:
    """Field `resources` (2) of a DiscoveryResponse, an Any, with a `Resource` in it."""
    return field(2, type_field(_RESOURCE) + field(2, codec.inner(resource, ttl)))


def _ttl(resource: Resource) -> bytes:
    """Field 6 of a `Resource`, a Duration {seconds: 1, nanos: 2}; b"" where it does not end."""
    ttl = ttl_of(resource)
    if ttl is None:
        return b""
    whole, nanos = divmod(round(ttl * 1e9), 1_000_000_000)
    data = b"\x08" + varint(whole) if whole else b""
    if nanos:
        data += b"\x10" + varint(nanos)
    return field(6, data)
