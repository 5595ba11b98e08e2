"""What a client of an xDS server must be told: a small model of the protocol, from its document.

It knows nothing of the server but the frames. For each type on a stream it keeps the subscription
that the server must have taken (requests arrive at once, responses when the client reads them) and
the last word that was sent about each name. So it judges every frame when it is sent: is all of it
asked for, and is it new or asked for again? And when all is quiet: was everything said?
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

from reconciler.core.discovery.types import CDS, LDS, Variant
from tests.unit.discovery_rig import Answer, read

ABSENT: Final = "absent"
FORGOTTEN: Final = "forgotten"  # it must be told again, whatever it is

ALL: Final = "*"


class Told:
    """One type on one stream. truth: name → version, of its view, now."""

    def __init__(self, variant: Variant, type_url: str) -> None:
        self.delta = variant is Variant.DELTA
        self.complete = type_url in (CDS, LDS) and not self.delta
        self.wildcard = False
        self.names: set[str] = set()
        self.named = False  # ever, on this stream
        self.word: dict[str, str] = {}  # name → version, ABSENT or FORGOTTEN
        self.asked: set[str] = set()  # may be sent though it was before
        self.asked_all = False
        self.newest = ""  # nonce
        self.unanswered: deque[str] = deque()  # nonces
        self.begun = False
        self.said: dict[str, dict[str, str]] = {}  # version_info of everything → what that was

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    # What the client asks

    def begin(self, names: set[str], initial: Mapping[str, str], *, has_all: bool) -> None:
        """The first request. has_all: of a state-of-the-world client, everything there is now."""
        self.begun = True
        self.named = bool(names)
        self.wildcard = not names or ALL in names
        self.names = names - {ALL}
        self.word = {name: version for name, version in initial.items() if self.wants(name)}
        if not has_all:
            self.ask(self.names - initial.keys())
            self.asked_all = self.wildcard and not initial

    def ask(self, names: set[str]) -> None:
        self.asked |= names
        self.word.update(dict.fromkeys(names, FORGOTTEN))

    def ask_all(self) -> None:
        self.asked_all = True
        self.word = {name: FORGOTTEN for name, word in self.word.items() if word != ABSENT} | {
            name: ABSENT for name, word in self.word.items() if word == ABSENT
        }

    def change(self, subscribe: set[str], unsubscribe: set[str]) -> None:
        """Delta: an incremental change."""
        left = self.names & unsubscribe
        self.named |= bool(subscribe)
        if ALL in subscribe:
            self.wildcard = True
            self.ask_all()
        if ALL in unsubscribe:
            self.wildcard = False
        self.names = (self.names - unsubscribe) | (subscribe - {ALL})
        self.ask(subscribe - {ALL})
        if self.wildcard:
            self.ask(left)
        self._drop()

    def replace(self, listed: set[str]) -> None:
        """State of the world: the whole list, of a request that is not stale."""
        again = (ALL in listed, listed - {ALL}) == (self.wildcard, self.names)
        if not self.named and not listed:
            return
        self.named = True
        wildcard, names = self.wildcard, self.names
        self.wildcard = ALL in listed
        self.names = listed - {ALL}
        self.ask(self.names - names)
        if self.wildcard and not wildcard:
            self.ask_all()
        if again:
            self.asked |= self.names  # it may be sent, but it need not be
        self._drop()

    def narrow(self, listed: set[str]) -> None:
        """State of the world: a stale request can't ask for more; what it leaves out is over."""
        if not self.named and not listed:
            return
        self.named = True
        self.wildcard &= ALL in listed
        self.names &= listed
        self._drop()

    def _drop(self) -> None:
        self.word = {name: word for name, word in self.word.items() if self.wants(name)}
        self.asked &= self.names | (self.word.keys() if self.wildcard else set())

    def published(self, truth: Mapping[str, str]) -> None:
        """State of the world of other types: what goes is not said, so if it comes back as it was
        it may be sent again."""
        if not self.delta and not self.complete:
            self.asked |= self.word.keys() - truth.keys()

    # What the server says

    def sent(self, answer: Answer, truth: Mapping[str, str]) -> None:
        """Judge a frame at the time when it is sent."""
        self.newest = answer.nonce
        if self.wildcard and "." not in answer.version:
            self.said[answer.version] = dict(truth)
        self.unanswered.append(answer.nonce)
        assert not answer.nothing
        for name in (*answer.put, *answer.removed):
            assert self.wants(name), f"{name} was never asked for"
        assert not set(answer.put) & set(answer.removed)
        new = {
            name
            for name, version in answer.put.items()
            if self.word.get(name) != version or self.asked_all or name in self.asked
        }
        gone = {
            name
            for name in answer.removed
            if self.word.get(name, ABSENT) != ABSENT
            or name in self.asked
            # What ended before it asked for everything it may have all the same: by a response that
            # was on its way when it had given the name up.
            or (self.asked_all and name not in self.word)
        }
        if self.complete:
            present = {name for name, word in self.word.items() if word not in (ABSENT, FORGOTTEN)}
            assert new or self.asked or self.asked_all or present - answer.put.keys(), (
                "nothing new was sent"
            )
            self.word = dict.fromkeys(self.word, ABSENT) | dict(answer.put)
            self.asked.clear()
            self.asked_all = False
            return
        assert new == set(answer.put), f"{set(answer.put) - new} was sent twice"
        assert gone == set(answer.removed), f"{set(answer.removed) - gone} was removed twice"
        if not answer.put and not answer.removed:
            assert self.delta, "an empty response means nothing"
            assert self.asked_all, "nobody asked for everything"
            assert not truth
        self.word.update(answer.put)
        self.word.update(dict.fromkeys(answer.removed, ABSENT))
        self.asked -= answer.put.keys() | set(answer.removed)
        self.asked_all = False

    def check(self, truth: Mapping[str, str]) -> None:
        """All is quiet: what is wanted and is there was said, and what is not there too."""
        for name, version in truth.items():
            if self.wants(name):
                assert self.word.get(name) == version, f"{name}: not told of {version}"
        for name in self.names - truth.keys():
            if self.delta:
                assert self.word.get(name) == ABSENT, f"{name}: not told that there is none"
        if self.delta or self.complete:
            for name, word in self.word.items():
                if name not in truth:
                    assert word in (ABSENT, FORGOTTEN) if self.complete else word == ABSENT


class Holding:
    """What a client has of one type, over its streams."""

    def __init__(self, variant: Variant, type_url: str) -> None:
        self.variant = variant
        self.type_url = type_url
        self.told = Told(variant, type_url)
        self.held: dict[str, str] = {}
        self.version = ""  # version_info that it accepted last, and still has all of
        self.had: dict[str, str] | None = None  # what everything was, by that version
        self.last = ""  # nonce that it read last
        self.listed: set[str] = set()  # state of the world: its present list
        self.refused = False  # anything, so that what it has may be something else

    def read(self, frame: bytes) -> Answer:
        answer = read(self.variant, frame)
        self.last = answer.nonce
        return answer

    def accept(self, answer: Answer) -> None:
        told = self.told
        if told.complete:
            self.held = dict(answer.put)
        self.held.update(answer.put)
        for name in answer.removed:
            self.held.pop(name, None)
        self.version = answer.version
        self.had = told.said.get(answer.version)
        self.drop()

    def drop(self) -> None:
        """What it does not want any more is not kept."""
        wildcard, names = self.wanted()
        kept = {n: v for n, v in self.held.items() if wildcard or n in names}
        if kept != self.held:
            self.held = kept
            self.version, self.had = "", None

    def wanted(self) -> tuple[bool, set[str]]:
        """As the client sees it, whether or not the server has taken it yet."""
        if self.told.delta:
            return self.told.wildcard, self.told.names
        if not self.listed and not self.told.named:
            return True, set()
        return ALL in self.listed, self.listed - {ALL}

    def check(self, truth: Mapping[str, str]) -> None:
        self.told.check(truth)
        if self.refused:
            return
        there = {name: version for name, version in truth.items() if self.told.wants(name)}
        if self.told.delta or self.told.complete:
            assert self.held == there
        else:
            assert {name: self.held.get(name) for name in there} == there
