"""What a new process may write into maps that an earlier one left in the middle of something.

Scenarios of specs/NodeMaps.tla: each was a counterexample of it, or of its replay, once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

from reconciler.agent.applier import read_kernel
from reconciler.core.dataplane.effects import Apply, Attach
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import ENDPOINT_VALUE, MapId, Reason
from reconciler.core.dataplane.mirror import Pool
from reconciler.core.dataplane.ops import Flip, Grace, Op, Remove
from reconciler.errors import DatapathError
from tests.unit.agent_rig import DB_ADDRESS, LINK, WEB_ADDRESS, Rig, Table, cut, enforcing

FIRST, SECOND = cut(), cut(members=(258,))


def writes(rig: Rig) -> list[Op]:
    return [op for effect in rig.work if isinstance(effect, Apply) for op in effect.ops]


def test_without_a_cache_the_half_not_in_force_stays_for_packets_that_read_the_word_before() -> (
    None
):
    """Arrive, Flip, Crash, Load, WriteEndpoint, ReadEndpoint: a flow that both cuts allow fell."""
    rig = enforcing(FIRST)
    rig.send(rig.staging(FIRST, SECOND))
    rig.settle()
    rig.send(rig.commit(2, SECOND))
    while not any(isinstance(op, Grace) for op in writes(rig)):
        rig.step()  # up to the flip; the cleaning that waits for packets does not begin
    before = rig.twin.dump(MapId.ENDPOINTS)
    rig.start(cached=False)
    rig.core.links_listed([Link(LINK, pod="shop/db")], rig.now)
    rig.collect()
    while rig.work and not any(isinstance(op, Grace) for op in writes(rig)[:1]):
        rig.step()
    assert rig.twin.dump(MapId.ENDPOINTS) == before


def test_a_commit_alone_does_not_flip_to_what_an_earlier_process_staged() -> None:
    """Stage, writes, Crash, Load, Flip: a view of nothing has the root of what the new process
    holds, and what the earlier one had staged came into force."""
    rig = Rig()
    rig.core.link_added(Link(LINK, pod="shop/db"), 0.0)
    rig.collect()
    rig.settle()
    rig.connect()
    rig.send(rig.staging({}, FIRST))
    rig.settle()
    rig.start(cached=False)
    rig.core.links_listed([Link(LINK, pod="shop/db")], rig.now)
    rig.collect()
    rig.settle()
    rig.connect()
    rig.send(rig.commit(1, {}))
    while rig.work:
        flips = any(isinstance(op, Flip) for op in writes(rig))
        rig.step()
        assert not flips or rig.ingress(WEB_ADDRESS) is not Reason.ALLOWED
    assert rig.enforced[0] == 1
    assert all(
        not any(ENDPOINT_VALUE.unpack(value)[2::3])
        for value in rig.twin.dump(MapId.ENDPOINTS).values()
    )


def test_indices_are_given_out_lowest_first_whatever_was_found() -> None:
    pool = Pool(16, used=(16, 18))
    pool.give(18)
    assert [pool.take() for _ in range(3)] == [17, 18, 19]


def listed(rig: Rig, *links: Link) -> None:
    rig.core.links_listed(links, rig.now)
    rig.collect()
    rig.settle()


def known_by_address(first: Table) -> Rig:
    rig = Rig()
    rig.core.link_added(Link(LINK, "veth7", frozenset({DB_ADDRESS})), 0.0)
    rig.collect()
    rig.settle()
    rig.connect()
    rig.serve(1, first)
    return rig


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("before", [enforcing, known_by_address])
def test_a_pod_that_only_the_cni_named_stays_open_over_a_restart(
    before: Callable[[Table], Rig], cached: bool
) -> None:
    """Nothing on the node says whose its interface is: no route of its own, and no CNI again."""
    rig = before(FIRST)
    rig.start(cached=cached)
    listed(rig, Link(LINK, "veth7"))
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
    rig.connect()
    again = cut(members=(256, 258))
    rig.serve(2, again, FIRST if cached else None)
    assert rig.enforced[0] == 2
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED


def test_a_new_name_of_an_interface_says_nothing_of_its_pod() -> None:
    rig = enforcing(FIRST)
    rig.core.link_added(Link(LINK, "renamed"), rig.now)
    rig.collect()
    rig.settle()
    rig.serve(2, SECOND, FIRST)
    (row,) = rig.core.endpoint_rows()
    assert (row.pod, row.interface, row.state) == ("db", "renamed", "enforcing")


def test_an_interface_whose_programs_somebody_took_off_is_attached_again() -> None:
    rig = enforcing(FIRST)
    (first,) = rig.twin.dump(MapId.ENDPOINTS).values()
    rig.twin.detach(LINK)
    rig.start()
    listed(rig, Link(LINK, pod="shop/db"))
    assert rig.twin.attached() == {LINK}
    (second,) = rig.twin.dump(MapId.ENDPOINTS).values()
    assert second[:4] > first[:4]
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED


def test_an_index_that_another_interface_took_meanwhile_is_not_the_pods() -> None:
    """What its entry said was of a device that is gone."""
    rig = enforcing(FIRST)
    rig.twin.detach(LINK)
    rig.start()
    listed(rig, Link(LINK, "veth7"))
    assert rig.twin.attached() == {LINK}
    assert rig.ingress(WEB_ADDRESS) is Reason.CLOSED


def test_an_interface_that_comes_back_at_once_is_attached_when_the_old_one_is_gone() -> None:
    rig = enforcing(FIRST)
    rig.core.link_removed(LINK, rig.now)
    rig.core.link_added(Link(LINK, "veth8", pod="shop/other"), rig.now)
    rig.core.link_added(Link(LINK, "veth8", pod="shop/db"), rig.now)
    rig.collect()
    rig.settle()
    assert rig.twin.attached() == {LINK}
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED
    assert [row.interface for row in rig.core.endpoint_rows()] == ["veth8"]


def test_an_interface_that_came_back_and_went_leaves_nothing() -> None:
    rig = enforcing(FIRST)
    rig.core.link_removed(LINK, rig.now)
    rig.core.link_added(Link(LINK, pod="shop/db"), rig.now)
    rig.core.link_removed(LINK, rig.now)
    rig.collect()
    rig.settle()
    assert rig.twin.attached() == set()
    assert rig.twin.dump(MapId.ENDPOINTS) == {}


def test_an_audit_forgets_no_interface_that_waits_for_the_old_one() -> None:
    rig = enforcing(FIRST)
    rig.core.link_removed(LINK, rig.now)
    rig.core.link_added(Link(LINK, pod="shop/db"), rig.now)
    rig.collect()
    while not isinstance(removal := rig.work.popleft(), Apply):
        pass
    rig.core.apply_failed(removal.token, DatapathError("delete", "endpoints", 5, "no"), rig.now)
    rig.collect()
    rig.twin.apply([Remove(MapId.POLICIES, (next(iter(rig.twin.dump(MapId.POLICIES))),))])
    assert rig.core.audited(read_kernel(rig.twin), rig.now)
    rig.collect()
    rig.settle()
    rig.wait(2.0)
    assert rig.twin.attached() == {LINK}
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED


def test_an_answer_about_the_interface_before_is_not_one_about_this() -> None:
    rig = Rig()
    rig.core.link_added(Link(LINK), rig.now)
    rig.core.link_removed(LINK, rig.now)
    rig.core.link_added(Link(LINK), rig.now)
    rig.collect()
    assert rig.work == deque([Attach(LINK), Attach(LINK)])
    rig.core.attached(LINK, rig.now)
    rig.core.attach_failed(LINK, "busy", rig.now)
    assert [row.state for row in rig.core.endpoint_rows()] == ["discovered"]
    rig.work.clear()
    rig.wait(2.0)
    assert rig.twin.attached() == {LINK}
    assert [row.state for row in rig.core.endpoint_rows()] == ["attached-closed"]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("stripped", [True, False])
def test_an_entry_that_was_found_is_its_own_interfaces(cached: bool, stripped: bool) -> None:
    """It went before or after the start; what has its index then is another's at every step."""
    rig = enforcing(FIRST)
    if stripped:
        rig.twin.detach(LINK)
    rig.start(cached=cached)
    rig.core.links_listed([Link(LINK, "veth7")], rig.now)
    if not stripped:
        rig.collect()
        rig.settle()
        rig.twin.detach(LINK)
        rig.core.link_removed(LINK, rig.now)
        rig.core.link_added(Link(LINK, "veth8"), rig.now)
    rig.collect()
    while rig.work:
        rig.step()
        assert rig.twin.attached() != {LINK} or not rig.ingress(WEB_ADDRESS).passed
    assert rig.twin.attached() == {LINK}
    assert [row.state for row in rig.core.endpoint_rows() if row.ifindex] == ["attached-closed"]
