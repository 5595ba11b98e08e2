"""YAML that says more than is written."""

from __future__ import annotations

import pytest

from reconciler.core.objects.yamlload import MAX_REPEATED, YamlError, load_documents


def powers(lists: int) -> bytes:
    """Ten texts, ten aliases of these, ten of those, and so on."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for at in range(1, lists):
        lines.append(f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]")
    return "\n".join(lines).encode()


def test_aliases_stand_for_values() -> None:
    (found,) = load_documents(powers(3))
    assert found["a2"] == [[["x"] * 10] * 10] * 10
    (merged,) = load_documents(b"a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\n")
    assert merged["d"] == {"b": 1, "c": 3}


@pytest.mark.parametrize("lists", [7, 40])
def test_a_few_lines_that_stand_for_very_much_are_refused(lists: int) -> None:
    with pytest.raises(YamlError, match=f"line 1.*more than {MAX_REPEATED} values"):
        list(load_documents(powers(lists)))


@pytest.mark.parametrize("text", [b"a: &a [1, *a]", b"a: &a {<<: *a}", b"&a {b: {c: *a}}"])
def test_an_alias_of_what_it_is_in_is_refused(text: bytes) -> None:
    with pytest.raises(YamlError, match=r"line 1, column \d+: an alias stands for what it is in"):
        list(load_documents(text))


def test_many_values_that_are_written_are_none_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.core.objects.yamlload.MAX_REPEATED", 10)
    (found,) = load_documents(b"[%s]" % b",".join(b"1" for _ in range(1000)))
    assert len(found) == 1000
