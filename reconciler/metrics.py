"""Prometheus metrics: each declared once, read when asked for, written as text.

A process declares its families as data; documentation and exposition come from there, and a value
under a name that is not declared, or a declared name without a value, is an error. Nothing is
counted for nobody: `read` asks the process when a scrape comes, at most once in `FRESH_SECONDS`
however many ask, so that the port can't be used to keep the process busy. Process metrics
(`process_*`) and `reconciler_build_info` come with every page.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Literal

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

FRESH_SECONDS: Final = 1.0
CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
PREFIX: Final = "reconciler_"

Values = Mapping[str, float | Mapping[tuple[str, ...], float]]
"""Name without prefix → value, or label values → value."""


class Family(msgspec.Struct, frozen=True):
    """One metric. name: without prefix, and of a counter without `_total`."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """The name in a query."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


class Page:
    """The text that a scrape gets."""

    def __init__(
        self,
        families: Sequence[Family],
        read: Callable[[], Awaitable[Values]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._families = families
        self._read = read
        self._clock = clock
        self._lock = asyncio.Lock()
        self._text = b""
        self._until = 0.0
        self._process = ProcessCollector(registry=None)

    async def text(self) -> bytes:
        """As `CONTENT_TYPE` says. Errors of `read` go through."""
        async with self._lock:
            if not self._text or self._clock() >= self._until:
                registry = CollectorRegistry(auto_describe=False)
                registry.register(_Once(collect(self._families, await self._read())))
                registry.register(self._process)
                self._text = generate_latest(registry)
                self._until = self._clock() + FRESH_SECONDS
            return self._text


class _Once:
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def collect(families: Sequence[Family], values: Values) -> list[Metric]:
    """The families with their values; ValueError names what is undeclared, missing or unfit."""
    undeclared = values.keys() ^ {family.name for family in families}
    if undeclared:
        raise ValueError(f"metrics without declaration or value: {sorted(undeclared)}")
    build = GaugeMetricFamily(f"{PREFIX}build_info", "1, with the version.", labels=["version"])
    build.add_metric([importlib.metadata.version("reconciler")], 1)
    found: list[Metric] = [build]
    for family in families:
        kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
        metric = kind(PREFIX + family.name, family.help, labels=family.labels)
        value = values[family.name]
        samples = value if isinstance(value, Mapping) else {(): value}
        for labels, sample in sorted(samples.items()):
            if len(labels) != len(family.labels):
                raise ValueError(f"{family.name}: {labels} for labels {family.labels}")
            metric.add_metric(labels, sample)
        found.append(metric)
    return found


def docs_table(families: Sequence[Family]) -> str:
    """The families as a Markdown table."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for each in families:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(f"| `{each.exposed}` | {each.kind} | {labels} | {each.help} |")
    return "\n".join(rows) + "\n"
