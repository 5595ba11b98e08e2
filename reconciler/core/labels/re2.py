"""Regular expressions in Go's RE2 syntax, as Python patterns with the same meaning.

The label filter's rules are written for RE2. What RE2 refuses (look-around, back-references,
possessive quantifiers) is refused here too, and so is the little that RE2 has and Python can't say
(`\\p{...}`, `\\C`, the flag U): a rule that means something else here than in Cilium would change
identities. Classes are ASCII, as in RE2. One difference stays: RE2 takes linear time, Python may
not.
"""

from __future__ import annotations

import re
from typing import Final

_POSIX: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": r"\x00-\x7F",
    "blank": r"\t ",
    "cntrl": r"\x00-\x1F\x7F",
    "digit": "0-9",
    "graph": r"!-~",
    "lower": "a-z",
    "print": r" -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r"\t\n\v\f\r ",
    "upper": "A-Z",
    "word": "0-9A-Za-z_",
    "xdigit": "0-9A-Fa-f",
}

_ESCAPES: Final = {**{c: "\\" + c for c in "dDwWsSbBAafnrtv"}, "z": r"\Z"}
_REPEAT: Final = re.compile(r"\{([0-9]+)(?:,([0-9]*))?\}")
_GROUP: Final = re.compile(r"\?(?:P<[A-Za-z0-9_]+>|<[A-Za-z0-9_]+>|[ims-]*:|[ims-]+\))")
_HEX: Final = re.compile(r"x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\})")


def compile_re2(pattern: str) -> re.Pattern[str]:
    """ValueError, with the reason, for what RE2 or this translation refuses."""
    try:
        return re.compile(_Translator(pattern).translate(), re.ASCII)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None


class _Translator:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.repeatable = False  # whether a quantifier may come next

    def translate(self) -> str:
        out: list[str] = []
        while self.at < len(self.pattern):
            out.append(self._next())
        return "".join(out)

    def _refuse(self, what: str) -> ValueError:
        return ValueError(f"{self.pattern!r} is not allowed here: {what}")

    def _next(self) -> str:
        character = self.pattern[self.at]
        if character == "\\":
            self.at += 1
            self.repeatable = True
            return self._escape()
        if character == "[":
            self.repeatable = True
            return self._class()
        if character == "(":
            self.repeatable = False
            return self._group()
        if character in "*+?" or (character == "{" and _REPEAT.match(self.pattern, self.at)):
            return self._quantifier()
        self.at += 1
        self.repeatable = character != "|"
        if character == "$":
            return r"\Z"  # Python's $ also matches before a last newline
        return "\\{" if character == "{" else character

    def _quantifier(self) -> str:
        if not self.repeatable:
            raise self._refuse("a quantifier repeats nothing, or another quantifier")
        self.repeatable = False
        repeat = _REPEAT.match(self.pattern, self.at)
        text = repeat[0] if repeat else self.pattern[self.at]
        if repeat and max(int(repeat[1]), int(repeat[2] or 0)) > 1000:
            raise self._refuse("RE2 repeats at most 1000 times")
        self.at += len(text)
        if self.pattern[self.at : self.at + 1] == "?":
            self.at += 1
            text += "?"
        return text

    def _group(self) -> str:
        self.at += 1
        if self.pattern[self.at : self.at + 1] != "?":
            return "("
        head = _GROUP.match(self.pattern, self.at)
        if head is None:
            raise self._refuse(
                "RE2 has no look-around, back-references, conditionals or atomic groups; "
                "of its flags i, m and s are read"
            )
        self.at = head.end()
        text = head[0]
        return "(" + (f"?P{text[1:]}" if text.startswith("?<") else text)

    def _escape(self) -> str:
        """After a backslash, outside of or inside a class."""
        if self.at == len(self.pattern):
            raise self._refuse("it ends in a backslash")
        number = _HEX.match(self.pattern, self.at)
        if number:
            self.at = number.end()
            return re.escape(chr(int(number[1] or number[2], 16)))
        character = self.pattern[self.at]
        self.at += 1
        if character == "Q":
            end = self.pattern.find("\\E", self.at)
            text = self.pattern[self.at : end if end >= 0 else len(self.pattern)]
            self.at = end + 2 if end >= 0 else len(self.pattern)
            return "".join(map(re.escape, text))
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character.isascii() and not character.isalnum():
            return re.escape(character)
        if character.isdigit():
            raise self._refuse(f"\\{character}: RE2 has no back-references")
        raise self._refuse(f"\\{character} is not read here")

    def _class(self) -> str:
        out = ["["]
        self.at += 1
        if self.pattern[self.at : self.at + 1] == "^":
            self.at += 1
            out.append("^")
        first = True
        while True:
            if self.at >= len(self.pattern):
                raise self._refuse("a class is not closed by ]")
            character = self.pattern[self.at]
            if character == "]" and not first:
                self.at += 1
                return "".join([*out, "]"])
            first = False
            if self.pattern.startswith("[:", self.at):
                end = self.pattern.find(":]", self.at)
                name = self.pattern[self.at + 2 : end] if end >= 0 else ""
                if name not in _POSIX:
                    raise self._refuse(f"[:{name}:] is not a class that is read here")
                out.append(_POSIX[name])
                self.at = end + 2
            elif character == "\\":
                self.at += 1
                if self.pattern[self.at : self.at + 1] in ("b", "B", "A", "z", "Q"):
                    raise self._refuse(f"\\{self.pattern[self.at]} in a class")
                out.append(self._escape())
            elif self.pattern.startswith("--", self.at):
                raise self._refuse("-- in a class: write the character as \\-")
            else:
                self.at += 1
                # "&&", "||", "~~" and "[" may get a meaning in Python's classes
                out.append(re.escape(character) if character in "[&|~]" else character)
