"""YAML that says more than is written, or is not what its tag says."""

from __future__ import annotations

import pytest

from reconciler.core.objects.yamlload import MAX_REPEATED, Plain, YamlError, load_documents


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


@pytest.mark.parametrize("text", ["0x_", "0b_", "-0x__", "+0b_", "1:30", "!!int 0x_"])
def test_what_kubectl_takes_for_a_text_is_one(text: str) -> None:
    (found,) = load_documents(text.encode())
    assert found == text.removeprefix("!!int ")


@pytest.mark.parametrize(
    "text", ["9" * 4301, "-" + "9" * 5000, "0x" + "f" * 5000, "0" + "7" * 9000, "1_" + "0" * 5000]
)
def test_an_integer_that_python_can_not_write_is_a_number_by_its_text(text: str) -> None:
    assert list(load_documents(text.encode())) == [Plain(text, "a number")]


def test_a_long_integer_is_one() -> None:
    assert list(load_documents(b"9" * 4000)) == [int("9" * 4000)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!map [a]", "a list is no !!map"),
        ("!!map a", "'a' is no !!map"),
        ("!!bool [a]", "a list is no !!bool"),
        ("!!float {a: b}", "a mapping is no !!float"),
        ("!!int [a]", "a list is no !!int"),
        ("!!timestamp [a]", "a list is no !!timestamp"),
        ("!!int a1", "'a1' is no !!int"),
        ("!!int 1.5", "'1.5' is no !!int"),
        ("!!bool 1", "'1' is no !!bool"),
        ("!!float a", "'a' is no !!float"),
    ],
)
def test_what_is_not_what_its_tag_says_is_refused(text: str, reason: str) -> None:
    with pytest.raises(YamlError, match=f"^line 2, column 4: {reason}$"):
        list(load_documents(f"a:\nb: {text}".encode()))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('!!int "12"', 12),
        ("!!bool true", True),
        ("!!float 1", Plain("1", "a number")),
        ("!!float .inf", Plain(".inf", "a number")),
        ("!!bool yes", Plain("yes", "a boolean (true)")),
        ("!!str 1", "1"),
    ],
)
def test_what_is_what_its_tag_says_is_read(text: str, value: object) -> None:
    assert list(load_documents(text.encode())) == [value]
