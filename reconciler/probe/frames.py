"""Requests and responses of both variants as one kind of value, and their bytes.

Nothing is judged here: a response that repeats a name, or has resources of another type, is given
as it came, for whoever looks at it. (The agent's own codec refuses such a response.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, json_format
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from reconciler.errors import ProtocolError
from reconciler.probe.messages import Unnamed, name_of, unwrap
from reconciler.probe.services import Variant


class Node(msgspec.Struct, frozen=True):
    """Who asks; said in the first request of a stream only."""

    id: str = ""
    cluster: str = ""
    metadata: Mapping[str, Any] = {}
    features: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True):
    """One request of either variant.

    names:       SotW: all that are wanted; delta: those that are added
    unsubscribe: delta only
    initial:     delta only: name → version that is held from an earlier stream
    version:     SotW only: version_info of the last response that was accepted
    error:       the text of a NACK; None: this is none
    """

    type_url: str
    names: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial: Mapping[str, str] = {}
    version: str = ""
    nonce: str = ""
    error: str | None = None
    node: Node | None = None


class Item(msgspec.Struct, frozen=True):
    """One resource of a response.

    version: delta, or of a wrapper; "" where none was said
    body:    None: a heartbeat, which only renews the time to live
    ttl:     seconds; None: it does not end
    """

    name: str
    version: str
    body: any_pb2.Any | None
    ttl: float | None = None


class Response(msgspec.Struct, frozen=True):
    """One response of either variant, as it came.

    version: version_info, or system_version_info in delta, where it is for people only
    removed: delta only
    unnamed: SotW: why some resources are not in `items`
    """

    type_url: str
    version: str
    nonce: str
    items: tuple[Item, ...]
    removed: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()


def encode(request: Request, variant: Variant) -> bytes:
    """The bytes of a request; what the variant does not have is left out."""
    message: Any
    if variant is Variant.DELTA:
        message = discovery_pb2.DeltaDiscoveryRequest(
            type_url=request.type_url,
            resource_names_subscribe=request.names,
            resource_names_unsubscribe=request.unsubscribe,
            initial_resource_versions=request.initial,
            response_nonce=request.nonce,
        )
    else:
        message = discovery_pb2.DiscoveryRequest(
            type_url=request.type_url,
            resource_names=request.names,
            version_info=request.version,
            response_nonce=request.nonce,
        )
    if request.node is not None:
        message.node.CopyFrom(_node(request.node))
    if request.error is not None:
        message.error_detail.code = code_pb2.INVALID_ARGUMENT
        message.error_detail.message = request.error
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def decode(data: bytes, variant: Variant) -> Response:
    """ProtocolError INVALID_ARGUMENT: the bytes are no response of this variant."""
    message: Any
    delta = variant is Variant.DELTA
    message = discovery_pb2.DeltaDiscoveryResponse() if delta else discovery_pb2.DiscoveryResponse()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        name = message.DESCRIPTOR.name
        raise ProtocolError("INVALID_ARGUMENT", f"not a {name}: {error}") from None
    if delta:
        return Response(
            type_url=message.type_url,
            version=message.system_version_info,
            nonce=message.nonce,
            items=tuple(_item(each) for each in message.resources),
            removed=tuple(message.removed_resources),
        )
    items, unnamed = [], []
    for any_ in message.resources:
        wrapper = unwrap(any_)
        if wrapper is not None:
            items.append(_item(wrapper))
            continue
        name = name_of(any_)
        if isinstance(name, Unnamed):
            unnamed.append(name.reason)
        else:
            items.append(Item(name, "", any_))
    return Response(
        type_url=message.type_url,
        version=message.version_info,
        nonce=message.nonce,
        items=tuple(items),
        unnamed=tuple(unnamed),
    )


def _item(resource: discovery_pb2.Resource) -> Item:
    ttl = None
    if resource.HasField("ttl"):
        ttl = resource.ttl.seconds + resource.ttl.nanos / 1e9
    body = resource.resource if resource.HasField("resource") else None
    return Item(resource.name, resource.version, body, ttl)


def _node(node: Node) -> base_pb2.Node:
    message = base_pb2.Node(id=node.id, cluster=node.cluster, client_features=node.features)
    if node.metadata:
        json_format.ParseDict(dict(node.metadata), message.metadata)
    message.user_agent_name = "reconciler-probe"
    return message
