"""What tests push."""

from __future__ import annotations

from typing import Any

from reconciler.core.discovery.types import CDS


def cluster(name: str, seconds: int = 1) -> dict[str, Any]:
    return {"@type": CDS, "name": name, "connectTimeout": f"{seconds}s"}
