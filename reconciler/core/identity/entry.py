"""The life of one label set's number: models/identity.toml run on one entry."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from reconciler.core.identity.journal import Identity
from reconciler.core.machine import load

MODEL: Final = load("identity")


class Registry:
    """What the entries' effects write to. The allocator owns it.

    live:        label set → identity of all that are in peer sets and policies
    unpublished: numbers that left, and no cut without them is published yet
    leaving:     numbers that left, in the order of the first cut without them
    """

    __slots__ = (
        "activated",
        "deadline",
        "freed",
        "leaving",
        "live",
        "retired",
        "returned",
        "revived",
        "unpublished",
    )

    def __init__(self) -> None:
        self.live: dict[str, Identity] = {}
        self.unpublished: OrderedDict[int, IdentityEntry] = OrderedDict()
        self.leaving: OrderedDict[int, IdentityEntry] = OrderedDict()
        self.returned: list[int] = []
        self.deadline = 0.0
        self.clear()

    def clear(self) -> None:
        """Forget what the last write changed."""
        self.activated: list[tuple[str, Identity]] = []
        self.revived: list[tuple[str, Identity]] = []
        self.retired: list[Identity] = []
        self.freed: list[Identity] = []


class IdentityEntry:
    """One label set.

    number:        the one chosen last; its own from the write that gives it until it is freed
    birth:         0 while the journal gives it no number
    deadline:      end of the drain time, seconds; of meaning while draining
    without:       revision of the first published cut without the number; 0: none published
    """

    __slots__ = ("birth", "deadline", "label_set", "number", "registry", "state", "without")

    def __init__(self, label_set: str, registry: Registry) -> None:
        self.label_set, self.registry = label_set, registry
        self.state = MODEL.initial
        self.number = self.birth = self.without = 0
        self.deadline = 0.0

    @property
    def identity(self) -> Identity:
        return Identity(self.number, self.birth)

    # Effects, by their names in the model.

    def join(self) -> None:
        self.registry.live[self.label_set] = self.identity
        self.registry.activated.append((self.label_set, self.identity))

    def rejoin(self) -> None:
        self.registry.live[self.label_set] = self.identity
        self.registry.revived.append((self.label_set, self.identity))

    def start_drain(self) -> None:
        self.deadline = self.registry.deadline

    def leave(self) -> None:
        self.registry.live.pop(self.label_set, None)
        self.registry.retired.append(self.identity)

    def start_wait(self) -> None:
        self.without = 0
        self.registry.unpublished[self.number] = self

    def void_leaving(self) -> None:
        self.registry.unpublished.pop(self.number, None)
        self.registry.leaving.pop(self.number, None)
        self.without = 0

    def give_back(self) -> None:
        self.registry.leaving.pop(self.number, None)
        self.registry.freed.append(self.identity)
        self.registry.returned.append(self.number)
        self.number = self.birth = self.without = 0
