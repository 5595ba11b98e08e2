"""What is sent to a stream, in which order, and when: leads streams to the newest state of their
view.

Make before break ("Eventual consistency considerations"). When several types change for a stream,
additions and changes go first, in the order of the types; what is gone follows the other way round.
On an aggregated stream each stage waits for the answers to the one before: what clusters there are
and where their endpoints are, then listeners and routes, then removals. Order alone is not enough:
a client asks for the endpoints of a new cluster when it has read of it, and a route that is there
before them has nowhere to send its traffic. A client that does not answer in time is sent the rest
all the same, and is not waited for again until it answers. What a client asks for (at first, or
anew) never waits.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import Enum
from typing import Final

from reconciler.core.discovery.bucket import Bucket
from reconciler.core.discovery.clients import Client, Kind
from reconciler.core.discovery.frames import Frames
from reconciler.core.discovery.snapshot import NONE, Names, Snapshot, Told
from reconciler.core.discovery.types import CDS, EDS, ORDER, SDS, ttl_of
from reconciler.core.xds.effects import Close, Send

EARLY: Final = frozenset({SDS, CDS, EDS})
"""Types of the first stage; the others of the order are of the second."""

HOLD_SECONDS: Final = 15.0
"""How long at most a stage waits for the answers to the one before. Envoy answers within
milliseconds, whatever it thinks of a response, unless its machine or ours stands still; so long it
waits itself for the endpoints of a new cluster (`initial_fetch_timeout`), whose traffic would have
nowhere to go."""

TTL_BEATS: Final = 3
"""Heartbeats in one time to live: one may be late, one may be lost."""

SHORTEST_BEAT: Final = 0.1
"""Seconds: all streams are gone through in each."""

_RANK: Final = {type_url: at for at, type_url in enumerate(ORDER)}

Behind = tuple[str, Kind, Snapshot]
"""(type URL, what the client has, what it is to have)"""


class _Done(Enum):
    SENT = 1
    NOTHING = 2  # was to be sent
    HELD = 3  # for the answers to an earlier stage
    UNADMITTED = 4  # it is not this stream's turn to have its first response


_SENT, _NOTHING, _HELD, _UNADMITTED = _Done  # by names of their own, as `types.DELTA`


class Delivery:
    def __init__(self, frames: Frames, initial_rate: float | None) -> None:
        self._frames = frames
        self._beats: dict[str, float] = {}  # type → when the next one is due
        self._bucket = None if initial_rate is None else Bucket(initial_rate)
        self._waiting: dict[int, Client] = {}  # for a first response, the longest first
        self._held: dict[int, Client] = {}  # for answers, the longest first
        self.effects: list[Send | Close] = []

    def flush(self, client: Client, now: float) -> None:
        """Lead a stream to the newest state of its view, as far as it can take it now."""
        view = client.view
        if not client.drained:
            client.late = True
            return
        if not view.published:
            self._held.pop(client.id, None)
            return
        snapshots = view.snapshots
        nothing = view.nothing
        kinds = client.kinds
        behind: list[Behind] = []
        open_ = False
        for type_url, kind in kinds.items():
            target = snapshots.get(type_url, nothing)
            if kind.base is not target or kind.forced:
                behind.append((type_url, kind, target))
            if kind.open:
                open_ = True
        if not behind:
            if self._held:
                self._held.pop(client.id, None)
        elif len(behind) == 1 and (
            len(kinds) == 1
            or behind[0][1].fresh  # what is asked for at first never waits
            or not (open_ and any(self._open(client)))
        ):
            # As nearly always: no order to keep.
            ((type_url, kind, target),) = behind
            done = self._advance(client, type_url, kind, target, now)
            if self._held and done is not _UNADMITTED:
                self._held.pop(client.id, None)
        else:
            self._in_order(client, behind, now)

    def answered(self, client: Client, now: float) -> bool:
        """A response to it was acknowledged or refused. False: nothing waited for that."""
        client.mute = False
        if client.id in self._held:
            self.flush(client, now)
            return True
        return False

    def whole(self, type_url: str, target: Snapshot, wildcard: bool, names: Names) -> bytes:
        """A response to whoever has no stream."""
        return self._frames.whole(type_url, target, wildcard, names).data

    def renew(self, client: Client, type_url: str, ttl: float, now: float) -> None:
        """It has what ends after so many seconds."""
        if client.ttl:
            due = now + _beat_after(ttl)
            self._beats[type_url] = min(due, self._beats.get(type_url, due))

    def closed(self, client: Client) -> None:
        self._waiting.pop(client.id, None)
        self._held.pop(client.id, None)

    def close(self, client: Client, status: str, reason: str) -> None:
        self.closed(client)
        self.effects.append(Close(client.id, status, reason))

    def tick(self, clients: Collection[Client], now: float) -> None:
        if self._bucket is not None:
            while self._waiting and self._bucket.take(now):
                client = self._waiting.pop(next(iter(self._waiting)))
                client.admitted = True
                self.flush(client, now)
        while self._held:
            client = next(iter(self._held.values()))
            if now < client.held_until:
                break
            del self._held[client.id]
            client.mute = True
            self.flush(client, now)
        beats = [type_url for type_url, due in self._beats.items() if now >= due]
        if beats:
            self._beat(beats, clients, now)

    def next_deadline(self) -> float | None:
        if not (self._beats or self._waiting or self._held):
            return None  # as nearly always; asked for with each request
        times = list(self._beats.values())
        if self._waiting and self._bucket is not None:
            times.append(self._bucket.next_at)
        if self._held:
            times.append(next(iter(self._held.values())).held_until)
        return min(times, default=None)

    # ------------------------------------------------------------------------------------- inside

    def _in_order(self, client: Client, behind: list[Behind], now: float) -> None:
        """Additions and changes, and then removals, each stage when the one before is answered."""
        gated = _is_gated(client)
        early, late = self._open(client)
        behind.sort(key=self._place)
        held = False
        for type_url, kind, target in behind:
            staged = gated and type_url in _RANK
            wait = early and staged and type_url not in EARLY and not kind.fresh
            done = _NOTHING
            if wait and kind.forced:  # what is asked for goes, what changed beside waits
                at = target.step(kind.base).only(kind.forced)
                done = self._advance(client, type_url, kind, at, now)
            if done is not _UNADMITTED:
                # What is begun with may be what a client said it has, of which there is no content.
                at = target if kind.fresh else target.step(kind.base).between()
                done = self._advance(client, type_url, kind, at, now, wait=wait)
            if done is _UNADMITTED:
                return
            held |= done is _HELD
            if done is _SENT and staged:
                early |= type_url in EARLY
                late |= type_url not in EARLY
        for type_url, kind, target in reversed(behind):
            staged = gated and type_url in _RANK
            wait = staged and (held or (late and type_url in EARLY))
            done = self._advance(client, type_url, kind, target, now, wait=wait)
            if done is _UNADMITTED:
                return
            held |= done is _HELD
            late |= done is _SENT and staged and type_url not in EARLY
        if not held:
            self._held.pop(client.id, None)
        elif client.id not in self._held or (client.waits_early and not early):  # a step further
            self._held.pop(client.id, None)
            self._held[client.id] = client
            client.held_until = now + HOLD_SECONDS
        client.waits_early = early

    def _open(self, client: Client) -> tuple[bool, bool]:
        """Whether answers to responses of the first, and of the second stage are waited for."""
        early = late = False
        if not _is_gated(client):
            return early, late
        for type_url, kind in client.kinds.items():
            if kind.open and type_url in _RANK:
                early |= type_url in EARLY
                late |= type_url not in EARLY
        return early, late

    def _place(self, each: Behind) -> tuple[int, str]:
        return _RANK.get(each[0], len(_RANK)), each[0]

    def _advance(
        self,
        client: Client,
        type_url: str,
        kind: Kind,
        target: Snapshot,
        now: float,
        *,
        wait: bool = False,
    ) -> _Done:
        """Lead one type to a state. wait: but not if anything has to be sent for it"""
        forced = kind.forced
        if kind.base is target and not forced:
            return _NOTHING
        subscription = kind.subscription
        frames = self._frames.of(
            type_url,
            target.step(kind.base),
            client.variant,
            subscription.wildcard,
            subscription.names,
            forced,
            client.ttl,
        )
        if frames:
            if wait:
                return _HELD
            if not client.admitted and not self._admit(client, now):
                return _UNADMITTED
            self._send(client, kind, frames)
        kind.base = target
        kind.forced = NONE
        kind.fresh = False
        if target.ttl is not None:
            self.renew(client, type_url, target.ttl, now)
        return _SENT if frames else _NOTHING

    def _send(self, client: Client, kind: Kind, frames: Sequence[Told]) -> None:
        client.drained = False
        if client.again is not None and kind not in client.again:
            client.again = None
        for frame in frames:
            client.core.sent_of(kind, frame)
            kind.told += frame.said
            if len(kind.told) > 1:
                kind.bound()
            self.effects.append(Send(client.id, frame.data))

    def _admit(self, client: Client, now: float) -> bool:
        if self._bucket is not None and (self._waiting or not self._bucket.take(now)):
            self._waiting[client.id] = client
            return False
        client.admitted = True
        return True

    def _beat(self, types: Sequence[str], clients: Collection[Client], now: float) -> None:
        """Tell those that can be told that what they have goes on. To whoever takes nothing now it
        is sent in full when he does: it may have ended by then, and who has nothing any more can't
        be told that it is as it was."""
        shortest: dict[str, float] = {}
        for client in clients:
            if not client.ttl:
                continue
            drained = client.drained
            for type_url in types:
                kind = client.kinds.get(type_url)
                if kind is None or kind.base.ttl is None:
                    continue
                ttl = kind.base.ttl
                shortest[type_url] = min(ttl, shortest.get(type_url, ttl))
                if not drained:
                    kind.force(_ending(kind))
                    client.late = True
                else:
                    self._renew(client, type_url, kind)
        for type_url in types:
            if type_url in shortest:
                self._beats[type_url] = now + _beat_after(shortest[type_url])
            else:
                del self._beats[type_url]

    def _renew(self, client: Client, type_url: str, kind: Kind) -> None:
        wildcard, names = kind.subscription.wildcard, kind.subscription.names
        frames = self._frames.heartbeat(type_url, kind.base, client.variant, wildcard, names)
        if frames:
            self._send(client, kind, frames)


def _ending(kind: Kind) -> Names:
    held = kind.base.wanted(kind.subscription.wildcard, kind.subscription.names)
    return frozenset(each.name for each in held if ttl_of(each) is not None)


def _beat_after(ttl: float) -> float:
    return max(ttl / TTL_BEATS, SHORTEST_BEAT)


def _is_gated(client: Client) -> bool:
    """Whether its stages wait for each other's answers."""
    return client.service is None and not client.mute
