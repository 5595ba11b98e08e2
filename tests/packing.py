"""Resources as JSON with `@type` → Anys, by protobuf's own means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf import any_pb2, json_format

from reconciler.probe.messages import message_class


def pack(value: dict[str, Any]) -> any_pb2.Any:
    """ParseError: it is not as its types are; TypeError: there is no such type."""
    for type_url in _types(value):
        message_class(type_url)  # registers it
    return json_format.ParseDict(value, any_pb2.Any())


def _types(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("@type"), str):
            yield value["@type"]
        for each in value.values():
            yield from _types(each)
    elif isinstance(value, list):
        for each in value:
            yield from _types(each)
