"""The agent's core against a server that is driven by hand: what is promised to whom, and when."""

from __future__ import annotations

import msgspec
import pytest
from pyroaring import BitMap

from reconciler.agent.applier import read_kernel
from reconciler.core.dataplane.adopt import Adopted
from reconciler.core.dataplane.effects import Apply, Connect, Options, SaveCache
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import MapId, Reason
from reconciler.core.dataplane.ops import Flip, Put, Remove
from reconciler.core.policy.ir import Direction
from reconciler.core.resources import encode
from reconciler.core.resources.encode import commit_version
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    COMMIT,
    CUT_NAME,
    PEER_SET,
    STAGED,
    Resource,
)
from reconciler.errors import DatapathError
from tests.unit.agent_rig import (
    DB,
    DB_ADDRESS,
    LINK,
    REMOTE,
    WEB,
    WEB_ADDRESS,
    WORLD,
    Rig,
    Table,
    cut,
    root_of,
    table,
)

FIRST, SECOND = cut(), cut(members=(258,))


def started(**limits: int) -> Rig:
    rig = Rig(None, **limits)
    rig.core.link_added(Link(LINK, pod="shop/db"), 0.0)
    rig.collect()
    rig.settle()
    rig.connect()
    return rig


def enforcing(**limits: int) -> Rig:
    rig = started(**limits)
    rig.serve(1, FIRST)
    return rig


def test_a_pod_is_closed_until_the_first_cut_with_it_is_in_force() -> None:
    rig = started()
    assert rig.ingress(WEB_ADDRESS) is Reason.CLOSED
    rig.send(rig.staging({}, FIRST))
    rig.settle()
    assert not rig.ingress(WEB_ADDRESS).passed
    rig.send(rig.commit(1, FIRST))
    rig.settle()
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
    assert rig.ingress(WORLD) is Reason.NO_RULE
    assert [row.state for row in rig.core.endpoint_rows()] == ["enforcing"]


def test_answers_say_what_the_kernel_holds() -> None:
    rig = started()
    rig.sent = []
    rig.send(rig.staging({}, FIRST))
    assert rig.sent == []  # nothing is written yet
    rig.settle()
    assert [each.type_url for each in rig.sent] == list(STAGED)
    assert all(each.error is None for each in rig.sent)
    rig.sent = []
    rig.send(rig.commit(1, FIRST))
    while not any(each.type_url == COMMIT for each in rig.sent):
        assert rig.enforced[0] == 0
        rig.step()
    assert rig.enforced == (1, root_of(FIRST)) == rig.core.enforced


def test_the_cut_is_on_disk_before_the_flip() -> None:
    rig = enforcing()
    kinds = [
        "save" if isinstance(each, SaveCache) else "flip"
        for each in rig.log
        if isinstance(each, SaveCache)
        or (isinstance(each, Apply) and any(isinstance(op, Flip) for op in each.ops))
    ]
    assert kinds == ["save", "flip", "save"]  # at last, to forget what was there before


def test_the_cache_does_not_grow_with_restarts() -> None:
    rig = enforcing()
    for _ in range(3):
        rig.start()
        rig.settle()
        assert len(rig.disk) == 1
    rig.start(cached=False)
    rig.connect()
    rig.serve(2, SECOND)
    assert len(rig.disk) == 1


def test_a_cut_costs_what_it_changes() -> None:
    rig = enforcing()
    size = len(rig.disk[0])
    rig.log = []
    rig.serve(2, SECOND, FIRST)
    writes = sum(
        len(op.entries) if isinstance(op, Put) else len(op.keys)
        for each in rig.log
        if isinstance(each, Apply)
        for op in each.ops
        if isinstance(op, Put | Remove)
    )
    assert writes <= 6
    assert len(rig.disk[1]) < size / 4


def test_a_resource_that_cannot_be_read_is_refused_with_its_name() -> None:
    rig = enforcing()
    good = SECOND[PEER_SET, "a" * 32 + "/0"]
    bad = Resource(good.type_url, good.name, "x" * 22, good.body)
    rig.sent = []
    rig.send([each.data for each in rig.encoder.frames(PEER_SET, [bad])])
    rig.settle()
    (answer,) = rig.sent
    assert answer.refusal is not None
    assert answer.refusal.name == good.name
    assert answer.error is not None
    assert "version" in answer.error
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
    # The next cut comes on the same stream, as a difference from what is enforced.
    rig.serve(3, SECOND, FIRST)
    assert rig.enforced == (3, root_of(SECOND))
    assert rig.ingress(WEB_ADDRESS) is Reason.NO_RULE


def test_a_differing_root_is_refused_and_the_stream_opened_anew() -> None:
    rig = enforcing()
    rig.serve(3, SECOND, FIRST)
    assert rig.enforced == (3, root_of(SECOND))
    rig.sent = []
    rig.send(rig.commit(4, FIRST))
    refusal = rig.sent[-1].refusal
    assert refusal is not None
    assert refusal.type_url == COMMIT
    rig.settle()
    assert not rig.open
    assert rig.enforced[0] == 3
    reported = rig.connect()
    assert reported[COMMIT] == {CUT_NAME: commit_version(3, root_of(SECOND))}
    assert reported[PEER_SET] == {
        name: each.version for (kind, name), each in SECOND.items() if kind == PEER_SET
    }


def test_a_root_that_differs_again_leads_to_an_empty_report_and_no_ghosts() -> None:
    rig = enforcing()
    for _ in range(2):
        rig.send(rig.commit(2, SECOND))
        rig.settle()
        reported = rig.connect()
    assert not any(reported.values())
    # The server sends everything, and does not name what it does not know to be there.
    without = {key: each for key, each in FIRST.items() if DB not in key[1]}
    answers = rig.serve(2, without)
    assert all(each.error is None for each in answers)
    assert rig.enforced == (2, root_of(without))
    assert rig.usage() == _usage_of(without)


def test_an_older_cut_is_refused() -> None:
    rig = enforcing()
    rig.send(rig.commit(1 << 33, FIRST))
    rig.settle()
    assert rig.enforced[0] == 1 << 33
    rig.serve(1 << 32, SECOND, FIRST)
    assert rig.enforced == (1 << 33, root_of(FIRST))
    assert any("older" in each.text for each in rig.alarms)


def test_what_arrives_during_a_flip_does_not_change_what_is_flipped_to() -> None:
    rig = enforcing()
    rig.send(rig.staging(FIRST, SECOND))
    rig.settle()
    rig.sent = []
    rig.send(rig.commit(2, SECOND))
    rig.send(rig.commit(3, SECOND))
    rig.send(rig.staging(SECOND, FIRST))
    while rig.core.enforced[0] == 1:
        rig.step()
    assert rig.core.enforced == rig.enforced == (2, root_of(SECOND))
    rig.settle()
    assert rig.core.enforced == rig.enforced == (3, root_of(SECOND))
    assert [each.error for each in rig.sent][:2] == [None, None]


def test_a_commit_that_waits_is_answered_once_when_what_came_before_it_fails() -> None:
    rig = enforcing()
    rig.sent = []
    rig.send(rig.staging(FIRST, SECOND))
    rig.send(rig.commit(2, SECOND))
    write = rig.work.popleft()
    assert isinstance(write, Apply)
    rig.core.apply_failed(write.token, DatapathError("update", "a map", 5, "no"), rig.now)
    rig.collect()
    assert [each.type_url for each in rig.sent] == [PEER_SET]
    rig.settle()
    assert [each.type_url for each in rig.sent] == [PEER_SET, COMMIT]
    assert all(each.error for each in rig.sent)
    assert rig.core.enforced == rig.enforced == (1, root_of(FIRST))


def test_what_was_staged_is_gone_with_the_stream() -> None:
    rig = enforcing()
    before = {each: rig.twin.dump(each) for each in (MapId.ADDRESSES, MapId.POLICIES)}
    rig.send(rig.staging(FIRST, SECOND))
    rig.step()
    rig.lose()
    rig.settle()
    assert {each: rig.twin.dump(each) for each in before} == before
    reported = rig.connect()
    assert reported[COMMIT] == {CUT_NAME: commit_version(1, root_of(FIRST))}


def test_a_flip_under_way_when_the_stream_breaks_is_reported_not_acknowledged() -> None:
    rig = enforcing()
    rig.send(rig.staging(FIRST, SECOND))
    rig.settle()
    rig.send(rig.commit(2, SECOND))
    rig.lose()
    rig.now += 60
    rig.core.tick(rig.now)
    rig.collect()
    rig.open, rig.sent = True, []
    rig.core.connected(rig.now)
    rig.collect()
    assert rig.sent == []  # what is enforced is not known yet
    rig.settle()
    assert rig.sent[-1].initial == {CUT_NAME: commit_version(2, root_of(SECOND))}
    assert all(not each.nonce for each in rig.sent)


def test_a_restart_adopts_what_is_pinned_and_reports_it() -> None:
    rig = enforcing()
    usage = rig.usage()
    rig.start()
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
    rig.core.links_listed([Link(LINK, pod="shop/db")], rig.now)
    rig.collect()
    while rig.work:
        rig.step()
        assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
        assert rig.ingress(WORLD) is Reason.NO_RULE
    assert rig.usage() == usage
    reported = rig.connect()
    assert reported[COMMIT] == {CUT_NAME: commit_version(1, root_of(FIRST))}
    rig.serve(2, SECOND, FIRST)
    assert rig.ingress(WEB_ADDRESS) is Reason.NO_RULE


@pytest.mark.parametrize("flipped", [False, True])
def test_the_kernel_says_which_cached_cut_is_the_one(flipped: bool) -> None:
    rig = enforcing()
    rig.send(rig.staging(FIRST, SECOND))
    rig.settle()
    rig.send(rig.commit(2, SECOND))
    rig.step()  # the record is on disk
    assert len(rig.disk) == 2
    if flipped:
        rig.step()
    rig.start()
    rig.settle()
    wanted = SECOND if flipped else FIRST
    assert rig.core.enforced[1] == root_of(wanted) == rig.enforced[1]
    assert rig.connect()[ADDRESS_GROUP] == {
        name: each.version for (kind, name), each in wanted.items() if kind == ADDRESS_GROUP
    }


def test_a_lost_cache_leaves_the_pinned_cut_in_force_and_asks_for_everything() -> None:
    rig = enforcing()
    rig.start(cached=False)
    rig.core.links_listed([Link(LINK, pod="shop/db")], rig.now)
    rig.collect()
    rig.settle()
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
    assert not any(rig.connect().values())
    rig.serve(2, SECOND)
    assert rig.ingress(WEB_ADDRESS) is Reason.NO_RULE
    assert rig.usage() == _usage_of(SECOND)


def test_a_rebooted_node_enforces_its_cache_before_it_connects() -> None:
    rig = enforcing()
    rig.reboot()
    assert not any(isinstance(each, Connect) for each in rig.log)
    rig.settle()
    rig.core.link_added(Link(LINK, pod="shop/db"), rig.now)
    rig.collect()
    rig.settle()
    assert rig.enforced == (1, root_of(FIRST))
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
    assert rig.connect()[COMMIT] == {CUT_NAME: commit_version(1, root_of(FIRST))}


def test_a_full_map_refuses_the_cut_and_keeps_the_last_one() -> None:
    rig = enforcing(addresses=8)
    many = cut(remote=[bytes([10, 1, 2, each]) for each in range(12)])
    rig.sent = []
    rig.send(rig.staging(FIRST, many))
    rig.settle()
    refusals = [each.refusal for each in rig.sent if each.refusal is not None]
    assert refusals
    assert refusals[0].type_url == ADDRESS_GROUP
    assert refusals[0].name.startswith(WEB)
    assert refusals[0].needed > refusals[0].limit == 8
    assert rig.usage() == _usage_of(FIRST)
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED


def test_without_a_server_for_long_remote_pods_count_as_unknown_until_a_commit() -> None:
    rig = Rig(Options(max_stale=100.0))
    rig.core.link_added(Link(LINK, pod="shop/db"), 0.0)
    rig.collect()
    rig.settle()
    rig.connect()
    rig.serve(1, FIRST)
    assert rig.ingress(REMOTE) is Reason.ALLOWED
    rig.lose()
    rig.wait(99.0)
    assert rig.ingress(REMOTE) is Reason.ALLOWED
    rig.wait(2.0)
    assert rig.ingress(REMOTE) is Reason.NO_RULE
    assert rig.ingress(DB_ADDRESS) is Reason.NO_RULE
    rig.start()  # a restart does not bring trust back
    rig.settle()
    assert rig.ingress(REMOTE) is Reason.NO_RULE
    assert not any(rig.connect().values())
    assert rig.ingress(REMOTE) is Reason.NO_RULE
    rig.serve(1, FIRST)
    assert rig.ingress(REMOTE) is Reason.ALLOWED


def test_an_interface_that_goes_leaves_nothing_and_its_id_never_comes_back() -> None:
    rig = enforcing()
    (first,) = rig.twin.dump(MapId.ENDPOINTS).values()
    rig.core.link_removed(LINK, rig.now)
    rig.collect()
    rig.settle()
    assert rig.twin.dump(MapId.ENDPOINTS) == {}
    assert rig.twin.attached() == set()
    rig.start()
    rig.settle()
    rig.core.link_added(Link(LINK, pod="shop/db"), rig.now)
    rig.collect()
    rig.settle()
    (second,) = rig.twin.dump(MapId.ENDPOINTS).values()
    assert second[:4] > first[:4]
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED  # its pod is in the cut in force


def test_an_interface_without_a_name_is_known_by_its_address() -> None:
    rig = enforcing()
    rig.core.link_added(Link(9, addresses=frozenset({DB_ADDRESS})), rig.now)
    rig.collect()
    rig.settle()
    states = {row.ifindex: row.state for row in rig.core.endpoint_rows()}
    assert states == {LINK: "enforcing", 9: "attached-closed"}  # named beats address
    rig.core.link_removed(LINK, rig.now)
    rig.collect()
    rig.settle()
    assert {row.ifindex: row.state for row in rig.core.endpoint_rows()} == {9: "enforcing"}


def test_an_audit_repairs_by_a_flip_to_the_same_cut() -> None:
    rig = enforcing()
    assert rig.core.audited(_dump(rig), rig.now) == []
    key = next(iter(rig.twin.dump(MapId.POLICIES)))
    rig.twin.apply([Remove(MapId.POLICIES, (key,))])
    found = rig.core.audited(_dump(rig), rig.now)
    assert found is not None
    assert [(each.map, each.kind) for each in found] == [(MapId.POLICIES, "missing")]
    rig.collect()
    rig.settle()
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
    assert rig.usage() == _usage_of(FIRST)
    assert rig.core.audited(_dump(rig), rig.now) == []
    assert rig.open
    rig.serve(2, SECOND, FIRST)
    assert rig.enforced == (2, root_of(SECOND))


def test_policy_origins_are_found_by_the_cookie_of_an_entry() -> None:
    rig = enforcing()
    origins = {
        rig.core.origins(LINK, Direction.INGRESS, int.from_bytes(value[4:], "little"))
        for value in rig.twin.dump(MapId.POLICIES).values()
    }
    assert ("NetworkPolicy shop/db",) in origins


def test_a_frame_that_is_none_closes_the_stream() -> None:
    rig = enforcing()
    rig.core.received(b"\xff\xff", rig.now)
    rig.collect()
    assert not rig.open


def _usage_of(wanted: Table) -> dict[str, int]:
    rig = started()
    rig.serve(1, wanted)
    return rig.usage()


def _dump(rig: Rig) -> Adopted:
    return msgspec.structs.replace(read_kernel(rig.twin), ids=frozenset())


def test_removing_what_is_not_held_is_no_difference() -> None:
    rig = enforcing()
    ghost = table([encode.peer_set("b" * 32, BitMap([300]), 0)])
    rig.serve(2, {}, FIRST | ghost)
    assert rig.enforced == (2, root_of({}))
    assert not rig.ingress(WEB_ADDRESS).passed
