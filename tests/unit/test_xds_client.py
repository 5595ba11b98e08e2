"""The agent's side of the stream: when it connects, what it says, when it stops trusting."""

from __future__ import annotations

import pytest

from reconciler.core.resources.encode import commit_version
from reconciler.core.resources.types import (
    COMMIT,
    CUT_NAME,
    CUT_TYPES,
    IDENTITY,
    PEER_SET,
    Resource,
)
from reconciler.core.xds.client import FIRST_BACK_OFF, LONGEST_BACK_OFF, Client, Report
from reconciler.core.xds.codec import Encoder, decode_request
from reconciler.core.xds.subscription import WILDCARD
from reconciler.errors import ProtocolError, Refusal

ROOT = bytes(range(32))


def connected(max_stale: float = 0.0) -> Client:
    client = Client("n1", 0.0, max_stale)
    client.tick(0.0)
    assert client.wants_stream
    client.opened(Report(), 0.0)
    return client


def response(name: str = "x") -> bytes:
    return Encoder().frames(PEER_SET, [Resource(PEER_SET, name, "1", b"")])[0].data


def test_it_subscribes_to_every_type_whole_with_what_is_enforced() -> None:
    client = Client("n1", 0.0)
    client.tick(0.0)
    report = Report(7, ROOT, {PEER_SET: {"a/0": "v"}})
    requests = [decode_request(each) for each in client.opened(report, 1.0)]
    assert tuple(each.type_url for each in requests) == CUT_TYPES
    assert all(each.subscribe == (WILDCARD,) for each in requests)
    assert [each.node for each in requests] == ["n1"] + [""] * (len(requests) - 1)
    initial = {each.type_url: each.initial for each in requests if each.initial}
    assert initial == {
        PEER_SET: {"a/0": "v"},
        COMMIT: {CUT_NAME: commit_version(7, ROOT)},
    }


def test_a_node_that_enforces_nothing_reports_nothing() -> None:
    client = Client("n1", 0.0)
    client.tick(0.0)
    assert not any(decode_request(each).initial for each in client.opened(Report(), 0.0))


def test_the_back_off_doubles_to_a_limit_and_its_jitter_is_half_of_it() -> None:
    client = Client("n1", 0.0)
    now, expected = 0.0, FIRST_BACK_OFF
    for _ in range(10):
        client.tick(now)
        assert client.state == "connecting"
        client.lost(now, jitter=0.0)
        assert client.retry_at == now + expected / 2
        client.tick(now)
        assert client.state == "disconnected", "not before the back-off is over"
        now = client.retry_at
        expected = min(2 * expected, LONGEST_BACK_OFF)
    client.tick(now)
    client.lost(now, jitter=1.0)
    assert client.retry_at == now + LONGEST_BACK_OFF


def test_a_server_that_answers_ends_the_back_off() -> None:
    client = connected()
    for _ in range(5):
        client.lost(0.0, 1.0)
        assert client.retry_at is not None
        client.tick(client.retry_at)
    client.opened(Report(), 0.0)
    client.received(response(), 0.0)
    client.lost(100.0, 1.0)
    assert client.retry_at == 100.0 + FIRST_BACK_OFF


def test_what_was_staged_is_to_be_discarded_when_the_stream_is_lost() -> None:
    client = connected()
    assert not client.discard
    client.lost(1.0, 0.0)
    assert client.discard


def test_a_stream_that_never_opened_has_nothing_to_discard() -> None:
    client = Client("n1", 0.0)
    client.tick(0.0)
    client.lost(1.0, 0.0)
    assert not client.discard


def test_states_from_response_to_commit() -> None:
    client = connected()
    assert client.state == "syncing"
    client.received(response(), 1.0)
    client.refused(1.0)
    assert client.state == "syncing"
    client.committed(2.0)
    assert client.state == "in-sync"
    client.received(response("y"), 3.0)
    assert client.state == "syncing"


def test_what_is_no_part_of_a_cut_leaves_it_in_sync() -> None:
    client = connected()
    client.received(response(), 1.0)
    client.committed(2.0)
    label = Encoder().frames(IDENTITY, [Resource(IDENTITY, "256", "1", b"")])[0].data
    assert client.received(label, 3.0).type_url == IDENTITY
    assert client.state == "in-sync"


def test_remote_pods_are_trusted_until_no_server_was_there_for_long() -> None:
    client = connected(max_stale=60.0)
    client.committed(0.0)
    # A quiet stream is a server that has nothing to say.
    client.tick(1000.0)
    assert not client.distrusted
    client.lost(1000.0, 0.0)
    client.tick(1059.0)
    assert client.state == "connecting"
    assert client.next_deadline() == 1060.0
    client.tick(1060.0)
    assert client.state == "stale-connecting"
    client.opened(Report(), 1061.0)
    assert (client.state, client.distrusted) == ("syncing", True), "trust comes with a commit"
    client.received(response(), 1062.0)
    client.committed(1062.0)
    assert (client.state, client.distrusted) == ("in-sync", False)


def test_without_a_limit_it_trusts_for_ever() -> None:
    client = connected()
    client.lost(0.0, 0.0)
    client.tick(1e9)
    assert not client.distrusted


def test_answers_carry_the_nonce_and_the_reason() -> None:
    ack = decode_request(Client.ack(PEER_SET, "n"))
    assert (ack.type_url, ack.nonce, ack.error) == (PEER_SET, "n", None)
    refusal = Refusal(PEER_SET, "a/0", "map is full", 9, 5)
    nack = decode_request(Client.nack(PEER_SET, "n", "map is full", refusal))
    assert (nack.nonce, nack.error, nack.refusal) == ("n", "map is full", refusal)
    assert decode_request(Client.nack(PEER_SET, "n", "")).error == ""


def test_what_is_no_response_is_the_servers_fault() -> None:
    client = connected()
    with pytest.raises(ProtocolError):
        client.received(b"\xff", 1.0)
