"""Which gRPC method serves which type in which variant (xDS protocol, "RPC Services and Methods for
Each Variant"), and the short names that people use for types.
"""

from __future__ import annotations

from typing import Final

import msgspec

from reconciler.core.discovery.types import CDS, ECDS, EDS, LDS, RDS, RTDS, SDS, SRDS, VHDS
from reconciler.core.discovery.types import Variant as Variant
from reconciler.errors import ConfigError

TYPE_PREFIX: Final = "type.googleapis.com/"


class Service(msgspec.Struct, frozen=True):
    """One discovery service. type_url: "" of the aggregated one; sotw, fetch (a request without a
    stream), path (the same over HTTP, as JSON): "" where it has none."""

    name: str
    sotw: str
    delta: str
    type_url: str = ""
    fetch: str = ""
    path: str = ""

    def method(self, variant: Variant) -> str:
        """Path of the method; ConfigError when the service has none of this variant."""
        method = self.sotw if variant is Variant.SOTW else self.delta
        if not method:
            raise ConfigError(f"{self.name} has no {variant} method")
        return f"/{self.name}/{method}"


_SERVICE: Final = "envoy.service."

AGGREGATED: Final = Service(
    _SERVICE + "discovery.v3.AggregatedDiscoveryService",
    "StreamAggregatedResources",
    "DeltaAggregatedResources",
)


def _own(name: str, methods: str, type_url: str, path: str) -> Service:
    """path: "" of one that has the delta variant only"""
    stream, fetch = (f"Stream{methods}", f"Fetch{methods}") if path else ("", "")
    path = path and f"/v3/discovery:{path}"
    return Service(_SERVICE + name, stream, f"Delta{methods}", type_url, fetch, path)


OWN: Final[dict[str, Service]] = {
    "LDS": _own("listener.v3.ListenerDiscoveryService", "Listeners", LDS, "listeners"),
    "RDS": _own("route.v3.RouteDiscoveryService", "Routes", RDS, "routes"),
    "SRDS": _own("route.v3.ScopedRoutesDiscoveryService", "ScopedRoutes", SRDS, "scoped-routes"),
    "VHDS": _own("route.v3.VirtualHostDiscoveryService", "VirtualHosts", VHDS, ""),
    "CDS": _own("cluster.v3.ClusterDiscoveryService", "Clusters", CDS, "clusters"),
    "EDS": _own("endpoint.v3.EndpointDiscoveryService", "Endpoints", EDS, "endpoints"),
    "SDS": _own("secret.v3.SecretDiscoveryService", "Secrets", SDS, "secrets"),
    "RTDS": _own("runtime.v3.RuntimeDiscoveryService", "Runtime", RTDS, "runtime"),
    "ECDS": _own(
        "extension.v3.ExtensionConfigDiscoveryService",
        "ExtensionConfigs",
        ECDS,
        "extension_configs",
    ),
}
"""Short name → the service of one type."""

FULL_STATE: Final = frozenset({LDS, CDS})
"""Types of which a SotW response is the whole state: what is not in it is removed."""

_BY_TYPE: Final = {service.type_url: service for service in OWN.values()}


def own_service(type_url: str) -> Service:
    """The service that is a type's own; ConfigError when it has none."""
    try:
        return _BY_TYPE[type_url]
    except KeyError:
        raise ConfigError(f"{type_url}: no service is its own; ask the aggregated one") from None


def type_url_of(name: str) -> str:
    """CDS, Cluster's full name or a type URL → type URL; ConfigError for what can be none."""
    short = OWN.get(name.upper())
    if short is not None:
        return short.type_url
    if "/" in name:
        return name
    if "." in name:
        return TYPE_PREFIX + name
    raise ConfigError(f"{name}: neither a type URL nor one of {', '.join(OWN)}")


def short_name(type_url: str) -> str:
    """CDS for Cluster's type URL; the message's name for a type without a service."""
    for name, service in OWN.items():
        if service.type_url == type_url:
            return name
    return message_name(type_url) or type_url


def message_name(type_url: str) -> str:
    """Cluster for Cluster's type URL: its name without the package."""
    return type_url.rpartition("/")[2].rpartition(".")[2]
