"""One node brought from cut to cut: what is sent when, and what is believed after each answer."""

from __future__ import annotations

from reconciler.core.policy.ir import Direction
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources.build import (
    CLOSED,
)
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    BINDINGS,
    COMMIT,
    CUT_TYPES,
    ENDPOINT,
    PEER_SET,
    POLICY,
    RULE_SET,
)
from reconciler.core.xds import codec
from reconciler.core.xds.codec import Encoder
from reconciler.core.xds.rollout import RETRY_SECONDS, Rollout
from tests.unit.rollout_rig import GRACE, SELECTORS, Line, closed, rule_set, synced


def test_nothing_is_sent_before_the_first_request_of_every_type() -> None:
    line = Line()
    line.connect(CUT_TYPES[:-1])
    assert not line.down
    assert line.rollout.state == "absent"
    line.up.append(line.agent.hello()[-1])
    line.serve()
    assert line.down


def test_types_are_sent_in_order_pipelined_and_the_commit_waits_for_all() -> None:
    line = Line()
    line.connect()
    assert line.types() == [PEER_SET, RULE_SET, POLICY, BINDINGS, ADDRESS_GROUP, ENDPOINT]
    line.read(5)
    line.serve()
    assert line.rollout.state == "staging"
    assert line.types() == [ENDPOINT]
    line.read()
    line.serve()
    assert line.types() == [COMMIT]
    assert line.rollout.committed == 0
    line.settle()
    assert line.rollout.committed == line.world.revision
    assert line.enforces()


def test_a_change_sends_what_differs_and_nothing_else() -> None:
    line = synced()
    name = line.world.policy(0, 90)
    line.publish()
    line.settle()
    assert [each[0] for each in line.agent.got] == [RULE_SET, POLICY, COMMIT]
    assert line.agent.got[0][1] == (name,)
    assert len(line.agent.got[0][2]) == 1, "the rule set that nobody has any more goes"
    assert line.enforces()


def test_changes_during_a_cut_coalesce_into_one() -> None:
    line = synced()
    line.world.policy(0, 90)
    line.publish()
    for port in range(91, 99):
        line.world.policy(0, port)
        line.publish()
    assert len(line.down) == 2, "the cut that is begun is finished unchanged"
    line.settle()
    assert [each[0] for each in line.agent.got].count(COMMIT) == 2
    assert line.enforces()


def test_equal_content_sends_nothing_and_counts_as_newest() -> None:
    line = synced()
    line.publish()
    assert not line.down
    assert line.rollout.floor == line.world.revision
    assert line.rollout.in_sync


def test_a_node_that_comes_back_with_the_newest_cut_is_sent_its_commit_only() -> None:
    line = synced()
    line.disconnect()
    line.publish()
    line.connect()
    assert line.types() == [COMMIT], "so that it knows that it is in sync"
    assert line.rollout.floor == line.world.revision
    line.settle()
    assert line.rollout.in_sync


def test_a_node_that_comes_back_is_sent_what_it_missed_with_removals() -> None:
    line = synced()
    line.disconnect()
    line.world.policy(0, 90)
    line.publish()
    line.connect()
    line.settle()
    assert [each[0] for each in line.agent.got] == [RULE_SET, POLICY, COMMIT]
    assert line.agent.got[0][2]
    assert line.enforces()


def test_a_new_server_takes_a_node_over_by_its_report() -> None:
    line = synced()
    line.disconnect()
    line.rollout = Rollout(line.world.view, Encoder(), GRACE)
    line.rollout.view_changed(line.world.revision, line.now)
    assert line.rollout.floor == 0, "a node not heard of may use anything"
    line.connect()
    assert line.types() == [COMMIT]
    line.settle()
    assert line.rollout.in_sync


def test_what_was_staged_when_the_stream_broke_is_sent_again() -> None:
    line = synced()
    line.world.policy(0, 90)
    line.publish()
    line.read(2)
    line.serve()
    assert line.types() == [COMMIT]
    line.disconnect()  # the commit is lost
    assert line.rollout.floor < line.world.revision
    line.connect()
    assert line.types() == [RULE_SET, POLICY]
    line.settle()
    assert line.enforces()


def test_a_commit_whose_ack_was_lost_is_found_in_the_report() -> None:
    line = synced()
    before = line.rollout.floor
    line.world.policy(0, 90)
    line.publish()
    line.read(2)
    line.serve()
    line.read()  # flips; the ACK goes with the stream
    assert line.enforces()
    line.disconnect()
    assert line.rollout.floor == before
    line.connect()
    assert line.types() == [COMMIT]
    assert line.rollout.floor == line.world.revision


def test_a_refused_cut_is_held_not_sent_again_and_raises_an_alarm() -> None:
    line = synced()
    before = dict(line.agent.enforced)
    line.agent.poison.add(line.world.policy(0, 90))
    line.publish()
    line.settle()
    assert line.rollout.state == "held"
    assert "no room" in line.rollout.alarm
    assert line.agent.enforced == before
    line.wait(GRACE / 2)
    line.world.move(1, b"\x0a\0\0\x09")
    line.publish()  # it would be refused again
    assert not line.down
    assert line.rollout.state == "held"


def test_after_the_grace_the_rule_set_is_closed_and_the_rest_goes_on() -> None:
    line, bad = closed()
    assert line.rollout.state == "closed-fallback"
    assert line.enforces(frozenset({bad}))
    assert (RULE_SET, CLOSED[Direction.INGRESS]) in line.agent.enforced
    assert line.rollout.alarm
    line.world.move(1, b"\x0a\0\0\x09")
    line.publish()
    line.settle()
    assert line.enforces(frozenset({bad}))
    assert line.rollout.floor == line.world.revision


def test_it_opens_again_when_the_content_changes() -> None:
    line, _ = closed()
    line.world.policy(0, 92)
    line.publish()
    line.settle()
    assert line.rollout.state == "current"
    assert line.enforces()
    assert not line.rollout.alarm


def test_a_closed_view_is_tried_open_from_time_to_time() -> None:
    line, bad = closed()
    line.wait(RETRY_SECONDS)
    line.settle()
    assert line.rollout.state == "held"
    line.wait(GRACE)
    line.settle()
    assert line.enforces(frozenset({bad}))
    line.agent.poison.clear()  # room was made
    line.wait(RETRY_SECONDS)
    line.settle()
    assert line.rollout.state == "current"
    assert line.enforces()
    assert not line.rollout.alarm


def test_a_closed_view_outlasts_a_reconnect_but_not_for_ever() -> None:
    line, bad = closed()
    line.disconnect()
    line.connect()
    line.settle()
    assert line.enforces(frozenset({bad})), "not refused again at every reconnect"
    assert line.rollout.state == "closed-fallback"
    line.agent.poison.clear()
    line.wait(RETRY_SECONDS)
    line.settle()
    assert line.enforces()
    assert not line.rollout.alarm


def test_an_agent_that_was_restarted_is_tried_open_at_once() -> None:
    """It may be another version, or have more room. A new stream alone says nothing of that."""
    line, _ = closed()
    line.disconnect()
    line.agent.poison.clear()
    line.agent.instance = "two"
    line.connect()
    line.settle()
    assert line.enforces()
    assert line.rollout.state == "current"
    assert not line.rollout.alarm


def test_an_agent_that_was_restarted_and_refuses_again_is_closed_for_as_long_again() -> None:
    line, bad = closed()
    line.wait(RETRY_SECONDS / 2)
    line.disconnect()
    line.agent.instance = "two"
    line.connect()
    line.settle()
    assert line.rollout.state == "held"
    line.wait(GRACE)
    line.settle()
    assert line.rollout.state == "closed-fallback"
    assert line.enforces(frozenset({bad}))
    line.agent.poison.clear()
    line.wait(RETRY_SECONDS / 2)  # when the first one would have been tried again
    line.settle()
    assert line.enforces(frozenset({bad}))
    line.wait(RETRY_SECONDS / 2)
    line.settle()
    assert line.enforces()


def test_a_closed_view_opens_with_changed_content_after_a_reconnect() -> None:
    line, _ = closed()
    line.disconnect()
    line.world.policy(0, 92)
    line.publish()
    line.connect()
    line.settle()
    assert line.enforces()
    assert not line.rollout.alarm


def test_a_refused_policy_or_peer_set_closes_the_rule_sets_it_leads_to() -> None:
    for poison, expected in (("300", {80, 1}), (f"{SELECTORS[1]}/0", {81, 1})):
        line = Line()
        line.agent.poison.add(poison)
        line.connect()
        line.settle()
        assert line.rollout.state == "held"
        line.wait(GRACE)
        assert line.rollout.refused == {
            rule_set_hash(rule_set(Direction.EGRESS if port == 1 else Direction.INGRESS, port))
            for port in expected
        }


def test_each_refusal_closes_more_so_it_ends() -> None:
    line = synced()
    bad = {line.world.policy(0, 90), line.world.policy(1, 91)}
    line.agent.poison |= bad
    line.publish()
    for _ in range(2):
        line.settle()
        assert line.rollout.state == "held"
        line.wait(GRACE)
    line.settle()
    assert line.rollout.state == "closed-fallback"
    assert line.enforces(frozenset(bad))


def test_a_refusal_with_nothing_to_close_starts_the_stream_anew() -> None:
    line = synced()
    line.world.move(0, b"\x0a\0\0\x09")
    line.agent.poison.add(f"{line.world.groups[0]}/0")
    line.publish()
    line.settle()
    assert line.rollout.state == "held"
    line.wait(GRACE)
    assert line.restarts == 1
    assert line.rollout.state == "absent"
    line.agent.poison.clear()
    line.connect()
    line.settle()
    assert line.enforces()


def test_a_differing_root_is_refused_and_ends_in_a_resync() -> None:
    line = synced()
    line.world.policy(0, 90)
    line.publish()
    line.agent.staged[PEER_SET, "ghost"] = "1"  # what an abandoned cut left behind
    line.settle()
    assert line.rollout.state == "held"
    assert "root" in line.rollout.alarm
    for _ in range(3):
        line.wait(GRACE)
        if not line.open:
            line.connect()
        line.settle()
    assert line.enforces()
    assert line.rollout.in_sync
    assert not line.rollout.alarm


def test_answers_to_a_cut_that_was_given_up_say_nothing() -> None:
    line = synced()
    line.agent.poison.add(line.world.policy(0, 90))
    line.publish()
    assert line.types() == [RULE_SET, POLICY]
    line.read(2)  # NACK, then an ACK of what was pipelined behind it
    line.serve()
    assert line.rollout.state == "held"
    assert line.rollout.committed < line.world.revision


def test_a_node_ahead_of_the_server_is_sent_nothing_until_it_has_caught_up() -> None:
    line = synced()
    line.disconnect()
    line.agent.revision += 5
    line.world.policy(0, 90)
    line.publish()
    line.connect()
    assert line.rollout.state == "ahead"
    assert not line.down
    assert "newer" in line.rollout.alarm
    for _ in range(6):
        line.publish()
    line.settle()
    assert line.rollout.in_sync
    assert line.enforces()
    assert not line.rollout.alarm


def test_a_node_that_was_ahead_is_told_that_it_is_in_sync_though_nothing_differs() -> None:
    """A report is always answered by a commit: the agent knows by it that it is in sync."""
    line = synced()
    line.disconnect()
    line.agent.revision = line.world.revision + 1  # of another replica, with the same content
    line.connect()
    assert line.rollout.state == "ahead"
    line.publish()
    assert line.types() == [COMMIT]
    line.settle()
    assert line.rollout.in_sync
    assert line.agent.got == [(COMMIT, ("cut",), ())]


def test_the_ack_of_a_cut_given_up_is_not_taken_for_that_of_the_next() -> None:
    """Equal content has equal nonces; answers come in order, so the first one is of the first."""
    line = synced()
    first = line.world.policy(0, 90)
    line.agent.poison.add(first)
    line.world.move(1, b"\x0a\0\0\x09")
    line.publish()
    line.read(1)  # the rule set is refused; addresses are still on their way
    line.serve()
    line.world.policy(0, 92)
    line.publish()
    line.settle()
    for _ in range(3):
        line.wait(GRACE)
        if not line.open:
            line.connect()
        line.settle()
    assert line.enforces()


def test_frames_of_equal_content_are_shared() -> None:
    line = synced()
    encoder = Encoder()
    view = line.world.view(frozenset())
    found = [each for each in view.resources() if each.type_url == RULE_SET]
    first = encoder.frames(RULE_SET, found)
    assert encoder.frames(RULE_SET, list(found))[0] is first[0]
    assert codec.ack(RULE_SET, first[0].nonce) is codec.ack(RULE_SET, first[0].nonce)


def test_changes_elsewhere_do_not_postpone_the_next_try() -> None:
    line, _ = closed()
    line.agent.poison.clear()
    for number in range(4):
        line.wait(RETRY_SECONDS / 4)
        line.settle()
        line.world.move(1, bytes([10, 0, 1, number]))
        line.publish()
        line.settle()
    assert line.enforces()
    assert line.rollout.state == "current"
