"""Which node a projected service account token is of, by TokenReview.

The API server verifies the token for our audience: signature, expiry, and that the ServiceAccount
and the pod that it is bound to still exist. Then the token counts only if it is one of the agent's
own ServiceAccount, and the node is the one that the API server names, from the token's claim: any
other pod of the node may hold a token for our audience, but not of that ServiceAccount. A token
that names no node (asked for without a pod) or never expires is refused.

A storm of reconnects is no storm on the API server: an answer is kept for a short time (never
beyond the token's expiry), connections with one token share one review, at most `CONCURRENT`
reviews run, and after one that couldn't be made none is tried for a moment. What could not be asked
is UNAVAILABLE, never a refusal. So a deleted pod's token is good for `KEEP_SECONDS` more at most.

Tokens are kept as hashes only, and the peer is told nothing of what the API server said: that is
for the log.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

from reconciler.errors import ProtocolError, UnavailableError
from reconciler.server.kubernetes.client import ApiClient, ApiError
from reconciler.tls import MAX_TOKEN, Proof, is_node_name, token_claims

PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
NODE_CLAIM: Final = "authentication.kubernetes.io/node-name"
KEEP_SECONDS: Final = 120.0
KEEP_REFUSED_SECONDS: Final = 10.0  # an API server that can't read its store refuses too
CONCURRENT: Final = 16
REMEMBERED: Final = 16_384  # answers of each kind: more than nodes, and 2 MB
REVIEW_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0


T = TypeVar("T")


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    extra: dict[str, list[str]] = {}


class _ReviewStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()
    audiences: list[str] = []
    error: str = ""


class _Review(msgspec.Struct, frozen=True):
    status: _ReviewStatus = _ReviewStatus()


class TokenReviewer:
    """`server.proofs.Tokens` by the API server. `results` counts "node", "refused", "unavailable"
    of reviews, and "kept": what needed none."""

    def __init__(
        self,
        client: ApiClient,
        *,
        audience: str,
        service_account: str,
        log: Any,
        keep: float = KEEP_SECONDS,
        keep_refused: float = KEEP_REFUSED_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """service_account: `namespace/name`."""
        namespace, _, name = service_account.partition("/")
        self.client = client
        self._audience = audience
        self._username = f"system:serviceaccount:{namespace}:{name}"
        self._log = log
        self._monotonic, self._wall = monotonic, wall
        self._proofs: _Kept[Proof] = _Kept(keep)
        self._refusals: _Kept[ProtocolError] = _Kept(keep_refused)
        self._running: dict[bytes, asyncio.Task[Proof | ProtocolError]] = {}
        self._slots = asyncio.Semaphore(CONCURRENT)
        self._paused_until = 0.0
        self.results: Counter[str] = Counter()

    async def prove(self, token: str) -> Proof:
        """The token's node. ProtocolError: UNAUTHENTICATED (not good here), PERMISSION_DENIED
        (good, but not an agent's on a node), UNAVAILABLE (the API server can't be asked)."""
        claims = token_claims(token) if len(token) <= MAX_TOKEN else {}
        expires = claims.get("exp")
        if not isinstance(expires, int):
            raise ProtocolError("UNAUTHENTICATED", "not a projected service account token")
        if expires <= self._wall():
            raise ProtocolError("UNAUTHENTICATED", "the token has expired")
        key, now = hashlib.sha256(token.encode()).digest(), self._monotonic()
        found = self._proofs.get(key, now) or self._refusals.get(key, now)
        if found is not None:
            self.results["kept"] += 1
        else:
            task = self._running.get(key)
            if task is None:
                task = asyncio.create_task(self._review(key, token, expires), name="token-review")
                self._running[key] = task
                task.add_done_callback(lambda _: self._running.pop(key, None))
            found = await asyncio.shield(task)  # others may wait for it too
        if isinstance(found, ProtocolError):
            raise ProtocolError(found.status, found.reason)
        return found

    async def close(self) -> None:
        """End the reviews under way; who waits for one is cancelled."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _review(self, key: bytes, token: str, expires: int) -> Proof | ProtocolError:
        async with self._slots:
            if self._monotonic() < self._paused_until:
                return _unavailable()
            try:
                status = await self._ask(token)
            except (ApiError, UnavailableError, msgspec.DecodeError, UnicodeDecodeError) as error:
                wait = error.retry_after if isinstance(error, ApiError) else 0.0
                pause = min(max(wait, PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
                self._paused_until = self._monotonic() + pause
                self.results["unavailable"] += 1
                self._log.error("token review", reason=str(error))
                return _unavailable()
        now = self._monotonic()
        found = self._judge(status, expires)
        if isinstance(found, Proof):
            self.results["node"] += 1
            self._proofs.put(key, found, now)
        else:
            self.results["refused"] += 1
            self._refusals.put(key, found, now)
            self._log.warning(
                "token refused",
                reason=found.reason,
                user=status.user.username,
                api_server=status.error[:500],
            )
        return found

    async def _ask(self, token: str) -> _ReviewStatus:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        answer = await self.client.request(
            "POST", PATH, body=msgspec.json.encode(review), timeout=REVIEW_SECONDS
        )
        return msgspec.json.decode(answer.body, type=_Review).status

    def _judge(self, status: _ReviewStatus, expires: int) -> Proof | ProtocolError:
        if not status.authenticated or self._audience not in status.audiences:
            return ProtocolError(
                "UNAUTHENTICATED", f"the token is not good for audience {self._audience}"
            )
        if status.user.username != self._username:
            return ProtocolError("PERMISSION_DENIED", "the token is not of the agent's account")
        nodes = status.user.extra.get(NODE_CLAIM, [])
        if len(nodes) != 1 or not is_node_name(nodes[0]):
            return ProtocolError("PERMISSION_DENIED", "the token names no node")
        return Proof(nodes[0], "token", float(expires))


def _unavailable() -> ProtocolError:
    return ProtocolError("UNAVAILABLE", "tokens can't be verified now")


class _Kept(Generic[T]):
    """Answers by hash of the token, each for so many seconds; the oldest makes room."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._answers: OrderedDict[bytes, tuple[T, float]] = OrderedDict()

    def get(self, key: bytes, now: float) -> T | None:
        found, until = self._answers.get(key, (None, 0.0))
        if now < until:
            return found
        self._answers.pop(key, None)
        return None

    def put(self, key: bytes, answer: T, now: float) -> None:
        self._answers.pop(key, None)
        self._answers[key] = (answer, now + self._seconds)
        while len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
