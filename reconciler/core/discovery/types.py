"""What passes between the core of the xDS server and the shell around it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from reconciler.core.resources.types import Resource

PREFIX: Final = "type.googleapis.com/envoy."

CDS: Final = PREFIX + "config.cluster.v3.Cluster"
EDS: Final = PREFIX + "config.endpoint.v3.ClusterLoadAssignment"
LDS: Final = PREFIX + "config.listener.v3.Listener"
RDS: Final = PREFIX + "config.route.v3.RouteConfiguration"
SRDS: Final = PREFIX + "config.route.v3.ScopedRouteConfiguration"
VHDS: Final = PREFIX + "config.route.v3.VirtualHost"
SDS: Final = PREFIX + "extensions.transport_sockets.tls.v3.Secret"
RTDS: Final = PREFIX + "service.runtime.v3.Runtime"
ECDS: Final = PREFIX + "config.core.v3.TypedExtensionConfig"

ORDER: Final = (SDS, CDS, EDS, LDS, RDS, SRDS, VHDS, ECDS, RTDS)
"""Make before break ("Eventual consistency considerations"); removals go the other way. Secrets are
first: clusters and listeners name them. Types that are not listed come behind, by type URL."""

TTL_FEATURE: Final = "xds.config.supports-resource-ttl"
WRAPPED_FEATURE: Final = "xds.config.supports-resource-in-sotw"


class Variant(StrEnum):
    SOTW = "sotw"
    DELTA = "delta"


SOTW: Final = Variant.SOTW
DELTA: Final = Variant.DELTA
"""By names of their own: a member is looked up at its class by code of Python's, with each request
and each response."""


class Node(msgspec.Struct, frozen=True):
    """Who a stream is of, as its first request says; features: its client_features."""

    id: str = ""
    cluster: str = ""
    metadata: Mapping[str, Any] = {}
    features: frozenset[str] = frozenset()


class Lasting(Resource, frozen=True):
    """A resource that clients drop when they hear nothing of it for `ttl` seconds; None: never.

    Its version must be another one when `ttl` is.
    """

    ttl: float | None = None


def ttl_of(resource: Resource) -> float | None:
    """Seconds; None: it never ends."""
    return resource.ttl if isinstance(resource, Lasting) else None


class ResourceState(msgspec.Struct, frozen=True):
    """One resource as one client has it, for CSDS.

    status: "acked"; "sent": not answered yet; "nacked": the client refused it, and has not accepted
        another version since; "absent": asked for by name, and there is none; "waiting": it was
        not sent yet, or in another version, or is to be sent again
    version: that the client was sent last, "" for none
    reason:  text of the NACK
    refused_at: when it came; updated_at: when the view got this version (the clock is the caller's)
    """

    name: str
    status: str
    version: str = ""
    updated_at: float = 0.0
    reason: str = ""
    refused_version: str = ""
    refused_at: float = 0.0


class TypeState(msgspec.Struct, frozen=True):
    """One type on a stream. state: of models/stream.toml; version: version_info of the state of the
    world that it was sent last, "" in delta; resources: by ascending name."""

    type_url: str
    state: str
    wildcard: bool
    names: frozenset[str]
    version: str
    resources: tuple[ResourceState, ...]


class ClientState(msgspec.Struct, frozen=True):
    """service: type URL of a per-type stream, None for ADS; proven: the name that a proof gave."""

    stream: int
    variant: Variant
    service: str | None
    node: Node
    proven: str | None
    view: str
    opened_at: float
    types: tuple[TypeState, ...]
