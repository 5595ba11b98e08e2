"""What is written of options and machines is what the code has."""

from __future__ import annotations

import pytest

from reconciler.config import AgentConfig, options
from tests.generated_docs import DOCS, documents


@pytest.mark.parametrize("file", sorted(documents()))
def test_a_generated_document_is_fresh(file: str) -> None:
    assert (DOCS / file).read_text() == documents()[file], "run: python -m tests.generated_docs"


def test_every_option_is_in_the_document() -> None:
    text = (DOCS / "options.md").read_text()
    assert all(option.flag in text for option in options(AgentConfig))
