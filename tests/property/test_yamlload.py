"""Any bytes as YAML: documents or one kind of error, whatever stands in them."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.objects.yamlload import YamlError, load_documents

TAGS = (
    "map", "seq", "str", "int", "float", "bool", "null", "binary", "timestamp", "set", "omap",
    "pairs", "merge", "value", "no-such",
)  # fmt: skip
TOKENS = (
    *"[]{}:,-?|>%@`'\"\n\t#=~",
    *(": ", "- ", "? ", "\n- ", "\n  ", "--- ", "\n---\n", "\n...\n", "<<: ", "<<", "? - "),
    *("&a ", "*a", "&b ", "*b", "!a ", "! ", "!<x> ", "%YAML 1.1\n", "\ufeff", "\x00", "\x85"),
    *(f"!!{tag} " for tag in TAGS),
    *("true", "on", "no", "null", "0x_", "0b_", "0x1", "0b1", "0_", "07", "08", "1_0", "-0x__"),
    *(
        "1:30",
        "1:30.5",
        ".inf",
        "-.inf",
        ".nan",
        "1e3",
        "1e999",
        "._",
        "9" * 4301,
        "0" + "7" * 9999,
    ),
    *("2001-01-01", "2001-99-99", "2001-01-01T25:61:61Z", "YQ==", "Y", "\u00e9", "a", "b"),
)

texts = st.lists(st.sampled_from(TOKENS), max_size=12).map("".join)


@given(st.one_of(texts.map(str.encode), texts.map(lambda text: text.encode("utf-16")), st.binary()))
def test_whatever_is_written_it_is_read_or_one_kind_of_error(data: bytes) -> None:
    with contextlib.suppress(YamlError):
        assert str(list(load_documents(data))), "all of it can be shown"
