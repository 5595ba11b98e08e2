"""Selectors over label sets: one canonical form, named by its hash.

A requirement's key says where the label comes from ("k8s:app"), so that pod labels, namespace
labels ("k8s:io.cilium.k8s.namespace.labels.<key>") and generated ones never meet. The meaning of
the operators is that of the Kubernetes API (apimachinery): NotIn and DoesNotExist also hold where
the key is absent; `In [""]` needs the key, with an empty value.

Equal values have equal hashes. Canonical is: values and requirements sorted, duplicates gone,
every `In` of one key joined to one (what is in both), a selector that can't hold is NOTHING,
`Exists` beside an `In` of its key gone. Deeper equivalences (`NotIn [a]` beside `In [b]`) are not
looked for: they cost a second peer set with the same members, never a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from reconciler.core.labels import LabelSet
from reconciler.core.labels.label import K8S, NAMESPACE_LABELS, POD_NAMESPACE
from reconciler.core.policy.naming import content_hash

NAMESPACE: Final = f"{K8S}:{POD_NAMESPACE}"
NAMESPACE_LABEL: Final = f"{K8S}:{NAMESPACE_LABELS}."
"""Beginning of the keys of namespace labels; the label's own key follows."""

OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")


class Requirement(msgspec.Struct, frozen=True, order=True):
    """key: "source:key"; values: sorted, only for In and NotIn. `In` without values never holds."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, value: str | None) -> bool:
        """Whether it holds for the key's value (None: the key is absent)."""
        if self.operator == "In":
            return value is not None and value in self.values
        if self.operator == "NotIn":
            return value is None or value not in self.values
        if self.operator == "Exists":
            return value is not None
        return value is None


class NamedPort(msgspec.Struct, frozen=True, order=True):
    """A container port's name and protocol; `port` is the number that it stands for, if fixed."""

    name: str
    protocol: int
    port: int = 0


class Selector(msgspec.Struct, frozen=True, order=True):
    """All requirements hold, and the label set has the named port (if there is one).

    Build it with `selector`, which makes it canonical. `hash` is set from the rest.
    """

    requirements: tuple[Requirement, ...] = ()
    named_port: NamedPort | None = None
    hash: str = ""

    def __post_init__(self) -> None:
        name = content_hash((self.requirements, self.named_port))
        msgspec.structs.force_setattr(self, "hash", name)

    def matches(self, labels: LabelSet) -> bool:
        """Whether this label set is meant. Cost: one look-up a requirement."""
        for requirement in self.requirements:
            source, _, key = requirement.key.partition(":")
            if not requirement.holds(labels.get(key, source)):
                return False
        port = self.named_port
        return port is None or (port.name, port.protocol, port.port) in labels.named_ports


NOTHING: Final = Selector((Requirement("", "In"),))
"""Selects no label set."""

EVERYTHING: Final = Selector()
"""Selects every label set (of pods: nodes and the world have none)."""


def selector(requirements: Iterable[Requirement], named_port: NamedPort | None = None) -> Selector:
    """The canonical selector of these requirements. ValueError for an operator that isn't one."""
    wanted: dict[str, frozenset[str]] = {}
    others: set[Requirement] = set()
    for requirement in requirements:
        if requirement.operator == "In":
            values = frozenset(requirement.values)
            wanted[requirement.key] = wanted.get(requirement.key, values) & values
        elif requirement.operator == "NotIn":
            values = frozenset(requirement.values)
            others.add(Requirement(requirement.key, "NotIn", tuple(sorted(values))))
        elif requirement.operator in OPERATORS:
            others.add(Requirement(requirement.key, requirement.operator))
        else:
            raise ValueError(f"not a selector's operator: {requirement.operator!r}")
    if not all(wanted.values()) or any(
        other.operator == "DoesNotExist" and _needed(other.key, wanted, others) for other in others
    ):
        return NOTHING
    kept = {Requirement(key, "In", tuple(sorted(values))) for key, values in wanted.items()}
    kept |= {other for other in others if not (other.operator == "Exists" and other.key in wanted)}
    return Selector(tuple(sorted(kept)), named_port)


def with_named_port(base: Selector, port: NamedPort) -> Selector:
    """The part of a selector whose label sets have this named port."""
    return Selector(base.requirements, port)


def _needed(key: str, wanted: dict[str, frozenset[str]], others: set[Requirement]) -> bool:
    return key in wanted or Requirement(key, "Exists") in others
