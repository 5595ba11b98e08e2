"""What `reconciler demo --json` printed, of any demo."""

from __future__ import annotations

import json
from typing import Any


def held(out: str, errors: str) -> dict[str, Any]:
    """The report, all of whose checks must have held. errors: what to show where one did not."""
    assert out, errors
    found: dict[str, Any] = json.loads(out)
    failed = [
        f"{part['title']}: {check['what']}: {check['detail']}"
        for part in found["parts"]
        for check in part["checks"]
        if not check["ok"]
    ]
    assert failed == [], errors
    return found
