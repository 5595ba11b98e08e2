"""Devices for the datapath in memory: one made up for each pod of the cut in force.

With it the same agent runs where there is no kernel to drive (a laptop, a test): every pod gets an
interface with a number of its own, is attached, opens with the cut, and can be probed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.objects import parse_address

FIRST: Final = 1_000


class MemoryLinks:
    """`settle` after every event: makes what is missing, takes away what has no pod any more."""

    def __init__(
        self,
        core: AgentCore,
        added: Callable[[Link], None],
        removed: Callable[[int], None],
    ) -> None:
        self._core = core
        self._added = added
        self._removed = removed
        self._seen: tuple[int, bytes] | None = None
        self._next = FIRST
        self._known: dict[str, int] = {}

    def settle(self) -> None:
        if self._core.enforced == self._seen or not self._core.enforced[0]:
            return
        self._seen = self._core.enforced
        pods = {
            f"{row.namespace}/{row.pod}": frozenset(
                parse_address(text) for text in (row.ipv4, row.ipv6) if text
            )
            for row in self._core.endpoint_rows()
            if row.group
        }
        for pod in self._known.keys() - pods.keys():
            self._removed(self._known.pop(pod))
        for pod, addresses in pods.items():
            if pod not in self._known:
                self._known[pod] = self._next
                self._next += 1
                self._added(Link(self._known[pod], f"mem{self._known[pod]}", addresses, pod))
