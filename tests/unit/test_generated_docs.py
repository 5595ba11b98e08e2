"""What is written of options and machines is what the code has."""

from __future__ import annotations

import re

import pytest

from reconciler.agent import status as agent
from reconciler.config import AgentConfig, options
from reconciler.server import status as server
from reconciler.server.discovery import status as discovery
from tests.generated_docs import ALERTS, DOCS, documents


@pytest.mark.parametrize("file", sorted(documents()))
def test_a_generated_document_is_fresh(file: str) -> None:
    assert (DOCS / file).read_text() == documents()[file], "run: python -m tests.generated_docs"


def test_every_option_is_in_the_document() -> None:
    text = (DOCS / "options.md").read_text()
    assert all(option.flag in text for option in options(AgentConfig))


def test_alerts_are_on_metrics_that_there_are() -> None:
    declared = (*server.METRICS, *agent.METRICS, *discovery.METRICS)
    exposed = {family.exposed for family in declared}
    for expression, _ in ALERTS:
        used = set(re.findall(r"reconciler_\w+", expression))
        assert used
        assert used <= exposed


def test_a_metric_has_one_meaning() -> None:
    for process in (server.METRICS, agent.METRICS, discovery.METRICS):
        names = [family.exposed for family in process]
        assert len(names) == len(set(names))
        assert all(family.help.endswith((".", "none.", "TLS.")) for family in process)
