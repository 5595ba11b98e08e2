"""One label, label sets, and the canonical text that names a label set.

The canonical key is Cilium's: each label as `source:key=value;`, sorted by key. Valid Kubernetes
labels hold none of `%`, `;`, `=`, `:`; where other text comes in, `%`, `;` and the separator that
would be read too early are written as %XX, so that no two label sets share a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

POD_NAMESPACE: Final = "io.kubernetes.pod.namespace"
OWNED: Final = "io.cilium.k8s"
"""Beginning of the keys that only the control plane gives (no dot: `io.cilium.k8sfoo` is owned)."""

NAMESPACE_LABELS: Final = OWNED + ".namespace.labels"
SERVICE_ACCOUNT: Final = OWNED + ".policy.serviceaccount"
CLUSTER: Final = OWNED + ".policy.cluster"
NAMED_PORTS: Final = OWNED + ".named-ports"
METADATA_NAME: Final = "kubernetes.io/metadata.name"

K8S: Final = "k8s"
GENERATED: Final = "gen"

PROTOCOL_NUMBERS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
_PROTOCOL_NAMES: Final = {number: name for name, number in PROTOCOL_NUMBERS.items()}

_VALUE_LENGTH: Final = 63
"""Characters of a Kubernetes label value: named ports that don't fit go to a further label."""

_PORT: Final = re.compile("[0-9]{1,5}")
_LAST_PORT: Final = 65535

NamedPort = tuple[str, int, int]
"""Name, protocol number, port."""


class Label(msgspec.Struct, frozen=True, order=True):
    source: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.source}:{self.key}={self.value}"


class LabelSet(msgspec.Struct, frozen=True, eq=False):
    """The labels that make an identity, at most one of a source and key; equal by `key`.

    key:         canonical text, which names the label set everywhere
    labels:      sorted by key, then source
    named_ports: (name, protocol number, port), sorted: what the generated labels say
    namespace:   of the pods ("" if the label filter hides it)

    Build it with `of`, `parse` or `from_security_labels`.
    """

    key: str
    labels: tuple[Label, ...]
    named_ports: tuple[NamedPort, ...]
    namespace: str
    values: dict[tuple[str, str], str]

    @classmethod
    def of(cls, labels: Iterable[Label]) -> LabelSet:
        """ValueError when two labels share source and key."""
        ordered = tuple(sorted(labels, key=lambda label: (label.key, label.source)))
        values = {(label.source, label.key): label.value for label in ordered}
        if len(values) != len(ordered):
            raise ValueError("two labels with the same source and key")
        return cls(
            canonical(ordered),
            ordered,
            decode_named_ports(ordered),
            values.get((K8S, POD_NAMESPACE), ""),
            values,
        )

    @classmethod
    def parse(cls, key: str) -> LabelSet:
        """The label set that a canonical key names; ValueError when the text isn't canonical."""
        parts = key.split(";")
        if parts.pop():
            raise ValueError(f"not a label set: {key!r} does not end in ';'")
        found = cls.of(_parse_label(part) for part in parts)
        if found.key != key:
            raise ValueError(f"not a label set in canonical form: {key!r}")
        return found

    @classmethod
    def from_security_labels(cls, labels: Mapping[str, str]) -> LabelSet:
        """From `security-labels` of a CiliumIdentity: "source:key" → value."""
        found = []
        for name, value in labels.items():
            source, colon, key = name.partition(":")
            if not colon:
                raise ValueError(f"security label without a source: {name!r}")
            found.append(Label(source, key, value))
        return cls.of(found)

    def security_labels(self) -> dict[str, str]:
        return {f"{label.source}:{label.key}": label.value for label in self.labels}

    def get(self, key: str, source: str | None = None) -> str | None:
        """Value of a label, None when it isn't there. No source: the first in order of sources."""
        if source is not None:
            return self.values.get((source, key))
        return next((label.value for label in self.labels if label.key == key), None)

    def has(self, key: str, source: str | None = None) -> bool:
        return self.get(key, source) is not None

    def __eq__(self, other: Any) -> bool:
        return self.key == other.key if isinstance(other, LabelSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return self.key


# ------------------------------------------------------------------------------- canonical text


_IN_SOURCE = re.compile("[%;:=]")
_IN_KEY = re.compile("[%;=]")
_IN_VALUE = re.compile("[%;]")
_ESCAPED = re.compile("%([0-9A-F]{2})")


def canonical(labels: Iterable[Label]) -> str:
    """`source:key=value;` of each, in the given order; injective over any texts."""
    return "".join(
        f"{_IN_SOURCE.sub(_escape, label.source)}:{_IN_KEY.sub(_escape, label.key)}"
        f"={_IN_VALUE.sub(_escape, label.value)};"
        for label in labels
    )


def _parse_label(text: str) -> Label:
    source, colon, rest = text.partition(":")
    key, equals, value = rest.partition("=")
    if not colon or not equals:
        raise ValueError(f"not a label: {text!r} is not of the form source:key=value")
    return Label(*(_ESCAPED.sub(_unescape, part) for part in (source, key, value)))


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


# ---------------------------------------------------------------------------------- named ports


def encode_named_ports(ports: Iterable[NamedPort]) -> tuple[Label, ...]:
    """Generated labels as Cilium 1.20 writes them: `name.PROTOCOL.port`, sorted, joined by "_".

    A value holds at most 63 characters; the labels are called `io.cilium.k8s.named-ports`,
    `io.cilium.k8s.named-ports-1`, `-2` and so on. Any one port fits (names have at most 15).
    """
    values: list[str] = []
    for name, protocol, port in sorted(ports):
        text = f"{name}.{_PROTOCOL_NAMES[protocol]}.{port}"
        if values and len(values[-1]) + 1 + len(text) <= _VALUE_LENGTH:
            values[-1] += f"_{text}"
        else:
            values.append(text)
    return tuple(
        Label(GENERATED, NAMED_PORTS if i == 0 else f"{NAMED_PORTS}-{i}", value)
        for i, value in enumerate(values)
    )


def decode_named_ports(labels: Iterable[Label]) -> tuple[NamedPort, ...]:
    """What the generated labels say. Parts of another form (an adopted identity's) say nothing."""
    found: set[NamedPort] = set()
    for label in labels:
        if label.source != GENERATED or not label.key.startswith(NAMED_PORTS):
            continue
        for part in label.value.split("_"):
            name, _, rest = part.partition(".")
            protocol, _, port = rest.partition(".")
            possible = _PORT.fullmatch(port) is not None and 1 <= int(port) <= _LAST_PORT
            if name and protocol in PROTOCOL_NUMBERS and possible:
                found.add((name, PROTOCOL_NUMBERS[protocol], int(port)))
    return tuple(sorted(found))
