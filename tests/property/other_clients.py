"""What our agents never do on a stream, and any other client may: recorded as joined runs are.

A watcher of labels changes its mind, answers late, twice or what was never sent; an agent is
without a server for longer than it may trust what it has; a server is deposed while a write is
under way.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping

from reconciler.core.objects import ObjectKey
from reconciler.core.plane import ControlPlane
from reconciler.core.resources.types import IDENTITY
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Request
from reconciler.testing.joined import Joined
from reconciler.tracefile import Life
from tests.property.joined_runs import lives

STALE = 30.0
FIRST = 1_000_000
"""Number of a stream, far from those of agents."""

NAMES = ("256", "257", "258", "259", "260")
MOVES = ("ask", "ask", "answer", "answer", "answer", "late", "repeat", "edit", "edit", "again")


def record(seed: int) -> Mapping[str, Life]:
    """What each process of such a run recorded, by a name with the seed."""
    chance = random.Random(seed)
    joined = Joined(("n1",), max_stale=STALE, record=True)
    joined.edit(joined.world.namespace("a", {"tier": "t0"}))
    joined.pump("n1")
    watch(joined, chance)
    without_a_server(joined)
    deposed(joined)
    return lives(f"others {seed}", joined)


class Watcher:
    """A client of labels, with the nonces that it has not answered, and those that it has."""

    def __init__(self, joined: Joined) -> None:
        self.joined = joined
        self.stream = max(joined.others, default=FIRST) + 1
        joined.others[self.stream] = deque()
        plane(joined).stream_opened(self.stream, "watcher", joined.now)
        joined.collect()
        self.open: list[str] = []
        self.answered: list[str] = ["never sent"]
        self.say(subscribe=NAMES[:2])

    def say(self, **fields: object) -> None:
        request = Request(type_url=IDENTITY, node="watcher", **fields)  # type: ignore[arg-type]
        plane(self.joined).received(self.stream, codec.encode_request(request), self.joined.now)
        self.joined.collect()
        frames = self.joined.others[self.stream]
        while frames:
            self.open.append(codec.decode_response(frames.popleft()).nonce)

    def answer(self, at: int, error: str | None) -> None:
        nonce = self.open.pop(at)
        self.answered.append(nonce)
        self.say(nonce=nonce, error=error)


def plane(joined: Joined) -> ControlPlane:
    assert joined.plane is not None
    return joined.plane


def watch(joined: Joined, chance: random.Random) -> None:
    """Pods come, go and are relabelled, none on the agent's node, while the watcher asks."""
    watcher = Watcher(joined)
    for _ in range(40):
        error = chance.choice((None, None, "no"))
        match chance.choice(MOVES):
            case "ask":
                names = tuple(chance.sample(NAMES, 2))
                watcher.say(**{chance.choice(("subscribe", "unsubscribe")): names})
            case "answer" if watcher.open:
                watcher.answer(0, error)
            case "late" if watcher.open:
                watcher.answer(-1, error)
            case "repeat":  # at times with a change of mind in the same request
                names = tuple(chance.sample(NAMES, chance.randrange(2)))
                watcher.say(nonce=chance.choice(watcher.answered), error=error, subscribe=names)
            case "edit":
                edit(joined, chance)
            case "again":
                watcher = Watcher(joined)  # its new stream ends the one before


def edit(joined: Joined, chance: random.Random) -> None:
    name = f"p{chance.randrange(3)}"
    if chance.random() < 0.3:
        joined.edit(joined.world.delete(ObjectKey("Pod", "a", name)))
    else:
        labels = {"app": f"x{chance.randrange(4)}"}
        joined.edit(joined.world.pod("a", name, "elsewhere", labels, [f"10.9.0.{name[1:]}"]))
    joined.wait(3.0)
    joined.pump("n1")


def without_a_server(joined: Joined) -> None:
    """Once between two attempts, once during one."""
    for connecting in (False, True):
        joined.crash_server()
        if connecting:
            joined.wait(5.0)
        joined.wait(STALE + 1)
        joined.start_server()
        for _ in range(4):
            joined.wait(5.0)
            joined.pump("n1")


def deposed(joined: Joined) -> None:
    """Another server opens the journal while this one waits for its write to be taken."""
    joined.edit(joined.world.pod("a", "new", "elsewhere", {"app": "new"}, ["10.9.0.9"]))
    assert joined.writes
    joined.journal.open()
    joined.answer_journal()
    joined.start_server()
    for _ in range(4):
        joined.wait(5.0)
        joined.pump("n1")
