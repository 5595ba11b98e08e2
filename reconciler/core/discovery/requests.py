"""Requests of many streams, most of which say the same: bytes that are equal are parsed once.

ACKs of one response are equal bytes on all streams; first requests are, but for the node, which is
cut out and read on its own. What was parsed is kept by its bytes, in bounded number.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import msgspec
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from reconciler.core.discovery.snapshot import Snapshot, held
from reconciler.core.discovery.types import DELTA, SOTW, Node, Variant
from reconciler.core.xds import codec, sotw
from reconciler.core.xds.codec import Request
from reconciler.errors import ProtocolError

_KEPT_REQUESTS: Final = 4096
_KEPT_BYTES: Final = 8 << 20
_LARGEST_KEPT: Final = 1 << 20
_KEPT_METADATA: Final = 1024
_LARGEST_METADATA: Final = 16 << 10

MAX_REQUEST: Final = 16 << 20
"""Bytes. 100,000 names and what is held of each have room in it."""

MAX_NODE: Final = 1 << 20
"""Bytes of what a node says of itself, which is kept with each stream."""

_NODE_TAG: Final = 0x0A  # of a DeltaDiscoveryRequest
_SOTW_NODE_TAG: Final = 0x12
_VERSION_TAG: Final = 0x0A
"""version_info, which comes before the node in a DiscoveryRequest."""


class Parsed(msgspec.Struct, frozen=True):
    """base: what the client says it holds, None for nothing; plain: a delta client's ACK that says
    nothing else, as nearly every request is one."""

    request: Request
    base: Snapshot | None
    plain: bool = False


class Decoder:
    def __init__(self, max_names: int) -> None:
        self._max_names = max_names
        self._delta: OrderedDict[bytes, Parsed] = OrderedDict()
        self._sotw: OrderedDict[bytes, Parsed] = OrderedDict()
        self._kept_bytes = 0
        self._metadata: OrderedDict[bytes, dict[str, Any]] = OrderedDict()

    def first(self, variant: Variant, data: bytes) -> tuple[Node, int, Parsed]:
        """The first request of a stream; the number stands for the node's bytes, for `later`.

        ProtocolError: INVALID_ARGUMENT where it is none, RESOURCE_EXHAUSTED where it is too large.
        """
        _check(len(data), MAX_REQUEST, "a request")
        cut = _cut(variant, data)
        if cut is not None:
            node, rest = cut
            parsed = self._parsed(variant, rest)
            if not parsed.request.node:  # else there is a second part of it, to be merged
                return self._node(node), hash(node), parsed
        parsed = self._parsed(variant, data)
        node = _node_of(variant, data)
        return self._node(node), hash(node), parsed

    def later(self, variant: Variant, data: bytes, node_hash: int) -> Parsed:
        """Any other one. Its node is given only if it isn't, byte for byte, that of the first:
        some clients say it every time.
        """
        found = (self._delta if variant is DELTA else self._sotw).get(data)
        if found is not None:
            return found
        _check(len(data), MAX_REQUEST, "a request")
        cut = _cut(variant, data)
        if cut is not None and hash(cut[0]) == node_hash:
            parsed = self._parsed(variant, cut[1])
            if not parsed.request.node:
                return parsed
        return self._parsed(variant, data)

    def _parsed(self, variant: Variant, data: bytes) -> Parsed:
        delta = variant is DELTA
        kept = self._delta if delta else self._sotw
        found = kept.get(data)
        if found is None:
            decode = codec.decode_request if delta else sotw.decode_request
            request = decode(data, self._max_names)
            base = held(request.type_url, request.initial) if request.initial else None
            found = Parsed(request, base, delta and _is_plain(request))
            if len(data) <= _LARGEST_KEPT:
                kept[data] = found
                self._kept_bytes += len(data)
                while self._kept_bytes > _KEPT_BYTES or len(kept) > _KEPT_REQUESTS:
                    self._kept_bytes -= len(self._longest().popitem(last=False)[0])
        return found

    def _longest(self) -> OrderedDict[bytes, Parsed]:
        return max(self._delta, self._sotw, key=len)

    def _node(self, data: bytes) -> Node:
        _check(len(data), MAX_NODE, "the request's node")
        try:
            message = base_pb2.Node.FromString(data)
        except DecodeError as error:
            raise ProtocolError("INVALID_ARGUMENT", f"the request's node: {error}") from None
        return Node(
            id=message.id,
            cluster=message.cluster,
            metadata=self._read_metadata(message) if message.HasField("metadata") else {},
            features=frozenset(message.client_features),
        )

    def _read_metadata(self, message: Any) -> dict[str, Any]:
        data = message.metadata.SerializeToString(deterministic=True)
        found = self._metadata.get(data)
        if found is None:
            try:
                found = json_format.MessageToDict(message.metadata)
            except (ValueError, json_format.Error) as error:
                raise ProtocolError("INVALID_ARGUMENT", f"the node's metadata: {error}") from None
            if len(data) > _LARGEST_METADATA:
                return found
            self._metadata[data] = found
            if len(self._metadata) > _KEPT_METADATA:
                self._metadata.popitem(last=False)
        return found


def _check(size: int, limit: int, what: str) -> None:
    if size > limit:
        raise ProtocolError("RESOURCE_EXHAUSTED", f"{what} has {size} bytes, the limit is {limit}")


def _is_plain(request: Request) -> bool:
    return bool(request.nonce) and request == Request(request.type_url, nonce=request.nonce)


def _cut(variant: Variant, data: bytes) -> tuple[bytes, bytes] | None:
    """The node's bytes and all others; None where the node is not where encoders put it."""
    at, tag = 0, _NODE_TAG
    if variant is SOTW:
        tag = _SOTW_NODE_TAG
        if data[:1] == bytes((_VERSION_TAG,)):
            end = _end(data, 1)
            if end is None:
                return None
            at = end[1]
    if at >= len(data) or data[at] != tag:
        return None
    found = _end(data, at + 1)
    if found is None:
        return None
    begin, end_at = found
    return data[begin:end_at], data[:at] + data[end_at:]


def _end(data: bytes, at: int) -> tuple[int, int] | None:
    """Where a field's content begins and ends, by the length at `at`; None for what is none."""
    size = shift = 0
    while at < len(data) and shift < 35:
        byte = data[at]
        size |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return (at, at + size) if at + size <= len(data) else None
    return None


def _node_of(variant: Variant, data: bytes) -> bytes:
    """The node of a request that was parsed before, wherever it is."""
    if variant is DELTA:
        message = discovery_pb2.DeltaDiscoveryRequest.FromString(data)
    else:
        message = discovery_pb2.DiscoveryRequest.FromString(data)
    found: bytes = message.node.SerializeToString()
    return found
