"""Pages of metrics: what is declared is what is exposed, and a storm of scrapes is one reading."""

from __future__ import annotations

import asyncio

import pytest

from reconciler.metrics import Family, Page, Values, collect, docs_table

FAMILIES = (
    Family("pods", "gauge", "Pods."),
    Family("sent", "counter", "Sent.", ("code", "side")),
)
VALUES: Values = {"pods": 3, "sent": {("b", "x"): 2, ("a", "y"): 1}}


def page(read: list[Values], clock: float = 0.0) -> tuple[Page, list[float]]:
    now = [clock]

    async def take() -> Values:
        await asyncio.sleep(0)
        return read.pop(0)

    return Page(FAMILIES, take, lambda: now[0]), now


async def test_a_page() -> None:
    found, _ = page([VALUES])
    text = (await found.text()).decode()
    lines = [line for line in text.splitlines() if line.startswith("reconciler_")]
    assert lines[0].startswith('reconciler_build_info{version="')
    assert lines[1:] == [
        "reconciler_pods 3.0",
        'reconciler_sent_total{code="a",side="y"} 1.0',
        'reconciler_sent_total{code="b",side="x"} 2.0',
    ]
    assert "# TYPE reconciler_sent_total counter" in text
    assert "process_cpu_seconds_total" in text


async def test_many_scrapes_are_one_reading() -> None:
    reads = [VALUES, {**VALUES, "pods": 4}]
    found, now = page(reads)
    pages = await asyncio.gather(*(found.text() for _ in range(20)))
    assert len(set(pages)) == len(reads) == 1
    now[0] = 1.0
    assert b"reconciler_pods 4.0" in await found.text()


async def test_a_reading_that_fails_is_not_kept() -> None:
    found, _ = page([{"pods": 3}, VALUES])
    with pytest.raises(ValueError, match=r"\['sent'\]"):
        await found.text()
    assert b"reconciler_pods 3.0" in await found.text()


@pytest.mark.parametrize(
    "values",
    [{}, {**VALUES, "more": 1}, {"pods": {("a",): 1}, "sent": {}}, {"pods": 1, "sent": 1}],
)
def test_values_fit_their_declaration(values: Values) -> None:
    with pytest.raises(ValueError):
        collect(FAMILIES, values)


def test_the_table_has_the_names_of_queries() -> None:
    assert "| `reconciler_sent_total` | counter | `code`, `side` | Sent. |" in docs_table(FAMILIES)
