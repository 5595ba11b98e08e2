"""Google's own messages that JSON writes as one value: of which contents there is none.

Bytes can hold such a content, texts can't. It is refused at the door, so that all that is served
can be written in JSON too. The ranges are those in the comments of the protos (`google/protobuf`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

_MAX_SECONDS: Final = 315_576_000_000  # 10,000 years
_YEARS: Final = range(-62_135_596_800, 253_402_300_800)  # 1 to 9999
_NANOS: Final = 1_000_000_000


def of_duration(value: Any) -> str:
    """What is wrong with it; "" for nothing."""
    seconds, nanos = value.seconds, value.nanos
    if not -_MAX_SECONDS <= seconds <= _MAX_SECONDS:
        return f"is no duration: more than {_MAX_SECONDS} seconds"
    if not -_NANOS < nanos < _NANOS or seconds * nanos < 0:
        return "is no duration: nanos must be less than a second, with the sign of the seconds"
    return ""


def _of_time(value: Any) -> str:
    if value.seconds not in _YEARS:
        return "is no time: it must be in the years 1 to 9999"
    if not 0 <= value.nanos < _NANOS:
        return "is no time: nanos must be at least 0 and less than a second"
    return ""


def _of_mask(value: Any) -> str:
    try:
        value.ToJsonString()
    except ValueError as error:
        return f"is no field mask: {error}"
    return ""


FORMS: Final[Mapping[str, Callable[[Any], str]]] = {
    "google.protobuf.Duration": of_duration,
    "google.protobuf.Timestamp": _of_time,
    "google.protobuf.FieldMask": _of_mask,
}
"""By full name: a message → what is wrong with it, "" for nothing."""


def of_number(value: float) -> str:
    """Of a `google.protobuf.Value`."""
    return "" if math.isfinite(value) else "must be finite"
