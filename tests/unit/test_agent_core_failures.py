"""What fails on the way, and what is done meanwhile: cache and maps agree with the cut in force."""

from __future__ import annotations

from reconciler.core.dataplane.effects import Apply, SaveCache
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.ops import Grace, Op
from reconciler.core.dataplane.records import CachedCut, Record, decode_record, replay
from tests.unit.agent_rig import LINK, Rig, Table, cut, root_of

FIRST, SECOND = cut(), cut(members=(258,))
THIRD = cut(members=(258,), remote=())  # differs from the second elsewhere than that from the first


def enforcing(first: Table) -> Rig:
    rig = Rig()
    rig.core.link_added(Link(LINK, pod="shop/db"), 0.0)
    rig.collect()
    rig.settle()
    rig.connect()
    rig.serve(1, first)
    return rig


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
    rig = enforcing(FIRST)
    rig.send(rig.staging(FIRST, SECOND))
    rig.settle()
    rig.send(rig.commit(2, SECOND))
    drop_record(rig)
    rig.settle()
    assert len(rig.disk) == 1
    assert cached(rig).root == root_of(SECOND)
    assert [each.kind for each in rig.alarms] == ["cache"]


def test_after_a_lost_record_the_next_one_stands_alone() -> None:
    rig = enforcing(FIRST)
    rig.send(rig.staging(FIRST, SECOND))
    rig.settle()
    rig.send(rig.commit(2, SECOND))
    drop_record(rig)
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
