"""What TLC prints with `-tool`: messages with numbers, states, progress.

@!@!@STARTMSG 2217:4 @!@!@
2: <Send line 7, col 12 to line 7, col 58 of module M>
/\\ x = 1
@!@!@ENDMSG 2217 @!@!@
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from reconciler.formal.graph import StateReader
from reconciler.formal.trace import Step
from reconciler.formal.values import Record, TlaSyntaxError

_START: Final = re.compile(r"@!@!@STARTMSG (\d+):(\d+) @!@!@$")
_END: Final = re.compile(r"@!@!@ENDMSG (\d+) @!@!@$")
_STEP: Final = re.compile(r"(\d+): (?:<(\w+)[^>]*>|Back to state(?:: <(\w+)[^>]*>)?|(Stuttering))")
_PROGRESS: Final = re.compile(
    r"Progress\((\d+)\) at [^:]+:\d+:\d+: ([\d,]+) states generated.*?, ([\d,]+) distinct states "
    r"found.*?, ([\d,]+) states left"
)
_COUNTS: Final = re.compile(r"([\d,]+) states generated, ([\d,]+) distinct states found")
_GENERATED: Final = re.compile(r"(?:^|: )([\d,]+) states generated")
_FELL: Final = re.compile(
    r"(?:Invariant|Action property|Property|property) (\S+)(?: line .*?)? (?:is|was) violated"
)

INVARIANT, INVARIANT_AT_START, PROPERTY_AT_START, ACTION_PROPERTY = 2110, 2107, 2108, 2112
DEADLOCK, TEMPORAL, INVARIANT_FAILED = 2114, 2116, 2111
PROGRESS, SIMULATED, COUNTS = 2200, 2209, 2199
STATE, STUTTERING, BACK, PASSED = 2217, 2218, 2122, 2193
_ERROR_LEVELS: Final = (1, 2)
_BEHAVIOUR: Final = (2121, 2264)
_ASSERTED: Final = 2132


class Message(msgspec.Struct, frozen=True):
    """A message of TLC with its number (EC.java); 0 for lines outside of all messages.

    level: MP.java's: 0 for information, 1 an error, 2 a bug of TLC, 3 a warning, 4 a state
    """

    number: int
    text: str
    level: int = 0


class Progress(msgspec.Struct, frozen=True):
    """How far a search is: its depth, states seen, distinct ones, and those not looked at yet."""

    depth: int
    states: int
    distinct: int
    queue: int


def messages(output: str) -> tuple[Message, ...]:
    """The messages in order of their beginning; one that is inside another comes behind it."""
    found: list[tuple[int, int, list[str]]] = []
    stack: list[int] = []
    for line in output.splitlines():
        start, end = _START.match(line), _END.match(line)
        if start is not None:
            stack.append(len(found))
            found.append((int(start.group(1)), int(start.group(2)), []))
        elif end is not None and stack:
            stack.pop()
        elif stack:
            found[stack[-1]][2].append(line)
        elif found and found[-1][0] == 0:
            found[-1][2].append(line)
        else:
            found.append((0, 0, [line]))
    return tuple(
        Message(number, "\n".join(lines).strip("\n"), level) for number, level, lines in found
    )


def plain(output: str) -> str:
    """The output for people: without the marks."""
    return "\n".join(line for line in output.splitlines() if not line.startswith("@!@!@"))


def progress(line: str) -> Progress | None:
    """The progress that a line tells of."""
    found = _PROGRESS.search(line)
    if found is None:
        return None
    depth, states, distinct, queue = (int(part.replace(",", "")) for part in found.groups())
    return Progress(depth, states, distinct, queue)


def counts(found: Sequence[Message]) -> tuple[int, int]:
    """States generated, and distinct ones, at the end or as last told; 0 where TLC did not say."""
    states = distinct = 0
    for message in found:
        both = _COUNTS.search(message.text) if message.number == COUNTS else None
        if both is not None:
            return _number(both.group(1)), _number(both.group(2))
        if message.number in (PROGRESS, SIMULATED):
            last = _GENERATED.search(message.text)
            states = _number(last.group(1)) if last else states
            now = progress(message.text)
            distinct = now.distinct if now and message.number == PROGRESS else 0
    return states, distinct


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def errors(found: Sequence[Message]) -> str:
    """What TLC says is wrong, without the states."""
    said = [
        message.text.strip()
        for message in found
        if (message.level in _ERROR_LEVELS and message.number not in _BEHAVIOUR)
        or message.number == _ASSERTED
    ]
    parsing = [m.text[m.text.find("***") :] for m in found if m.number == 0 and "***" in m.text]
    return "\n".join(said + parsing).strip()


def fell(found: Sequence[Message]) -> str:
    """The name that TLC gives to what is violated; "" where it gives none (temporal properties)."""
    for message in found:
        if message.number in (INVARIANT, INVARIANT_AT_START, PROPERTY_AT_START, ACTION_PROPERTY):
            name = _FELL.search(message.text)
            if name is not None:
                return "" if name.group(1) == "line" else name.group(1)
        if message.number == INVARIANT_FAILED:
            name = re.search(r"invariant (\S+) failed", message.text)
            return name.group(1) if name else ""
        if message.number == DEADLOCK:
            return "deadlock"
    return ""


def trace(found: Sequence[Message]) -> tuple[tuple[Step, ...], int | None]:
    """The counterexample without arguments, and its loop (see `Trace`). Unreadable: no steps."""
    reader = StateReader()
    steps: list[Step] = []
    loop: int | None = None
    try:
        for message in found:
            if message.number == INVARIANT_AT_START or message.number == PROPERTY_AT_START:
                _, _, text = message.text.partition("\n")
                steps.append(Step("", (), Record(reader.read(text))))
            head = _STEP.match(message.text)
            if head is None:
                continue
            number, action, back, _ = head.groups()
            if message.number == STATE:
                text = message.text.partition("\n")[2]
                state = Record(reader.read(text))
                first = not steps
                steps.append(Step("" if first else action, () if first else None, state))
            elif message.number == STUTTERING and steps:
                loop = len(steps) - 1
            elif message.number == BACK and 0 < int(number) <= len(steps):
                loop = int(number) - 1
                steps.append(Step(back or "", None, steps[loop].state))
    except TlaSyntaxError:
        return (), None
    return tuple(steps), loop
