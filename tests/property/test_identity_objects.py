"""The journal and its identities as objects, under late writes, take-overs and foreign hands.

The machine plays the API server (`identity_objects`), leaders that write the journal by
compare-and-swap and its objects in the background – each write decided on what was read, arriving
later or never, also when another leads –, readers that see both kinds with any lag, and people or
agents that create, edit, pin and delete objects. What the journal holds is kept a second time by
`apply_batch`. Held to specs/AllocationObjects.tla:

OneOwner          no two numbers for one label set, no two label sets for one number
SaysWhatWasGiven  an object that nobody else touched says what the journal once gave
NoneIsLost        no write of ours deletes the object of an identity that is active, or a pinned one
Written           what a number means is in the journal or in its object, whatever write comes late
OldestWins        of found objects with the same labels the oldest counts
Mirrors           in the end the objects are the identities that are active, and no others

and to what readers need: what they know of a number is what the journal's writer knew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reconciler.core.identity import Entry, JournalBatch, JournalState, apply_batch
from reconciler.core.identity.beginning import DAY_ONE
from reconciler.core.identity.objects import (
    BIRTH,
    PINNED,
    AllocationJournal,
    Writer,
    encode,
    is_nobody,
    label_set_key,
)
from reconciler.core.identity.objects_adopt import adopt, first_revision
from reconciler.core.identity.objects_mirror import EMPTY, Mirror, held_back, state_of
from reconciler.core.identity.objects_register import Action, Register
from reconciler.core.labels import LabelSet
from reconciler.testing.identity_objects import Objects, Refused

POOL = range(256, 261)
LABEL_SETS = tuple(f"k8s:app={app};k8s:io.kubernetes.pod.namespace=n;" for app in "abc")

numbers = st.sampled_from(POOL)
label_sets = st.sampled_from(LABEL_SETS)


def raw(label_set: str, **annotations: str) -> dict[str, Any]:
    """An object as a Cilium agent writes it."""
    labels = LabelSet.parse(label_set)
    metadata = {"labels": {"io.kubernetes.pod.namespace": "n"}, "annotations": annotations}
    return {"metadata": metadata, "security-labels": labels.security_labels()}


class Leader:
    """One server's copy of the journal, and what it has read of the objects."""

    def __init__(self, world: ObjectsMachine, name: str, recall: Iterable[Entry] = ()) -> None:
        self.world, self.name, self.sequence = world, name, 0
        server = world.server
        mirror = Mirror(POOL)
        for identity in server.identities.values():
            mirror.identity_changed(identity.metadata.name, identity)
        mirror.journal_changed(server.journal)
        mirror.recall(recall)
        if server.journal is None:
            first = first_revision(mirror.objects.values(), world.wall)
            mirror.ledger = msgspec.structs.replace(EMPTY, revision=first, origin=first)
        self.version = server.journal.metadata.resource_version if server.journal else None
        self.unresolved = set(mirror.unresolved)
        held = world.truth.get(self.version or "", JournalState(0, 0, 256)).entries
        self.lost = [entry for entry in held if entry.number in mirror.unresolved]
        self.register = Register(mirror.ledger, mirror.entries.values())
        self.objects = dict(mirror.objects)
        self.write(self.register.lead(world.wall))
        mirror.ledger = self.register.ledger
        assert self.version is not None
        state = world.truth[self.version]
        entries = sorted((*state.entries, *self.lost), key=lambda e: (e.birth, e.number))
        world.truth[self.version] = msgspec.structs.replace(state, entries=tuple(entries))
        self.adoption = adopt(mirror)
        if self.adoption.entries:
            self.write(self.register.adoption(self.adoption.entries))

    def write(self, change: Any) -> None:
        """Refused: another leads."""
        self.sequence += 1
        after = self.register.after(change)
        spec = encode(after, Writer(self.name, self.sequence))
        journal = self.world.server.write_journal(spec, self.version)
        self.version = journal.metadata.resource_version
        self.register.take(change, after)
        self.world.truth[self.version] = self.register.state()

    def look(self, number: int) -> Action | None:
        """Read one object, and decide."""
        seen = self.world.server.identities.get(str(number))
        if seen is None:
            self.objects.pop(number, None)
        else:
            self.objects[number] = seen
        return self.register.noticed(number, seen)

    def marks_are_done(self) -> bool:
        adoptions = self.register.ledger.adoptions
        return all(
            entry.birth not in adoptions
            or is_nobody(entry.label_set)
            or (number in self.objects and self.objects[number].birth == entry.birth)
            for number, entry in self.register.entries.items()
        )


class Reader:
    """A replica that follows: behind by any number of events, of each kind by itself."""

    def __init__(self, server: Objects) -> None:
        self.server = server
        self.begin()

    def begin(self) -> None:
        self.mirror = Mirror(POOL)
        self.identity_at, self.journal_at = len(self.server.identity_log), 0
        self.journal: AllocationJournal | None = None
        for name, identity in self.server.identities.items():
            self.mirror.identity_changed(name, identity)
        self.journal_at = len(self.server.journal_log)
        self.set_journal(self.server.journal)

    def set_journal(self, journal: AllocationJournal | None) -> None:
        self.journal = journal
        self.mirror.journal_changed(journal)

    def step(self, identities: int, journals: int) -> None:
        end = min(self.identity_at + identities, len(self.server.identity_log))
        for name, identity in self.server.identity_log[self.identity_at : end]:
            self.mirror.identity_changed(name, identity)
        self.identity_at = end
        end = min(self.journal_at + journals, len(self.server.journal_log))
        if end > self.journal_at:  # versions in between are skipped, as by a list
            self.set_journal(self.server.journal_log[end - 1])
        self.journal_at = end


class ObjectsMachine(RuleBasedStateMachine):
    foreign = True

    def __init__(self) -> None:
        super().__init__()
        self.server = Objects()
        self.truth: dict[str, JournalState] = {}
        self.given: set[tuple[int, int, str]] = set()
        self.births: dict[tuple[int, int], str] = {}
        self.touched: set[str] = set()  # UIDs of objects that somebody else wrote
        self.calls: list[tuple[Action, Leader]] = []
        self.leaders, self.hands, self.wall = 0, 0, DAY_ONE

    @initialize(found=st.lists(st.tuples(numbers, label_sets, st.integers(0, 2), st.booleans())))
    def begin(self, found: list[tuple[int, str, int, bool]]) -> None:
        for number, label_set, age, pinned in found:
            if str(number) not in self.server.identities:
                self.server.now = age
                annotations = {PINNED: "true"} if pinned and self.foreign else {}
                made = self.server.create(str(number), raw(label_set, **annotations))
                self.touched.add(made.metadata.uid)
        self.reader = Reader(self.server)
        self.lead()

    # Leaders

    def lead(self, recall: Iterable[Entry] = ()) -> None:
        self.leaders += 1
        self.wall += 1.0
        before = self.server.journal
        known = self.truth[before.metadata.resource_version] if before else None
        self.leader = leader = Leader(self, f"server-{self.leaders}", recall)
        state = leader.register.state()
        if known is not None:
            lost = set(leader.lost)
            assert self.hands or not lost, "lost, and nobody touched anything"
            assert set(known.entries) - lost <= set(state.entries)
            assert not lost & set(recall)
        for entry in leader.adoption.entries:
            if entry.phase == "active":
                self.check_oldest(entry)
        self.note()

    def check_oldest(self, entry: Entry) -> None:
        won = self.leader.objects[entry.number]
        for number, other in self.leader.objects.items():
            held = self.leader.register.entries.get(number)
            lost = held is not None and held.birth == entry.birth and number != entry.number
            if lost and number not in self.leader.unresolved and other.label_set == entry.label_set:
                assert not other.pinned
                older = won.metadata.creation_timestamp, entry.number
                younger = other.metadata.creation_timestamp, number
                assert won.pinned or older < younger, "OldestWins"

    def note(self) -> None:
        """What the newest write of the journal gave."""
        for entry in self.leader.register.entries.values():
            self.given.add((entry.number, entry.birth, entry.label_set))
            meant = self.births.setdefault((entry.number, entry.birth), entry.label_set)
            assert meant == entry.label_set, "a birth comes back"

    @rule(follower=st.booleans())
    def take_over(self, follower: bool) -> None:
        """By a server that followed until now, as far as it has come, or by a new one."""
        self.lead(tuple(self.reader.mirror.entries.values()) if follower else ())

    def batch(self, **wanted: Any) -> None:
        register = self.leader.register
        nothing: dict[str, Any] = {"allocate": (), "retire": (), "revive": (), "free": ()}
        batch = JournalBatch(
            epoch=register.ledger.epoch,
            expected=register.ledger.revision,
            cursor=register.ledger.cursor,
            **{**nothing, **wanted},
        )
        expected = apply_batch(register.state(), batch)
        self.leader.write(register.batch(batch))
        got = register.state()
        assert set(got.entries) == set(expected.entries)
        assert (got.epoch, got.revision) == (expected.epoch, expected.revision)
        self.note()

    @rule(number=numbers, label_set=label_sets, data=st.data())
    def give(self, number: int, label_set: str, data: st.DataObject) -> None:
        entries = self.leader.register.entries
        if label_set in {entry.label_set for entry in entries.values()}:
            return
        free: tuple[int, ...] = ()
        if number in entries:
            if entries[number].phase != "retiring" or not data.draw(st.booleans()):
                return
            free = (number,)
        if number not in held_back(self.leader.objects, {}):
            self.batch(allocate=((number, label_set),), free=free)

    @rule(number=numbers, to=st.sampled_from(["retire", "revive", "free", "free"]))
    def turn(self, number: int, to: str) -> None:
        entry = self.leader.register.entries.get(number)
        phase = "active" if to == "retire" else "retiring"
        if entry is None or entry.phase != phase or (to == "revive" and is_nobody(entry.label_set)):
            return
        if number not in held_back(self.leader.objects, {}):
            self.batch(**{to: (number,)})

    @rule()
    def tidy(self) -> None:
        register = self.leader.register
        register.adopted = self.leader.marks_are_done()
        change = register.tidied()
        if change is not None:
            self.leader.write(change)
            assert register.tidied() is None

    @rule()
    def deposed_leader_writes_the_journal(self) -> None:
        """R5: whoever has not seen the last write changes nothing."""
        held = self.server.journal
        assert held is not None
        for version in self.truth.keys() - {held.metadata.resource_version}:
            with pytest.raises(Refused):
                self.server.write_journal(held.spec, version)

    # Objects

    @rule(number=numbers)
    def ask(self, number: int) -> None:
        action = self.leader.look(number)
        if action is not None:
            self.calls.append((action, self.leader))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), again=st.booleans())
    def arrive(self, data: st.DataObject, again: bool) -> None:
        at = data.draw(st.integers(0, len(self.calls) - 1))
        action, leader = self.calls[at] if again else self.calls.pop(at)
        self.carry_out(action, leader)

    def carry_out(self, action: Action, leader: Leader) -> None:
        try:
            deleted = self.server.arrive(action)
        except Refused:
            return
        if deleted is not None:
            self.check_deleted(action.number, deleted)
        else:
            self.touched.discard(self.server.identities[str(action.number)].metadata.uid)
        if leader is self.leader:
            leader.look(action.number)

    def check_deleted(self, number: int, deleted: Any) -> None:
        assert not deleted.pinned, "a pinned object is deleted"
        entry = self.leader.register.entries.get(number)
        if entry is not None:
            pair = (deleted.birth, deleted.label_set)
            assert pair != (entry.birth, entry.label_set), "NoneIsLost"
            ledger = self.leader.register.ledger
            meant = number in ledger.pending or is_nobody(entry.label_set)
            assert meant, "Written: what has just been adopted is deleted"

    # Others

    @precondition(lambda self: self.foreign)
    @rule(
        number=numbers,
        label_set=label_sets,
        how=st.sampled_from(["create", "edit", "unmark", "delete", "pin", "unpin", "break"]),
    )
    def somebody(self, number: int, label_set: str, how: str) -> None:
        self.hands += 1
        self.server.now += 1
        name = str(number)
        try:
            if how == "delete":
                self.server.delete(name, {})
                return
            if how == "create":
                made = self.server.create(name, raw(label_set))
            elif how == "edit":
                made = self.server.patch(
                    name, {"security-labels": raw(label_set)["security-labels"]}
                )
            elif how == "break":
                made = self.server.patch(name, {"security-labels": {"no source": "x"}})
            else:
                text = {"unmark": None, "pin": "true", "unpin": None}[how]
                key = BIRTH if how == "unmark" else PINNED
                made = self.server.patch(name, {"metadata": {"annotations": {key: text}}})
            self.touched.add(made.metadata.uid)
        except Refused:
            return

    @precondition(lambda self: self.foreign and self.hands % 7 == 3)
    @rule()
    def journal_is_deleted(self) -> None:
        """A new one begins above all births, also where none is written on any object."""
        self.hands += 1
        self.calls.clear()  # an object that is adopted anew may be one that they delete
        self.server.journal = None
        self.server.journal_log.append(None)
        self.lead()

    # Readers

    @rule(identities=st.integers(0, 4), journals=st.integers(0, 3))
    def read(self, identities: int, journals: int) -> None:
        self.reader.step(identities, journals)

    @rule()
    def reader_begins_anew(self) -> None:
        self.reader.begin()

    # What always holds

    @invariant()
    def one_owner(self) -> None:
        if not hasattr(self, "leader"):
            return
        entries = self.leader.register.entries.values()
        owned = [entry.label_set for entry in entries if not is_nobody(entry.label_set)]
        assert len(set(owned)) == len(owned), "OneOwner"

    @invariant()
    def says_what_was_given(self) -> None:
        for identity in self.server.identities.values():
            if identity.birth and identity.metadata.uid not in self.touched:
                meant = (int(identity.metadata.name), identity.birth, identity.label_set)
                assert meant in self.given, "SaysWhatWasGiven"

    @invariant()
    def readers_know_what_the_writer_knew(self) -> None:
        if not hasattr(self, "reader") or self.reader.journal is None:
            return
        mirror = self.reader.mirror
        truth = self.truth[self.reader.journal.metadata.resource_version]
        if mirror.unresolved:
            assert set(mirror.state().entries) <= set(truth.entries)
            assert {e.number for e in truth.entries} - set(mirror.entries) == mirror.unresolved
        else:
            assert mirror.state() == truth

    @rule()
    def settle(self) -> None:
        """Without others' hands everything comes right, whatever was on its way."""
        leader = self.leader
        while self.calls:
            self.carry_out(*self.calls.pop(0))
        for _ in range(6):  # disown, delete, create, mark, look
            for number in POOL:
                action = leader.look(number)
                if action is not None:
                    self.carry_out(action, leader)
            self.tidy()
        for number in POOL:
            entry = leader.register.entries.get(number)
            seen = self.server.identities.get(str(number))
            if seen is not None and (seen.pinned or not seen.label_set):
                continue
            if entry is None:
                assert seen is None, "Mirrors: an object is left"
            elif seen is not None and not is_nobody(entry.label_set):
                assert (seen.birth, seen.label_set) == (entry.birth, entry.label_set)
            else:
                assert entry.phase == "retiring", "Mirrors: an identity has no object"
        held = leader.register.ledger
        stuck = {n for n in held.pending if held.digests[n] and self.is_stuck(n)}
        assert held.pending.keys() == stuck, "pending entries whose objects are there"
        state, _ = state_of(self.server.journal, self.server.identities.values(), pool=POOL)
        assert state == leader.register.state()

    def is_stuck(self, number: int) -> bool:
        """It retires without an object, or a pinned one is in its place."""
        seen = self.server.identities.get(str(number))
        entry = self.leader.register.entries[number]
        if seen is None:
            return entry.phase == "retiring"
        return seen.pinned and seen.label_set != entry.label_set


class OursAlone(ObjectsMachine):
    """Nobody else touches anything: then nothing is ever lost, not even for a moment."""

    foreign = False

    @invariant()
    def written(self) -> None:
        if hasattr(self, "leader"):
            state, _ = state_of(self.server.journal, self.server.identities.values(), pool=POOL)
            assert state == self.leader.register.state(), "Written"


def test_objects_mirror_the_journal_whoever_interferes() -> None:
    run_state_machine_as_test(ObjectsMachine, settings=settings(stateful_step_count=60))


def test_objects_mirror_the_journal_that_nobody_else_touches() -> None:
    run_state_machine_as_test(OursAlone, settings=settings(stateful_step_count=60))


@pytest.mark.parametrize("way", ["made meanwhile", "freed unmarked", "duplicate"])
def test_late_write_takes_nothing_that_a_successor_has_just_adopted(way: str) -> None:
    """The counterexample that TLC gives where an unmarked object is deleted at once."""
    machine, label_set = OursAlone(), LABEL_SETS[0]
    if way == "made meanwhile":
        machine.begin(found=[])
        machine.server.create("257", raw(label_set))
    elif way == "freed unmarked":
        machine.begin(found=[(257, label_set, 0, False)])
        machine.batch(retire=(257,))
        machine.batch(free=(257,))
    else:
        machine.begin(found=[(256, label_set, 0, False), (257, label_set, 1, False)])
        machine.batch(retire=(256,), free=(257,))
        machine.batch(free=(256,))
        for _ in range(2):
            machine.ask(256)
            while machine.calls:
                machine.carry_out(*machine.calls.pop())
        assert "256" not in machine.server.identities
    machine.ask(257)
    machine.lead()
    assert machine.leader.register.entries[257].label_set == label_set, "it is adopted"
    machine.carry_out(*machine.calls.pop())
    machine.lead()
    machine.written()
    machine.settle()
    assert machine.server.identities["257"].birth == machine.leader.register.entries[257].birth


@given(
    st.dictionaries(
        st.one_of(
            st.text("k8s:%;=a.", max_size=6), st.sampled_from(["k8s:app", "gen:app", "any:b", ":"])
        ),
        st.text("%;=:ab", max_size=4),
        max_size=6,
    )
)
def test_key_of_labels_is_that_of_the_label_set(labels: dict[str, str]) -> None:
    try:
        expected = LabelSet.from_security_labels(labels).key
    except ValueError:
        expected = ""
    assert label_set_key(labels) == expected
