"""Lists and events against what is held: what is told, applied, is always what there is."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.objects import ObjectKey, ObjectMeta
from reconciler.errors import Rejected
from reconciler.server.kubernetes.backoff import Backoff
from reconciler.server.kubernetes.kinds import Bookmark, Gone, Item, Kind, Put
from reconciler.server.kubernetes.mirror import Delta, Mirror


class Thing(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    spec: dict[str, str] = {}


def check(thing: Any, source: str) -> tuple[Rejected, ...]:
    value = thing.spec.get("value", "")
    title = f"Thing {thing.metadata.name}"
    if value == "bad":
        return (Rejected(source, title, "spec.value", "is bad"),)
    if value == "odd":
        return (Rejected(source, title, "spec.value", "is odd", "warning"),)
    return ()


THINGS = Kind("Thing", "things", "/apis/test/v1/things", Thing, check=check, exact=False)
EXACT = Kind("Thing", "things", "/apis/test/v1/things", Thing, check=check)


def encoded(name: str, version: int, value: Any, uid: str = "u1") -> dict[str, Any]:
    meta = {"name": name, "uid": uid, "resourceVersion": str(version)}
    return {"metadata": meta, "spec": {"value": value}}


def put(name: str, version: int, value: Any, uid: str = "u1", type: str = "MODIFIED") -> bytes:
    return json.dumps({"type": type, "object": encoded(name, version, value, uid)}).encode()


def page(version: int, *objects: dict[str, Any], next: str = "") -> bytes:
    meta = {"resourceVersion": str(version), "continue": next}
    return json.dumps({"metadata": meta, "items": objects}).encode()


def key(name: str) -> ObjectKey:
    return ObjectKey("Thing", "", name)


def listed(mirror: Mirror[Thing], version: int, *objects: dict[str, Any]) -> Delta[Thing]:
    read = mirror.kind.page(page(version, *objects))
    return mirror.replace(read.version, read.items)


def values(delta: Delta[Thing]) -> dict[str, str]:
    return {thing.metadata.name: thing.spec["value"] for thing in delta.changed}


# ------------------------------------------------------------------------------------- named facts


def test_a_relist_of_the_same_says_nothing() -> None:
    mirror = Mirror(THINGS)
    objects = encoded("a", 3, "x"), encoded("b", 4, "y")
    assert values(listed(mirror, 9, *objects)) == {"a": "x", "b": "y"}
    assert listed(mirror, 12, *objects) == Delta()
    assert mirror.position == 12


def test_a_relist_tells_one_difference() -> None:
    mirror = Mirror(THINGS)
    listed(mirror, 9, encoded("a", 3, "x"), encoded("b", 4, "y"), encoded("c", 5, "z"))
    delta = listed(mirror, 12, encoded("a", 3, "x"), encoded("b", 11, "w"), encoded("d", 10, "v"))
    assert values(delta) == {"b": "w", "d": "v"}
    assert delta.gone == (key("c"),)


def test_fields_that_are_not_read_are_no_change() -> None:
    """A node's heartbeat; for a kind whose versions matter it is one."""
    for kind, told in ((THINGS, {}), (EXACT, {"a": "x"})):
        mirror = Mirror(kind)
        listed(mirror, 9, encoded("a", 3, "x"))
        assert values(mirror.apply(kind.event(put("a", 10, "x")))) == told
        assert mirror.position == 10


def test_the_last_good_version_stays_until_there_is_a_good_one() -> None:
    mirror = Mirror(THINGS)
    listed(mirror, 9, encoded("a", 3, "x"), encoded("b", 4, "y"))
    assert mirror.apply(THINGS.event(put("a", 10, "bad"))) == Delta(problems=True)
    assert mirror.problems == (Rejected("things", "Thing a", "spec.value", "is bad"),)
    assert mirror.apply(THINGS.event(put("a", 11, 7))) == Delta(problems=True)
    expected = 'expected text, got the number 7: write "7" in quotes'
    assert mirror.problems == (Rejected("things", "Thing a", "spec[value]", expected),)
    assert {thing.spec["value"] for thing in mirror.objects()} == {"x", "y"}
    # The good one says what is held already: nothing to tell but that the problem is over
    assert mirror.apply(THINGS.event(put("a", 12, "x"))) == Delta(problems=True)
    assert not mirror.problems


def test_a_refused_object_under_the_name_of_another_does_not_keep_that_one() -> None:
    mirror = Mirror(THINGS)
    listed(mirror, 9, encoded("a", 3, "x", "u1"))
    delta = listed(mirror, 12, encoded("a", 11, "bad", "u2"))
    assert delta == Delta((), (key("a"),), True)
    assert mirror.apply(Gone(key("a"), 13)) == Delta(problems=True)
    assert mirror.problems == ()


def test_one_malformed_object_hides_no_other_of_its_page() -> None:
    mirror = Mirror(THINGS)
    objects = (encoded("a", 3, "x"), encoded("b", 4, {"no": "text"}), encoded("c", 5, "bad"))
    delta = listed(mirror, 9, *objects, encoded("d", 6, "odd"))
    assert values(delta) == {"a": "x", "d": "odd"}
    assert [(p.object, p.path, p.severity) for p in mirror.problems] == [
        ("Thing b", "spec[value]", "error"),
        ("Thing c", "spec.value", "error"),
        ("Thing d", "spec.value", "warning"),
    ]


def test_null_lists_count_as_missing() -> None:
    """As API servers write empty lists of required fields."""
    line = b'{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"3"},"spec":null}}'
    event = THINGS.event(line)
    assert isinstance(event, Put)
    assert event.item.object == Thing(ObjectMeta(name="a", resource_version="3"))


def test_a_bookmark_moves_only_the_position() -> None:
    mirror = Mirror(THINGS)
    listed(mirror, 9)
    line = (
        b'{"type":"BOOKMARK","object":{"kind":"Thing","metadata":{"resourceVersion":"44"},'
        b'"spec":{"containers":null}}}'
    )
    assert THINGS.event(line) == Bookmark(44)
    assert mirror.apply(THINGS.event(line)) == Delta()
    assert mirror.position == 44


def test_waits_double_are_jittered_and_not_shorter_than_asked() -> None:
    lowest = Backoff(1.0, 8.0, lambda: 0.0)
    assert [lowest.failed() for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    highest = Backoff(1.0, 8.0, lambda: 1.0)
    assert [highest.failed() for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert highest.failed(asked=20.0) >= 20.0
    highest.worked()
    assert highest.failed() == 1.0


# ---------------------------------------------------------------------------------- any history

NAMES = ("a", "b", "c")
VALUES = ("x", "y", "odd", "bad", 7)  # 7: doesn't even fit the type

Step = tuple[str, str, Any]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "remake", "delete", "relist", "lose", "bookmark"]),
        st.sampled_from(NAMES),
        st.sampled_from(VALUES),
    ),
    max_size=30,
)


class World:
    """What the API server has, and for each object its last good value: three dictionaries."""

    def __init__(self) -> None:
        self.version = 1
        self.objects: dict[str, dict[str, Any]] = {}
        self.good: dict[str, Any] = {}  # as a reader who misses nothing holds it
        self.uids = 0

    def step(self, action: str, name: str, value: Any) -> bytes | None:
        """The event of a watch, None where there is none."""
        self.version += 1
        held = self.objects.get(name)
        if action == "delete" or action == "remake":
            if held is None:
                return None
            del self.objects[name]
            self.good.pop(name, None)
            if action == "delete":
                meta = {**held["metadata"], "resourceVersion": str(self.version)}
                gone = {"type": "DELETED", "object": {**held, "metadata": meta}}
                return json.dumps(gone).encode()
            held = None
        if action == "bookmark":
            meta = {"resourceVersion": str(self.version)}
            return json.dumps({"type": "BOOKMARK", "object": {"metadata": meta}}).encode()
        if held is None:
            self.uids += 1
        uid = held["metadata"]["uid"] if held else f"u{self.uids}"
        self.objects[name] = encoded(name, self.version, value, uid)
        if value not in ("bad", 7):
            self.good[name] = value
        return put(name, self.version, value, uid, "MODIFIED" if held else "ADDED")


@given(STEPS)
def test_what_is_told_is_what_there_is(steps: list[Step]) -> None:
    """Whatever is lost before a relist; and nothing is told that isn't a change."""
    world, mirror = World(), Mirror(THINGS)
    told: dict[str, tuple[str, str]] = {}  # name → uid, value

    def take(delta: Delta[Thing], before: tuple[Rejected, ...]) -> None:
        for gone in delta.gone:
            del told[gone.name]  # never told twice, never of what was not told
        for thing in delta.changed:
            new = thing.metadata.uid, thing.spec["value"]
            assert told.get(thing.metadata.name) != new
            told[thing.metadata.name] = new
        assert delta.problems == (before != mirror.problems)

    take(listed(mirror, world.version), ())
    lost = False
    good: dict[str, Any] = {}  # last good values that this reader saw
    for action, name, value in steps:
        before = mirror.problems
        if action == "lose":  # the connection, for this change and those after it
            world.step("put", name, value)
            lost = True
            continue
        if action == "relist":
            world.version += 1
            take(listed(mirror, world.version, *world.objects.values()), before)
            lost = False
        elif action == "remake":  # deleted and made again, unseen: a watch would tell both
            world.step(action, name, value)
            lost = True
            continue
        else:
            line = world.step(action, name, value)
            if lost or line is None:
                continue
            take(mirror.apply(THINGS.event(line)), before)
        for each, object in world.objects.items():
            value_now, uid = object["spec"]["value"], object["metadata"]["uid"]
            if value_now not in ("bad", 7):
                good[each] = (uid, value_now)
            elif each in good and good[each][0] != uid:
                del good[each]
        for each in set(good).difference(world.objects):
            del good[each]
        assert told == good
        assert {p.object for p in mirror.problems} == {
            f"Thing {each}"
            for each, object in world.objects.items()
            if object["spec"]["value"] in ("odd", "bad", 7)
        }
        assert mirror.position <= world.version


def test_an_item_that_is_refused_has_no_object() -> None:
    event = THINGS.event(put("a", 3, "bad"))
    assert event == Put(
        Item(key("a"), "u1", 3, None, (Rejected("things", "Thing a", "spec.value", "is bad"),))
    )
