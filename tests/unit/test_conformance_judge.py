"""The judge of the conformance suite, without a server: what may come late, and what may not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf import any_pb2

from reconciler.probe.frames import Item, Response
from reconciler.probe.services import OWN, Variant
from reconciler.testing.conformance.judge import Fault, Judge, State
from reconciler.testing.conformance.language import Piece
from reconciler.testing.conformance.resources import message

CDS = OWN["CDS"].type_url
STATE: State = {name: (each, message(each)) for name in "abc" for each in (Piece("CDS", name, 1),)}


def response(names: Sequence[str], removed: Sequence[str] = ()) -> Response:
    items = []
    for name in names:
        body = any_pb2.Any()
        body.Pack(STATE[name][1])
        items.append(Item(name, "1", body))
    return Response(CDS, "", "nonce", tuple(items), tuple(removed))


def wanting(*pieces: Piece) -> dict[str, Piece]:
    return {piece.name: piece for piece in pieces}


def of_everything() -> Judge:
    judge = Judge("CDS", Variant.DELTA)
    judge.subscribe(("*",), STATE, None)
    assert judge.take(response("abc"), STATE, wanting(*(piece for piece, _ in STATE.values())))
    return judge


def test_each_of_two_requests_for_a_name_beside_the_wildcard_may_have_its_answer() -> None:
    """Also when the second is made before the first was read: both answers come after it."""
    judge = of_everything()
    judge.subscribe(("a", "nonesuch"), STATE, None)
    judge.unsubscribe(("a",), STATE)
    assert judge.take(response("a", ["nonesuch"]), STATE, wanting(Piece("CDS", "a", 1)))
    judge.unsubscribe(("nonesuch",), STATE)
    gone = wanting(Piece("CDS", "nonesuch", 0))
    assert not judge.take(response("a"), STATE, gone)
    assert judge.take(response("", ["nonesuch"]), STATE, gone)


def test_a_name_comes_no_oftener_than_it_was_asked_for() -> None:
    judge = of_everything()
    judge.subscribe(("a",), STATE, None)
    assert judge.take(response("a"), STATE, wanting(Piece("CDS", "a", 1)))
    with pytest.raises(Fault, match="a had no reason to"):
        judge.take(response("a"), STATE, wanting(Piece("CDS", "b", 1)))
