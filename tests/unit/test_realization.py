"""What replicas say of their nodes' policies, and what follows for one policy."""

from __future__ import annotations

import pytest

from reconciler.server.kubernetes.realization import (
    MOST_CLOSED,
    MOST_VERSIONS,
    Found,
    NodesReport,
    Refusing,
    found,
    parse,
)


def test_a_report_is_read_as_it_was_written() -> None:
    report = NodesReport(((3, 1), (7, 9)), {"shop/web": Refusing(2, ("n1", "n2"))})
    assert parse(report.text()) == report


@pytest.mark.parametrize("text", ["", "{", "[]", '{"at": 3}', '{"at": [[1]]}'])
def test_what_is_no_report_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_report_is_short_and_never_says_too_much() -> None:
    at = tuple((version, 1) for version in range(1, 101))
    refused = {f"shop/p{number:03}": Refusing(1, ("n1",)) for number in range(100)}
    report = parse(NodesReport(at, refused).text())
    assert report is not None
    assert len(report.at) == MOST_VERSIONS
    assert sum(count for _, count in report.at) == 100
    assert len(report.refused) == MOST_CLOSED
    for version in range(1, 102):
        said = sum(count for held, count in report.at if held >= version)
        assert said <= sum(count for held, count in at if held >= version)
    # The oldest are kept apart: who is behind is what people look for.
    assert report.at[0] == (1, 1)


OLD, NEW = NodesReport(((5, 2),)), NodesReport(((8, 3),))


@pytest.mark.parametrize(
    ("version", "reports", "phase", "counts", "reason"),
    [
        (5, (OLD, NEW), "Realized", (5, 5), "EnforcedOnNodes"),
        (6, (OLD, NEW), "Realizing", (5, 3), "InProgress"),
        (9, (OLD, NEW), "Realizing", (5, 0), "InProgress"),
        (1, (), "Realizing", (0, 0), "NoNodes"),
        (1, (NodesReport(),), "Realizing", (0, 0), "NoNodes"),
    ],
)
def test_a_policy_is_realized_where_all_nodes_have_read_it(
    version: int,
    reports: tuple[NodesReport, ...],
    phase: str,
    counts: tuple[int, int],
    reason: str,
) -> None:
    one = found("shop/web", version, reports)
    assert (one.phase, (one.wanted, one.current), one.reason) == (phase, counts, reason)


def test_nodes_that_refuse_it_are_named() -> None:
    here = NodesReport(((8, 3),), {"shop/web": Refusing(1, ("n3",))})
    there = NodesReport(((8, 9),), {"shop/web": Refusing(7, ("a", "b", "c", "d", "e"))})
    one = found("shop/web", 8, (here, there))
    assert one == Found(
        "Failed", 12, 4, "RefusedByNodes",
        "refused by a, b, c, d, e and 3 more; its pods are closed there",
    )  # fmt: skip
    assert found("shop/other", 8, (here, there)).phase == "Realized"


def test_what_no_node_can_hold_has_failed_everywhere() -> None:
    one = found("shop/web", 8, (NEW,), too_large=True)
    assert (one.phase, one.current, one.reason) == ("Failed", 0, "TooLarge")
