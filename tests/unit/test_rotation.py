"""Alarms about certificate files: once each, and what is over is said."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from reconciler.server.rotation import watch_certificate


class Files:
    path = "/tls.crt"

    def __init__(self, looks: list[tuple[object, str]], stop: asyncio.Event) -> None:
        self.looks, self.stop = looks, stop
        self.now: tuple[object, str] = looks[0]

    def current(self) -> Any:
        return self.now[0]

    def problem(self) -> str:
        self.now = self.looks.pop(0)
        if not self.looks:
            self.stop.set()
        return self.now[1]


async def test_each_problem_is_said_once() -> None:
    stop = asyncio.Event()
    looks: list[tuple[object, str]] = [
        ("a", ""),
        ("a", "bad"),
        ("a", "bad"),
        ("b", ""),
        ("b", "late"),
        ("b", "gone"),
    ]
    files: Any = Files(looks, stop)
    alarms: list[tuple[str, str, str]] = []
    with structlog.testing.capture_logs() as logs:
        log = structlog.get_logger()
        await watch_certificate(files, lambda *alarm: alarms.append(alarm), log, stop, every=0.0)
    assert [text for *_, text in alarms] == ["bad", "late", "gone"]
    assert {alarm[:2] for alarm in alarms} == {("certificate", "/tls.crt")}
    assert [entry["event"] for entry in logs] == ["certificate renewed", "certificate good again"]
