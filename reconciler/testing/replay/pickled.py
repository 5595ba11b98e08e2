"""Forks of adapters that are small: whole copies, made by pickle."""

from __future__ import annotations

import pickle
from typing import Self


class Pickled:
    """Several times as quick as `deepcopy`. A state has several forks, so what was written of it is
    kept; whatever changes an adapter calls `changes` first."""

    _saved: bytes | None = None

    def fork(self) -> Self:
        if self._saved is None:
            self._saved = pickle.dumps(self, pickle.HIGHEST_PROTOCOL)
        copy: Self = pickle.loads(self._saved)
        return copy

    def changes(self) -> None:
        self._saved = None
