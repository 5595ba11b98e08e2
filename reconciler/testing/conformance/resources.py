"""The resources that scenarios speak of: valid, small, and told apart by one field.

A resource's content is a number in a text field that every type has somewhere (what Envoy would do
with it does not matter here); its padding is in the same field. No resource refers to another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf import any_pb2
from google.protobuf.message import Message

from reconciler.probe.messages import WRAPPER, message_class, unpack
from reconciler.probe.services import OWN
from reconciler.testing.conformance.language import Piece


def _cluster(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "alt_stat_name": text, "type": "STATIC", "connect_timeout": "5s"}


def _listener(name: str, text: str) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 10000}}
    return {"name": name, "stat_prefix": text, "address": address}


def _endpoints(name: str, text: str) -> dict[str, Any]:
    return {"cluster_name": name, "endpoints": [{"locality": {"zone": text}}]}


def _routes(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "virtual_hosts": [{"name": text, "domains": ["*"]}]}


_FIELDS: Final[dict[str, Callable[[str, str], dict[str, Any]]]] = {
    "CDS": _cluster,
    "LDS": _listener,
    "EDS": _endpoints,
    "RDS": _routes,
}
_TEXT: Final[dict[str, Callable[[Any], str]]] = {
    "CDS": lambda message: str(message.alt_stat_name),
    "LDS": lambda message: str(message.stat_prefix),
    "EDS": lambda message: str(message.endpoints[0].locality.zone),
    "RDS": lambda message: str(message.virtual_hosts[0].name),
}


def written(piece: Piece) -> dict[str, Any]:
    """As an adapter takes it: JSON with `@type`, in a wrapper when it has a time to live."""
    body = _FIELDS[piece.type](piece.name, _text(piece))
    body = {"@type": OWN[piece.type].type_url, **body}
    if piece.ttl is None:
        return body
    return {"@type": WRAPPER, "name": piece.name, "ttl": f"{piece.ttl:g}s", "resource": body}


def message(piece: Piece) -> Message:
    """What a client must get for it."""
    body = _FIELDS[piece.type](piece.name, _text(piece))
    kind = message_class(OWN[piece.type].type_url)
    assert kind is not None
    found: Message = _filled(kind(), body)
    return found


def _filled(message: Any, fields: dict[str, Any]) -> Any:
    """A message with fields as above set: json_format takes long over long texts."""
    for name, value in fields.items():
        field = message.DESCRIPTOR.fields_by_name[name]
        if isinstance(value, dict):
            _filled(getattr(message, name), value)
        elif isinstance(value, list) and isinstance(value[0], dict):
            for each in value:
                _filled(getattr(message, name).add(), each)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        elif field.message_type is not None:
            getattr(message, name).FromJsonString(value)
        elif field.enum_type is not None:
            setattr(message, name, field.enum_type.values_by_name[value].number)
        else:
            setattr(message, name, value)
    return message


def _text(piece: Piece) -> str:
    return f"content-{piece.content}" + ("-" + "x" * piece.padding if piece.padding else "")


def content(type: str, any_: any_pb2.Any) -> str:
    """What a resource that came says its content is, for people; "?" when it says none."""
    found = unpack(any_)
    try:
        text = _TEXT[type](found)
    except (AttributeError, IndexError):
        return "?"
    return text.split("-")[1] if text.startswith("content-") else "?"
