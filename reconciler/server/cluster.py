"""What a server is made of below the xDS service, wherever its objects and its journal are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from reconciler.core.plane import ControlPlane
from reconciler.errors import Rejected
from reconciler.server.driver import Driver

if TYPE_CHECKING:
    from reconciler.server.kubernetes.client import ApiClient

Run = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


class Cluster(msgspec.Struct, frozen=True):
    """runs:     what goes on while the server serves. Each is given an event, which one of them
              sets when the first objects are in, and is cancelled at the end
    problems: of the sources, all that stand
    client:   of the API server, where there is one
    """

    plane: ControlPlane
    driver: Driver
    runs: tuple[Run, ...]
    problems: Callable[[], tuple[Rejected, ...]]
    client: ApiClient | None = None
