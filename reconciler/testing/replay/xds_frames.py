"""Frames of the wire as XdsStream writes its messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from reconciler.core.resources.encode import parse_commit_version
from reconciler.core.resources.types import COMMIT, CUT_NAME, IDENTITY
from reconciler.core.xds.codec import decode_request, decode_response
from reconciler.core.xds.subscription import WILDCARD
from reconciler.formal.values import Record, Value
from reconciler.testing.replay.xds_replica import VERSIONS

TYPES: Final = {"cut": COMMIT, "labels": IDENTITY}
UNKNOWN: Final = -1
NEVER: Final = "never"
"""A nonce that no server has sent; "never of <type>" where the spec gives it one."""

_NAMES: Final = {url: name for name, url in TYPES.items()}


def revision_of(frame: bytes) -> int:
    """Of a commit."""
    (got,) = decode_response(frame).resources
    said = parse_commit_version(got.version)
    assert said is not None
    return said[0]


class Reader:
    """Reads each frame once. A nonce that meant two things would be an error here."""

    def __init__(self, names: tuple[str, ...], star: str) -> None:
        self._names, self._star = names, star
        self._nonces: dict[str, Value] = {}
        self._frames: dict[bytes, Value] = {}
        self._requests: dict[bytes, Value] = {}

    def body(self, said: Mapping[str, int]) -> Record:
        return Record({name: said.get(name, UNKNOWN) for name in self._names})

    def nothing(self, type: str, rev: int = 0) -> Record:
        return Record({"type": type, "rev": rev, "body": self.body({})})

    def nonce(self, nonce: str) -> Value:
        if nonce in self._nonces:
            return self._nonces[nonce]
        _, _, type = nonce.partition(" of ")
        return self.nothing(type or "none")

    def frame(self, data: bytes) -> Value:
        if data not in self._frames:
            response = decode_response(data)
            if response.type_url == COMMIT:
                found = self.nothing("cut", revision_of(data))
            else:
                said = {each.name: VERSIONS[each.version] for each in response.resources}
                said |= dict.fromkeys(response.removed, 0)
                found = Record({"type": "labels", "rev": 0, "body": self.body(said)})
            assert self._nonces.setdefault(response.nonce, found) == found, (
                "one nonce, two meanings"
            )
            self._frames[data] = found
        return self._frames[data]

    def request(self, message: tuple[bytes, ...]) -> Value:
        """The last frame of several that go together."""
        data = message[-1]
        if data not in self._requests:
            self._requests[data] = self._request(data)
        return self._requests[data]

    def _request(self, data: bytes) -> Value:
        request = decode_request(data)
        kind = "ask"
        if request.nonce:
            kind = "ack" if request.error is None else "nack"
        said = parse_commit_version(request.initial.get(CUT_NAME, ""))
        initial: dict[str, int] = {}
        if request.type_url == IDENTITY:
            initial = {name: VERSIONS[version] for name, version in request.initial.items()}
        return Record(
            {
                "kind": kind,
                "type": _NAMES[request.type_url],
                "nonce": self.nonce(request.nonce),
                "add": self._asks(request.subscribe, request.type_url),
                "drop": self._asks(request.unsubscribe, request.type_url),
                "initial": self.body(initial),
                "rev": 0 if said is None else said[0],
            }
        )

    def _asks(self, names: Iterable[str], type_url: str) -> frozenset[str]:
        if type_url == COMMIT:
            return frozenset()
        return frozenset(self._star if name == WILDCARD else name for name in names)
