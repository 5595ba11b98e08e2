"""Journal object and CiliumIdentities by example: format, adoption, what is done to an object."""

from __future__ import annotations

import base64
from itertools import islice, product
from typing import Any

import msgspec
import pytest

from reconciler.core.identity import MAX_LABEL_SET_BYTES, POOL, Entry, JournalBatch
from reconciler.core.identity.allocator import ENTRY_BYTES, MAX_BATCH_BYTES
from reconciler.core.identity.beginning import DAY_ONE
from reconciler.core.identity.journal import is_oversized
from reconciler.core.identity.objects import (
    BIRTH,
    DISOWNED,
    MAX_SPEC_BYTES,
    PINNED,
    AllocationJournal,
    CiliumIdentity,
    JournalSpec,
    Ledger,
    Pending,
    Writer,
    create_body,
    decode,
    digest,
    disown_body,
    encode,
    fixed_bytes,
    nobody,
    patch_body,
)
from reconciler.core.identity.objects_adopt import REVISION_GAP, adopt, first_revision
from reconciler.core.identity.objects_mirror import EMPTY, Mirror, state_of
from reconciler.core.identity.objects_register import Register, action
from reconciler.core.objects import ObjectMeta
from reconciler.errors import JournalCorrupt

NAMESPACE = "k8s:io.kubernetes.pod.namespace=shop;"
WEB, DB = f"k8s:app=web;{NAMESPACE}", f"k8s:app=db;{NAMESPACE}"
WRITER = Writer("server-1", 1)


def identity(
    number: int | str, app: str, *, age: str = "2026-01-01T00:00:00Z", **annotations: str
) -> CiliumIdentity:
    labels = {"k8s:app": app, "k8s:io.kubernetes.pod.namespace": "shop"}
    marks = {{"birth": BIRTH, "pinned": PINNED}[name]: text for name, text in annotations.items()}
    metadata = ObjectMeta(
        name=str(number),
        uid=f"uid-{number}",
        resource_version="7",
        creation_timestamp=age,
        labels={"io.kubernetes.pod.namespace": "shop"},
        annotations=marks,
    )
    return CiliumIdentity(metadata, labels)


def ledger(*entries: Entry, revision: int = 5, pending: tuple[int, ...] = ()) -> Ledger:
    return Ledger(
        epoch=1,
        revision=revision,
        cursor=300,
        digests={e.number: digest(e.number, e.birth, e.label_set) for e in entries},
        retiring=frozenset(e.number for e in entries if e.phase == "retiring"),
        pending={
            e.number: Pending(e.number, e.birth, e.label_set)
            for e in entries
            if e.number in pending
        },
    )


def mirror(held: Ledger, *objects: CiliumIdentity) -> Mirror:
    found = Mirror()
    for each in objects:
        found.identity_changed(each.metadata.name, each)
    if held is EMPTY:
        return found
    found.journal_changed(AllocationJournal(ObjectMeta("default"), encode(held, WRITER)))
    return found


# The objects


def test_identity_is_written_field_for_field_as_cilium_does() -> None:
    entry = Entry(300, 12, WEB, "active")
    assert msgspec.json.decode(create_body(entry)) == {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumIdentity",
        "metadata": {
            "name": "300",
            "labels": {"io.kubernetes.pod.namespace": "shop"},
            "annotations": {"reconciler.io/birth": "12"},
        },
        "security-labels": {"k8s:app": "web", "k8s:io.kubernetes.pod.namespace": "shop"},
    }


def test_patch_takes_away_what_does_not_belong_and_names_what_was_read() -> None:
    seen = msgspec.structs.replace(identity(300, "db"), security_labels={"k8s:tier": "x"})
    assert msgspec.json.decode(patch_body(Entry(300, 12, WEB, "active"), seen)) == {
        "metadata": {
            "uid": "uid-300",
            "resourceVersion": "7",
            "annotations": {"reconciler.io/birth": "12"},
            "labels": {"io.kubernetes.pod.namespace": "shop"},
        },
        "security-labels": {
            "k8s:app": "web",
            "k8s:io.kubernetes.pod.namespace": "shop",
            "k8s:tier": None,
        },
    }


@pytest.mark.parametrize(
    "text", [b'{"metadata":{"name":"300"}}', b'{"metadata":{"name":"300"},"security-labels":null}']
)
def test_object_without_labels_is_read_as_one_without_meaning(text: bytes) -> None:
    seen = msgspec.json.decode(text, type=CiliumIdentity)
    assert (seen.number, seen.birth, seen.pinned, seen.label_set) == (300, 0, False, "")


def test_journal_goes_through_its_text() -> None:
    held = ledger(
        Entry(256, 2, WEB, "active"),
        Entry(257, 3, nobody(257), "retiring"),
        Entry(65535, 5, DB, "retiring"),
        pending=(65535,),
    )
    spec = msgspec.json.decode(msgspec.json.encode(encode(held, WRITER)), type=JournalSpec)
    assert decode(spec) == held
    assert (spec.counts.in_use, spec.counts.retiring, spec.counts.pending) == (3, 2, 1)
    bits = base64.b64decode(spec.in_use)
    assert (bits[32], bits[8191], len(bits)) == (3, 128, 8192)


def test_journal_with_every_number_in_use_leaves_room_for_a_batch() -> None:
    entries = [Entry(n, 1 << 40, f"k8s:app=n{n};", "retiring") for n in POOL]
    size = len(msgspec.json.encode(encode(ledger(*entries), WRITER)))
    assert size < MAX_SPEC_BYTES - 650_000


@pytest.mark.parametrize("length", [3, 60])
def test_largest_label_set_fits_into_any_journal_and_into_an_object(length: int) -> None:
    """Even of the shortest labels that there are so many of."""
    assert MAX_LABEL_SET_BYTES + ENTRY_BYTES <= MAX_BATCH_BYTES
    full = ledger(*(Entry(n, 1, f"k8s:app=n{n};", "active") for n in POOL))
    assert MAX_SPEC_BYTES - fixed_bytes(full) > MAX_LABEL_SET_BYTES + ENTRY_BYTES
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    every = ("".join(each).rjust(length, "x") for each in product(letters, repeat=3))
    keys = sorted(islice(every, MAX_LABEL_SET_BYTES // (length + 6)))
    key = "".join(f"k8s:{key}=;" for key in keys)
    assert not is_oversized(key)
    assert is_oversized(key + f"k8s:{'y' * length}=;" * 2)
    object = create_body(Entry(65535, 1 << 40, key, "active"))
    managed: dict[str, dict[str, str]] = {
        f"f:k8s:{key}": {} for key in keys
    }  # fields that the API server adds
    assert len(object) + len(msgspec.json.encode(managed)) + 10_000 < 1.5 * 1024 * 1024


@pytest.mark.parametrize("held", [0, 3_000])
def test_what_the_journal_says_it_has_room_for_fits_and_hardly_more(held: int) -> None:
    def text(n: int) -> str:
        return f"k8s:app=n{n};".ljust(300, "x")

    entries = [Entry(n, 1 << 20, text(n), "active") for n in range(256, 256 + held)]
    pending = tuple(entry.number for entry in entries)
    register = Register(ledger(*entries, pending=pending), entries)
    register.materialised = set(pending[: held // 2])
    register.ledger = msgspec.structs.replace(register.ledger, revision=1 << 20)
    count = register.room() // (300 + ENTRY_BYTES)
    numbers = range(256 + held, 256 + held + count)
    batch = JournalBatch(
        epoch=register.ledger.epoch,
        expected=1 << 20,
        allocate=tuple((n, text(n)) for n in numbers),
        retire=(), revive=(), free=(), cursor=256,
    )  # fmt: skip
    size = len(msgspec.json.encode(encode(register.after(register.batch(batch)), WRITER)))
    assert 0.9 * MAX_SPEC_BYTES < size <= MAX_SPEC_BYTES


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inUse": "%"}, "inUse: not base64"),
        ({"inUse": base64.b64encode(bytes(8192) + b"\1").decode()}, "numbers above 65535"),
        ({"digests": ""}, "1 numbers are in use, with 0 digests"),
        ({"digests": base64.b64encode(bytes(7) + b"\1").decode()}, "256 is nobody's and does not"),
        ({"retiring": base64.b64encode(b"\1").decode()}, "number 0 retires and is not in use"),
        ({"pending": [{"number": 256, "birth": 2, "labels": DB}]}, "256 is not what its digest"),
        ({"pending": [{"number": 257, "birth": 2, "labels": DB}]}, "257 is not what its digest"),
        ({"pending": [{"number": 256, "birth": 2, "labels": WEB}] * 2}, "pending twice"),
        ({"revision": 1}, "256 was born at 2, after revision 1"),
    ],
)
def test_journal_that_contradicts_itself_is_refused(change: dict[str, Any], reason: str) -> None:
    spec = encode(ledger(Entry(256, 2, WEB, "active"), pending=(256,)), WRITER)
    raw = msgspec.to_builtins(spec) | change
    with pytest.raises(JournalCorrupt, match=reason):
        decode(msgspec.convert(raw, JournalSpec))


# The journal wins


@pytest.mark.parametrize(
    "seen",
    [identity(300, "db", birth="4"), identity(300, "web", birth="3"), identity(300, "web")],
    ids=["edited", "of an earlier meaning", "without its mark"],
)
def test_object_that_does_not_say_what_the_journal_has_means_nothing(seen: CiliumIdentity) -> None:
    held = ledger(Entry(300, 4, WEB, "active"))
    state, problems = state_of(
        AllocationJournal(ObjectMeta("default"), encode(held, WRITER)), [seen]
    )
    assert state.entries == ()
    assert [str(each) for each in problems] == [
        "ciliumidentities: CiliumIdentity 300: is in use by the journal, and no object says for "
        "which labels"
    ]


def test_what_was_known_stays_known_while_the_journal_says_the_same() -> None:
    entry = Entry(300, 4, WEB, "active")
    found = mirror(ledger(entry), identity(300, "web", birth="4"))
    found.identity_changed("300", None)
    assert found.state().entries == (entry,)
    again = ledger(Entry(300, 6, DB, "active"), revision=6)
    found.journal_changed(AllocationJournal(ObjectMeta("default"), encode(again, WRITER)))
    assert (found.state().entries, found.unresolved) == ((), {300})
    found.recall([entry, Entry(300, 6, DB, "active")])
    assert found.state().entries == (Entry(300, 6, DB, "active"),)


# Adoption


def test_oldest_of_each_label_set_is_adopted_and_the_others_are_nobodys() -> None:
    old, new = "2025-03-01T00:00:00Z", "2026-03-01T00:00:00Z"
    found = mirror(
        EMPTY,
        identity(400, "web", age=new),
        identity(900, "web", age=old),
        identity(901, "web", age=old),
        identity(500, "db", age=new),
    )
    adoption = adopt(found)
    assert adoption.entries == (
        Entry(400, 1, nobody(400), "retiring"),
        Entry(500, 1, DB, "active"),
        Entry(900, 1, WEB, "active"),
        Entry(901, 1, nobody(901), "retiring"),
    )
    assert [str(each) for each in adoption.problems] == [
        f"ciliumidentities: CiliumIdentity {number}: security-labels: the same labels have number "
        "900; this one is taken back"
        for number in (400, 901)
    ]


def test_pinned_one_goes_before_older_ones_and_a_second_pinned_one_is_left_alone() -> None:
    old, new = "2025-03-01T00:00:00Z", "2026-03-01T00:00:00Z"
    found = mirror(
        EMPTY,
        identity(400, "web", age=old),
        identity(401, "web", age=new, pinned="true"),
        identity(402, "web", age=new, pinned="true"),
    )
    adoption = adopt(found)
    assert adoption.entries == (
        Entry(400, 1, nobody(400), "retiring"),
        Entry(401, 1, WEB, "active"),
    )
    register = Register(EMPTY, ())
    change = register.adoption(adoption.entries)
    register.take(change, register.after(change))
    found.journal_changed(AllocationJournal(ObjectMeta("default"), encode(register.ledger, WRITER)))
    assert [str(each) for each in found.problems()] == [
        "ciliumidentities: CiliumIdentity 402: security-labels: is pinned, but these labels have "
        "number 401: remove reconciler.io/pinned from one of both"
    ]
    assert found.held_back() == {401, 402}
    assert found.state() == register.state()


def test_label_set_of_the_journal_keeps_its_number() -> None:
    held = ledger(Entry(300, 4, WEB, "retiring"))
    found = mirror(held, identity(300, "web", birth="4"), identity(299, "web", age="2001"))
    assert adopt(found).entries == (Entry(299, 6, nobody(299), "retiring"),)


def test_marked_object_of_a_number_that_was_freed_is_not_adopted() -> None:
    found = mirror(ledger(Entry(300, 4, WEB, "active")), identity(301, "db", birth="2"))
    assert [each.number for each in adopt(found).entries] == [300], "lost, and 301 is left"


@pytest.mark.parametrize("name", ["1", "255", "65536", "0300", "web", "99999999999"])
def test_names_that_are_no_numbers_of_the_pool_are_left_alone(name: str) -> None:
    found = mirror(EMPTY, identity(name, "web"))
    assert adopt(found).entries == ()
    assert "is not a number of this cluster's pool (256 to 65535)" in str(found.problems()[0])
    found.identity_changed(name, None)
    assert found.problems() == ()


def test_name_that_is_no_number_takes_none_away() -> None:
    found = mirror(ledger(Entry(300, 4, WEB, "active")), identity(300, "web", birth="4"))
    found.identity_changed("0300", identity("0300", "web"))
    found.identity_changed("0300", None)
    assert list(found.objects) == [300]


def test_object_that_can_not_be_read_is_left_alone_and_its_number_not_given() -> None:
    broken = msgspec.structs.replace(identity(300, "web"), security_labels={"app": "web"})
    found = mirror(EMPTY, broken)
    assert adopt(found).entries == ()
    assert found.held_back() == {300}
    found.identity_changed("300", identity(300, "web"))
    assert found.held_back() == frozenset()
    found.identity_changed("300", broken)
    found.identity_changed("300", None)
    assert found.held_back() == frozenset()
    found.identity_changed("300", broken)
    assert "can't be read; the number is not given away" in str(found.problems()[0])
    assert action(300, None, broken, ledger()) is None


def test_number_of_a_pinned_object_is_held_back_while_it_is_pinned() -> None:
    pinned = identity(300, "web", birth="4", pinned="true")
    found = mirror(ledger(Entry(300, 4, WEB, "active")), pinned, identity(301, "db", birth="2"))
    assert found.held_back() == {300}
    found.identity_changed("300", identity(300, "web", birth="4"))
    assert found.held_back() == frozenset()
    found.identity_changed("300", pinned)
    found.identity_changed("300", None)
    assert found.held_back() == frozenset()


def test_lost_journal_adopts_marked_objects_with_births_above_all_that_were() -> None:
    objects = {300: identity(300, "web", birth="41"), 301: identity(301, "db")}
    assert first_revision([], DAY_ONE) == 0
    assert first_revision(objects.values(), DAY_ONE) == 41 + REVISION_GAP
    found = mirror(EMPTY, *objects.values())
    first = first_revision(objects.values(), DAY_ONE)
    found.ledger = msgspec.structs.replace(EMPTY, revision=first, origin=first)
    entries = adopt(found).entries
    assert [(each.number, each.phase) for each in entries] == [(300, "active"), (301, "active")]
    assert {each.birth for each in entries} == {42 + REVISION_GAP}


# The writer


def registered(*entries: Entry, pending: tuple[int, ...] = ()) -> Register:
    return Register(ledger(*entries, pending=pending), entries)


def write(register: Register, change: Any) -> None:
    register.take(change, register.after(change))


def test_entry_leaves_the_journal_when_its_object_is_there_and_comes_back_when_it_is_not() -> None:
    entry = Entry(300, 4, WEB, "active")
    register = registered(entry, pending=(300,))
    todo = register.noticed(300, None)
    assert todo is not None
    assert (todo.kind, todo.entry) == ("create", entry)
    assert register.tidied() is None
    right = identity(300, "web", birth="4")
    assert register.noticed(300, right) is None
    write(register, register.tidied())
    assert register.ledger.pending == {}
    todo = register.noticed(300, None)
    assert todo is not None
    assert todo.kind == "create"
    write(register, register.tidied())
    assert register.ledger.pending == {300: Pending(300, 4, WEB)}
    register.noticed(300, right)
    register.noticed(300, identity(300, "db", birth="4"))
    assert register.tidied() is None, "it is wrong again before the journal forgot it"


@pytest.mark.parametrize(
    ("seen", "pending", "kind"),
    [
        (identity(300, "web"), False, "mark"),
        (identity(300, "db", birth="4"), False, "repair"),
        (identity(300, "db"), False, "disown"),
        (identity(300, "db", birth=DISOWNED), False, "repair"),
        (identity(300, "web", birth=DISOWNED), False, "mark"),
        (identity(300, "web", birth="3"), False, "repair"),
        (identity(300, "web", birth="3"), True, "delete"),
        (identity(300, "db"), True, "disown"),
        (identity(300, "db", birth=DISOWNED), True, "delete"),
        (identity(300, "db", birth="4"), True, "repair"),
        (identity(300, "db", pinned="true"), True, None),
        (identity(300, "web", pinned="true"), True, "mark"),
    ],
)
def test_object_of_a_number_in_use(seen: CiliumIdentity, pending: bool, kind: str | None) -> None:
    for phase in ("active", "retiring"):
        entry = Entry(300, 4, WEB, phase)
        todo = action(300, entry, seen, ledger(entry, pending=(300,) if pending else ()))
        assert (todo and todo.kind) == kind


def test_object_that_a_leader_may_adopt_is_disowned_before_it_is_deleted() -> None:
    """Born before the journal began counts as not born."""
    held = msgspec.structs.replace(ledger(revision=50), origin=40)
    for birth, kind in (("", "disown"), ("7", "disown"), ("41", "delete"), (DISOWNED, "delete")):
        todo = action(300, None, identity(300, "web", birth=birth), held)
        assert todo is not None
        assert todo.kind == kind
    assert action(300, None, identity(300, "web", pinned="true"), held) is None


def test_duplicate_is_disowned_once_and_adopted_by_nobody() -> None:
    surplus = Entry(300, 4, nobody(300), "retiring")
    todo = action(300, surplus, identity(300, "web"), ledger(surplus))
    assert todo is not None
    assert todo.kind == "disown"
    seen = identity(300, "web", birth=DISOWNED)
    assert action(300, surplus, seen, ledger(surplus)) is None
    assert adopt(mirror(ledger(), seen)).entries == ()
    assert [each.number for each in adopt(mirror(ledger(), identity(300, "web"))).entries] == [300]


def test_disowned_object_keeps_all_but_its_mark() -> None:
    assert msgspec.json.decode(disown_body(identity(300, "web"))) == {
        "metadata": {
            "uid": "uid-300",
            "resourceVersion": "7",
            "annotations": {"reconciler.io/birth": "none"},
        }
    }


def test_object_is_deleted_only_when_its_number_is_free() -> None:
    entry, seen = Entry(300, 4, WEB, "active"), identity(300, "web", birth="4")
    register = registered(entry)
    batch = JournalBatch(1, 5, (), (300,), (), (), 300)
    write(register, register.batch(batch))
    assert register.noticed(300, seen) is None
    batch = JournalBatch(1, 6, (), (), (), (300,), 300)
    write(register, register.batch(batch))
    todo = register.noticed(300, seen)
    assert todo is not None
    assert (todo.kind, todo.seen) == ("delete", seen)
