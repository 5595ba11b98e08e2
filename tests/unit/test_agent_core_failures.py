"""What fails on the way, and what is done meanwhile: cache and maps agree with the cut in force."""

from __future__ import annotations

import errno

import msgspec
import pytest

from reconciler.agent.applier import read_kernel
from reconciler.core.dataplane.effects import Apply, SaveCache
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import ENDPOINT_KEY, ENDPOINT_VALUE, MapId, Reason
from reconciler.core.dataplane.ops import Grace, Op, Put
from reconciler.core.dataplane.records import CachedCut, Record, decode_record, replay
from reconciler.core.resources import encode
from reconciler.errors import DatapathError
from tests.unit.agent_rig import (
    DB,
    LINK,
    WEB_ADDRESS,
    Rig,
    Table,
    cut,
    enforcing,
    root_of,
    table,
)

FIRST, SECOND = cut(), cut(members=(258,))
THIRD = cut(members=(258,), remote=())  # differs from the second elsewhere than that from the first
MOVED = FIRST | table(
    [encode.endpoint("shop", "db", uid="u3", ipv4=bytes([10, 1, 0, 5]), ipv6=b"", group=DB)]
)
OTHER = 9
OTHER_ADDRESS = bytes([10, 1, 0, 3])


def with_other(resources: Table) -> Table:
    """A second pod on this node."""
    endpoint = encode.endpoint("shop", "x", uid="u2", ipv4=OTHER_ADDRESS, ipv6=b"", group=DB)
    return resources | table([endpoint])


def cached(rig: Rig) -> CachedCut:
    """What a process that starts now finds on disk; it has the root that it says."""
    records: list[Record] = []
    for data in rig.disk:
        record = decode_record(data)
        assert record is not None
        records.append(record)
    found = replay(records, "n1", rig.enforced[1])
    assert found is not None
    assert root_of({(each.type_url, each.name): each for each in found.resources}) == found.root
    return found


def ops_of(effect: object) -> tuple[Op, ...]:
    return effect.ops if isinstance(effect, Apply) else ()


def fail(rig: Rig) -> None:
    """The kernel has no memory for the writes that are next; none of them is done."""
    effect = rig.work.popleft()
    assert isinstance(effect, Apply)
    error = DatapathError("update", "a map", errno.ENOMEM, "cannot allocate memory")
    rig.core.apply_failed(effect.token, error, rig.now)
    rig.collect()


def losing() -> Rig:
    """A second cut is committed, and its record is lost."""
    rig = enforcing(FIRST)
    rig.send(rig.staging(FIRST, SECOND))
    rig.settle()
    rig.send(rig.commit(2, SECOND))
    drop_record(rig)
    return rig


def drop_record(rig: Rig) -> None:
    """The disk does not take the record that is next."""
    effect = rig.work.popleft()
    assert isinstance(effect, SaveCache)
    rig.core.cache_failed("no space left on device", rig.now)
    rig.collect()


def step_to(rig: Rig, kind: type[object]) -> None:
    """Up to work of this kind, or writes with such an operation in them."""
    while not any(isinstance(each, kind) for each in (rig.work[0], *ops_of(rig.work[0]))):
        rig.step()


# --- the cache -----------------------------------------------------------------------------


def test_a_cache_written_anew_while_the_next_cut_waits_holds_the_cut_in_force() -> None:
    rig = Rig()
    rig.connect()
    rig.send(rig.staging({}, FIRST))
    rig.settle()
    rig.send(rig.commit(1, FIRST))
    step_to(rig, Grace)
    rig.send(rig.staging(FIRST, SECOND))  # it waits until the maps are clean
    rig.step()
    step_to(rig, SaveCache)
    rig.step()
    assert len(rig.disk) == 1
    assert cached(rig).root == root_of(FIRST)
    rig.settle()
    assert rig.enforced == (1, root_of(FIRST))
    assert cached(rig).root == root_of(FIRST)
    rig.send(rig.commit(2, SECOND))
    rig.settle()
    assert cached(rig).root == root_of(SECOND)


def test_a_record_that_was_lost_is_made_up_for_before_the_next_cut() -> None:
    rig = losing()
    rig.settle()
    assert len(rig.disk) == 1
    assert cached(rig).root == root_of(SECOND)
    assert [each.kind for each in rig.alarms] == ["cache"]


def test_after_a_lost_record_the_next_one_stands_alone() -> None:
    rig = losing()
    step_to(rig, SaveCache)
    drop_record(rig)  # what was to make up for it is lost too
    rig.settle()
    rig.send(rig.staging(SECOND, THIRD))
    rig.settle()
    rig.send(rig.commit(3, THIRD))
    while rig.enforced[0] == 2:
        rig.step()
    assert len(rig.disk) == 2
    assert cached(rig).root == root_of(THIRD)
    rig.settle()
    assert len(rig.disk) == 1
    assert cached(rig).root == root_of(THIRD)


# --- the maps ------------------------------------------------------------------------------


def test_interfaces_that_change_before_an_undo_is_tried_again_stay_as_they_are() -> None:
    rig = enforcing(with_other(FIRST))
    rig.core.link_added(Link(OTHER, name="eth9"), rig.now)
    rig.core.link_added(Link(11), rig.now)
    rig.collect()
    rig.settle()
    rig.send(rig.staging(with_other(FIRST), with_other(SECOND)))
    fail(rig)
    fail(rig)
    rig.core.link_added(Link(OTHER, pod="shop/x"), rig.now)
    rig.core.link_removed(11, rig.now)
    rig.collect()
    rig.settle()
    assert open_interfaces(rig) == {LINK, OTHER}
    rig.wait(1.0)
    assert open_interfaces(rig) == {LINK, OTHER}
    assert not differs(rig)
    assert rig.ingress(WEB_ADDRESS) is Reason.ALLOWED


def test_interfaces_that_change_before_a_cleaning_is_tried_again_stay_as_they_are() -> None:
    rig = enforcing(with_other(FIRST))
    rig.core.link_added(Link(OTHER, name="eth9"), rig.now)
    rig.core.link_added(Link(11), rig.now)
    rig.collect()
    rig.settle()
    new = with_other(MOVED)
    rig.send(rig.staging(with_other(FIRST), new))
    rig.settle()
    rig.send(rig.commit(2, new))
    step_to(rig, Grace)
    assert writes_entries(rig)
    fail(rig)
    rig.core.link_added(Link(OTHER, pod="shop/x"), rig.now)
    rig.core.link_removed(LINK, rig.now)
    rig.collect()
    rig.settle()
    assert open_interfaces(rig) == {OTHER}
    rig.wait(1.0)
    assert open_interfaces(rig) == {OTHER}
    assert not differs(rig)


@pytest.mark.parametrize("revision", [2, None])
def test_entries_of_interfaces_that_were_not_written_are_written_when_it_is_tried_again(
    revision: int | None,
) -> None:
    """revision: of the cut whose cleaning fails; None: a staging is taken back, and that fails."""
    rig = enforcing(FIRST)
    rig.send(rig.staging(FIRST, MOVED))
    rig.settle()
    if revision is None:
        rig.lose()
    else:
        rig.send(rig.commit(revision, MOVED))
        step_to(rig, Grace)
    assert writes_entries(rig)
    fail(rig)
    rig.wait(1.0)
    assert not differs(rig)


def test_an_interface_that_goes_while_writes_fail_leaves_no_entry() -> None:
    rig = enforcing(FIRST)
    rig.core.link_removed(LINK, rig.now)
    rig.collect()
    rig.work.popleft()  # the programs are gone with the interface
    fail(rig)
    rig.send(rig.staging(FIRST, SECOND))
    fail(rig)
    fail(rig)
    rig.now += 1.0
    rig.core.tick(rig.now)
    rig.collect()
    fail(rig)
    rig.settle()
    rig.wait(1.0)
    assert rig.twin.dump(MapId.ENDPOINTS) == {}
    assert not differs(rig)


def writes_entries(rig: Rig) -> bool:
    ops = ops_of(rig.work[0])
    return any(isinstance(op, Put) and op.map is MapId.ENDPOINTS for op in ops)


def open_interfaces(rig: Rig) -> set[int]:
    return {
        ENDPOINT_KEY.unpack(key)[0]
        for key, value in rig.twin.dump(MapId.ENDPOINTS).items()
        if not ENDPOINT_VALUE.unpack(value)[1]
    }


def differs(rig: Rig) -> bool:
    """Whether an audit finds anything."""
    kernel = msgspec.structs.replace(read_kernel(rig.twin), ids=frozenset())
    return rig.core.audited(kernel, rig.now) != []
