"""What tests/README.md says holds a promise is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"`((?:[a-z]+/)?test_\w+\.py)(?:::(\w+))?`")


def named() -> list[tuple[str, str]]:
    text = (TESTS / "README.md").read_text()
    _, _, table = text.partition("### What holds what is said of a cluster\n")
    table, _, _ = table.partition("\n## ")
    found = sorted({(path, name or "") for path, name in NAMED.findall(table)})
    assert len(found) > 30
    return found


@pytest.mark.parametrize(("path", "name"), named())
def test_it_is_there(path: str, name: str) -> None:
    file = TESTS / path if "/" in path else TESTS / "kubernetes" / path
    tree = ast.parse(file.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    functions = {each.name for each in ast.walk(tree) if isinstance(each, kinds)}
    assert not name or name in functions
    assert any(each.startswith("test_") for each in functions)
