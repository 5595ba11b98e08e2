"""specs/AllocationObjects.tla on the code: `Mirror` and `adopt` when a server begins to lead, its
`Register` from then on, and the bodies that are sent for what `Register.noticed` asks.

The adapter is what stands around them: an API server (`testing.identity_objects`), writes of
objects that arrive when a step says so, and the shell that opens the journal and has it tidied.
What is adopted, what is to be done about an object, what the journal's object says after each
write, and what anybody reads from it and the identities is the code's: the entries that are shown
are those that a reader who begins now finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from reconciler.core.identity import Entry, JournalBatch
from reconciler.core.identity.beginning import DAY_ONE
from reconciler.core.identity.objects import (
    CiliumIdentity,
    Ledger,
    Writer,
    decode,
    encode,
    is_nobody,
)
from reconciler.core.identity.objects_adopt import adopt, first_revision
from reconciler.core.identity.objects_mirror import EMPTY, Mirror, state_of
from reconciler.core.identity.objects_register import Action, Change, Register
from reconciler.core.labels import LabelSet
from reconciler.errors import JournalError
from reconciler.formal.replay import Disabled
from reconciler.formal.values import Record
from reconciler.testing.identity_objects import Objects, Refused
from reconciler.testing.replay.pickled import Pickled

Value = Any
"""A value of TLA+, whose shape the spec says."""

BEFORE: Final = 255
"""The number that stands for the spec's 0."""

NOBODY: Final = "nobody"
DISOWNED: Final = -1


class Adapter(Pickled):
    """`formal.replay.Adapter` for AllocationObjects."""

    refuses_cleanly = True

    def __init__(self) -> None:
        self._server = Objects()
        self._register: Register | None = None  # of who leads, when it has adopted
        self._version: str | None = None  # of the journal, as who leads has read it
        self._calls: dict[Value, Action] = {}
        self._given: set[Value] = set()
        self._uids: dict[str, int] = {}
        self._made = 0
        self._writes = 0
        self._takeovers = 0

    # --- what replay asks ------------------------------------------------------------------

    def start(self, constants: Mapping[str, Value], state: Mapping[str, Value]) -> None:
        self._pool = range(
            BEFORE + min(constants["Numbers"]), BEFORE + 1 + max(constants["Numbers"])
        )
        self._most = {
            name: constants[name]
            for name in ("MaxRevision", "MaxUid", "MaxTakeovers", "MaxPending")
        }
        for each in sorted(state["objects"], key=lambda each: int(each["uid"])):
            self._made = each["uid"] - 1
            self._put(each["number"], each["owner"])
        self._made = state["uids"]
        first = first_revision(self._server.identities.values(), DAY_ONE)
        empty = msgspec.structs.replace(EMPTY, revision=first, origin=first)
        self._lead(Register(empty, ()))

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        self.changes()
        register = self._register
        noted = (set(register.materialised), set(register.missing)) if register else None
        try:
            getattr(self, f"_on_{action}")(*args)
        except Disabled:
            if register and noted:  # a look at an object that finds nothing to do is no step
                register.materialised, register.missing = noted
            raise

    def observe(self) -> Mapping[str, Value]:
        journal = self._server.journal
        assert journal is not None
        ledger = decode(journal.spec)
        state, _ = state_of(journal, self._server.identities.values(), pool=self._pool)
        return {
            "entries": frozenset(_entry(each, ledger) for each in state.entries),
            "revision": ledger.revision,
            "objects": frozenset(map(self._object, self._server.identities.values())),
            "uids": self._made,
            "pending": frozenset(self._calls),
            "adopted": self._register is not None,
            "given": frozenset(self._given),
            "takeovers": self._takeovers,
        }

    def _object(self, seen: CiliumIdentity) -> Record:
        return Record(
            number=int(seen.metadata.name) - BEFORE,
            birth=DISOWNED if seen.disowned else seen.birth,
            owner=_name(seen.label_set),
            uid=self._uids[seen.metadata.uid],
        )

    # --- the journal -----------------------------------------------------------------------

    def _on_Takeover(self) -> None:
        self._bound("MaxTakeovers", self._takeovers)
        self._takeovers += 1
        self._register = None
        journal = self._server.journal
        assert journal is not None
        self._lead(Register(decode(journal.spec), ()))

    def _lead(self, register: Register) -> None:
        """The next epoch, as yet without a look at the objects."""
        journal = self._server.journal
        self._version = journal.metadata.resource_version if journal else None
        self._write(register, register.lead(DAY_ONE))

    def _on_Adopt(self) -> None:
        if self._register is not None:
            raise Disabled("it has adopted")
        mirror = Mirror(self._pool)
        for identity in self._server.identities.values():
            mirror.identity_changed(identity.metadata.name, identity)
        mirror.journal_changed(self._server.journal)
        register = Register(mirror.ledger, mirror.entries.values())
        adoption = adopt(mirror)
        if adoption.entries:
            self._bound("MaxRevision", register.ledger.revision)
            self._write(register, register.adoption(adoption.entries))
        self._register = register

    def _on_Give(self, number: int, owner: str) -> None:
        self._bound("MaxRevision", self._leader().ledger.revision)
        self._batch(allocate=((BEFORE + number, _key(owner)),))

    def _on_Retire(self, number: int) -> None:
        self._bound("MaxRevision", self._leader().ledger.revision)
        self._batch(retire=(BEFORE + number,))

    def _on_Revive(self, number: int) -> None:
        self._bound("MaxRevision", self._leader().ledger.revision)
        if self._is_nobody(number):
            raise Disabled("nobody binds it")
        self._batch(revive=(BEFORE + number,))

    def _on_Free(self, number: int) -> None:
        if not self._is_nobody(number):
            self._bound("MaxRevision", self._leader().ledger.revision)
        self._batch(free=(BEFORE + number,))

    def _is_nobody(self, number: int) -> bool:
        entry = self._leader().entries.get(BEFORE + number)
        return entry is not None and is_nobody(entry.label_set)

    def _batch(self, **wanted: Any) -> None:
        register = self._leader()
        nothing: dict[str, Any] = {"allocate": (), "retire": (), "revive": (), "free": ()}
        batch = JournalBatch(
            epoch=register.ledger.epoch,
            expected=register.ledger.revision,
            cursor=register.ledger.cursor,
            **{**nothing, **wanted},
        )
        try:
            change = register.batch(batch)
        except JournalError as error:
            raise Disabled(str(error)) from error
        self._write(register, change)

    def _on_Note(self, number: int) -> None:
        register = self._leader()
        register.noticed(BEFORE + number, self._seen(number))
        change = register.tidied()
        if change is None:
            raise Disabled("the journal holds nothing that its object says")
        self._write(register, change)

    def _on_Close(self) -> None:
        register = self._leader()
        births = register.ledger.adoptions
        found = [
            entry
            for entry in register.entries.values()
            if entry.birth in births and not is_nobody(entry.label_set)
        ]
        seen = self._server.identities
        if not found or any(seen[str(each.number)].birth != each.birth for each in found):
            raise Disabled("not all that were adopted are marked")
        register.adopted = True
        change = register.tidied()
        assert change is not None
        self._write(register, change)

    def _write(self, register: Register, change: Change) -> None:
        self._writes += 1
        after = register.after(change)
        spec = encode(after, Writer("", self._writes))
        self._version = self._server.write_journal(spec, self._version).metadata.resource_version
        register.take(change, after)
        self._given.update(map(_pair, register.entries.values()))

    def _leader(self) -> Register:
        if self._register is None:
            raise Disabled("nobody has adopted")
        return self._register

    # --- objects ---------------------------------------------------------------------------

    def _on_AskCreate(self, number: int) -> None:
        self._ask("create", number)

    def _on_AskMark(self, number: int) -> None:
        self._ask("mark", number)

    def _on_AskDisown(self, number: int) -> None:
        self._ask("disown", number)

    def _on_AskDelete(self, number: int) -> None:
        self._ask("delete", number)

    def _ask(self, kind: str, number: int) -> None:
        register = self._leader()
        self._bound("MaxPending", len(self._calls))
        seen = self._seen(number)
        todo = register.noticed(BEFORE + number, seen)
        if todo is None or todo.kind != kind:
            raise Disabled(f"it is to {todo.kind if todo else 'do nothing'}")
        object_ = Record() if seen is None else self._object(seen)
        made = kind in ("create", "mark")
        assert todo.entry is not None or not made
        birth = todo.entry.birth if made and todo.entry else object_.get("birth", 0)
        call = Record(
            kind=kind,
            number=number,
            birth=DISOWNED if kind == "disown" else birth,
            owner=_name(todo.entry.label_set) if made and todo.entry else object_["owner"],
            uid=object_.get("uid", 0),
            was=object_.get("birth", 0),
            by=self._takeovers,
        )
        self._calls[call] = todo

    def _on_Arrive(self, call: Value) -> None:
        if call not in self._calls:
            raise Disabled("it is not under way")
        todo = self._calls.pop(call)
        there = todo.kind == "create" and str(todo.number) not in self._server.identities
        try:
            self._server.arrive(todo)
        except Refused:
            return
        if there:
            self._note_made(todo.number)

    def _on_Make(self, number: int, owner: str) -> None:
        self._bound("MaxUid", self._made)
        self._put(number, owner)

    def _put(self, number: int, owner: str) -> None:
        """As somebody else makes it."""
        name, labels = str(BEFORE + number), LabelSet.parse(_key(owner)).security_labels()
        self._server.now = self._made + 1
        try:
            self._server.create(name, {"security-labels": labels})
        except Refused as error:
            raise Disabled(str(error)) from error
        self._note_made(BEFORE + number)

    def _note_made(self, number: int) -> None:
        self._made += 1
        self._uids[self._server.identities[str(number)].metadata.uid] = self._made

    def _seen(self, number: int) -> CiliumIdentity | None:
        return self._server.identities.get(str(BEFORE + number))

    def _bound(self, name: str, value: int) -> None:
        if value >= self._most[name]:
            raise Disabled("the bounds of the search allow no more")


def _key(owner: str) -> str:
    return f"k8s:app={owner};"


def _name(label_set: str) -> str:
    return NOBODY if is_nobody(label_set) else label_set.removeprefix("k8s:app=").removesuffix(";")


def _pair(entry: Entry) -> Record:
    return Record(number=entry.number - BEFORE, birth=entry.birth, owner=_name(entry.label_set))


def _entry(entry: Entry, ledger: Ledger) -> Record:
    kept = "found" if entry.birth in ledger.adoptions else "object"
    if is_nobody(entry.label_set) or entry.number in ledger.pending:
        kept = "journal"
    return Record(_pair(entry), phase=entry.phase, kept=kept)
