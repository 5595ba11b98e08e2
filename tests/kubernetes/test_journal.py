"""The journal in Kubernetes, against a real API server: who writes, and what becomes of a write."""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from reconciler.core.identity import Entry, Journal, JournalState
from reconciler.core.identity.beginning import DAY_ONE
from reconciler.core.identity.objects import JournalSpec
from reconciler.core.identity.objects_adopt import REVISION_GAP
from reconciler.errors import ConfigError, JournalConflict, JournalCorrupt, JournalError
from reconciler.server.kubernetes.client import ApiClient
from reconciler.server.kubernetes.journal import KubernetesJournal, read
from reconciler.server.kubernetes.journal_api import (
    GROUP,
    PLURAL,
    VERSION,
    Connect,
    Found,
    JournalApi,
    Refused,
    Unanswered,
    connect,
)
from reconciler.testing.kubernetes import Cluster
from tests.journal_contract import DB, DNS, WEB, JournalContract, batch
from tests.kubernetes.api import Api
from tests.kubernetes.identities import JOURNALS, clean, identity
from tests.kubernetes.identity_rig import labels
from tests.property.test_allocator import AllocatorMachine


@pytest.fixture(scope="module")
def load(cluster: Cluster) -> Connect:
    return connect(cluster.kubeconfig())


@pytest.fixture
async def empty(client: ApiClient) -> None:
    await clean(client)


class Journals:
    wall = DAY_ONE

    def __init__(self, load: Connect, name: str) -> None:
        self.load, self.name = load, name
        self.made: list[JournalApi] = []

    def api(self, kind: type[JournalApi] = JournalApi) -> Any:
        self.made.append(kind(self.load, self.name))
        return self.made[-1]

    def handle(self, kind: type[JournalApi] = JournalApi) -> KubernetesJournal:
        return KubernetesJournal(self.api(kind), wall=lambda: self.wall)

    def read(self) -> JournalState:
        return read(self.api())[0]

    def copy(self) -> object:
        found = self.api().get()
        assert found is not None
        return found.journal.spec

    def restore(self, copy: object) -> None:
        api = self.api()
        found = api.get()
        assert found is not None
        assert isinstance(copy, JournalSpec)
        api.replace(found, copy)

    def lose(self) -> None:
        """No CiliumIdentity was made of it either."""
        from kubernetes import client

        client.CustomObjectsApi(self.load()).delete_cluster_custom_object(
            GROUP, VERSION, PLURAL, self.name
        )

    def close(self) -> None:
        for api in self.made:
            api.close()


@pytest.fixture
def journals(load: Connect, api: Api, empty: None) -> Iterator[Journals]:
    made = Journals(load, api.name("journal"))
    yield made
    made.close()


class TestKubernetesJournal(JournalContract):
    pass


# What becomes of a write


class Network(JournalApi):
    """One whose requests a test holds up or loses.

    lose:   answers of so many writes that are carried out
    refuse: so many writes that never arrive; they are kept, to arrive later
    away:   nothing is answered at all
    now:    the time, which goes on only while somebody sleeps
    """

    lose = refuse = 0
    away = False
    now = 0.0
    after_pause: Callable[[], object] | None = None

    def __init__(self, load: Connect, name: str) -> None:
        super().__init__(load, name)
        self.late: list[tuple[Found, JournalSpec]] = []
        self.writes = 0

    def get(self) -> Found | None:
        self._answer()
        return super().get()

    def replace(self, read: Found, spec: JournalSpec) -> Found:
        self._answer()
        self.writes += 1
        if self.refuse:
            self.refuse -= 1
            self.late.append((read, spec))
            raise Unanswered("timed out")
        found = super().replace(read, spec)
        if self.lose:
            self.lose -= 1
            raise Unanswered("connection reset")
        return found

    def arrive(self) -> Found:
        """The write that was under way for so long is carried out."""
        return super().replace(*self.late.pop(0))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.after_pause is not None:
            self.after_pause()

    def _answer(self) -> None:
        if self.away:
            raise Unanswered("no route to host")


def networked(journals: Journals) -> tuple[KubernetesJournal, Network]:
    api: Network = journals.api(Network)
    journal = KubernetesJournal(
        api, patience=5.0, clock=lambda: api.now, sleep=api.sleep, wall=lambda: DAY_ONE
    )
    journal.open()
    api.writes = 0
    return journal, api


def test_write_whose_answer_is_lost_is_found_to_be_ours(journals: Journals) -> None:
    journal, api = networked(journals)
    api.lose = 1
    assert journal.append(batch(0, (256, WEB))) == 1
    assert api.writes == 1
    assert journal.append(batch(1, (257, DB))) == 2
    assert [entry.number for entry in journals.read().entries] == [256, 257]


def test_write_that_did_not_arrive_is_made_again_and_arrives_once(journals: Journals) -> None:
    journal, api = networked(journals)
    api.refuse = 2
    assert journal.append(batch(0, (256, WEB))) == 1
    assert api.writes == 3
    with pytest.raises(Refused):
        api.arrive()
    assert journal.append(batch(1, (257, DB))) == 2
    assert journals.read().revision == 2


def test_write_that_arrives_while_it_is_made_again_is_ours(journals: Journals) -> None:
    journal, api = networked(journals)
    api.refuse, api.after_pause = 1, api.arrive
    assert journal.append(batch(0, (256, WEB))) == 1
    assert journals.read().entries == (Entry(256, 1, WEB, "active"),)
    assert journal.append(batch(1, (257, DB))) == 2


def test_write_of_which_nothing_is_known_fails_and_may_be_made_again(journals: Journals) -> None:
    journal, api = networked(journals)
    api.refuse, api.away = 1, False
    with vanishing(api), pytest.raises(JournalError, match=r"no route to host; whether the write"):
        journal.append(batch(0, (256, WEB)))
    assert journals.read().revision == 0
    assert journal.append(batch(0, (300, DNS))) == 1
    with pytest.raises(Refused):
        api.arrive()
    assert journals.read().entries == (Entry(300, 1, DNS, "active"),)


@contextlib.contextmanager
def vanishing(api: Network) -> Iterator[None]:
    """The API server is away as soon as it has got the next write."""
    replace = api.replace

    def once(read: Found, spec: JournalSpec) -> Found:
        try:
            return replace(read, spec)
        finally:
            api.away = True

    api.replace = once  # type: ignore[method-assign]
    try:
        yield
    finally:
        api.replace = replace  # type: ignore[method-assign]
        api.away = False


def test_failed_write_that_had_taken_effect_ends_the_server(journals: Journals) -> None:
    """The allocator was told that nothing was written; what is written is never lost by that."""
    journal, api = networked(journals)
    api.lose = 1
    with vanishing(api), pytest.raises(JournalError) as failed:
        journal.append(batch(0, (256, WEB)))
    assert not isinstance(failed.value, JournalConflict)
    with pytest.raises(JournalConflict, match="is at epoch 1, revision 1"):
        journal.append(batch(0, (300, DNS)))
    journal.close()
    assert journal.open() == JournalState(2, 1, 300, (Entry(256, 1, WEB, "active"),))


def test_late_write_that_arrives_before_the_next_one_ends_the_server(journals: Journals) -> None:
    journal, api = networked(journals)
    api.refuse = 1
    with vanishing(api), pytest.raises(JournalError):
        journal.append(batch(0, (256, WEB)))
    api.arrive()
    with pytest.raises(JournalConflict, match="is at epoch 1, revision 1"):
        journal.append(batch(0, (300, DNS)))
    assert journals.read().entries == (Entry(256, 1, WEB, "active"),)


# Who writes


class Paused(JournalApi):
    """Stops in front of the next write of an entry until it is let on."""

    def __init__(self, load: Connect, name: str) -> None:
        super().__init__(load, name)
        self.there, self.go = threading.Event(), threading.Event()

    def replace(self, read: Found, spec: JournalSpec) -> Found:
        if spec.pending:
            self.there.set()
            assert self.go.wait(60)
        return super().replace(read, spec)


@pytest.mark.parametrize("wrote", [False, True], ids=["took over", "took over and wrote"])
def test_leader_paused_in_a_write_is_deposed_meanwhile(journals: Journals, wrote: bool) -> None:
    """R5. What it was about to write is made, checked and ready; and takes no effect."""
    api: Paused = journals.api(Paused)
    old, new = KubernetesJournal(api, wall=lambda: DAY_ONE), journals.handle()
    old.open()
    with ThreadPoolExecutor(1) as thread:
        write = thread.submit(old.append, batch(0, (256, WEB)))
        assert api.there.wait(60)
        assert new.open() == JournalState(2, 0, 256)
        if wrote:
            new.append(batch(0, (256, DB), epoch=2))
        before = journals.read()
        api.go.set()
        with pytest.raises(JournalConflict, match=f"written by {new.holder}: another server has"):
            write.result(60)
    assert journals.read() == before


def test_many_servers_at_once_have_epochs_of_their_own(journals: Journals) -> None:
    several = [journals.handle() for _ in range(8)]
    with ThreadPoolExecutor(len(several)) as threads:
        states = list(threads.map(lambda journal: journal.open(), several))
    assert sorted(state.epoch for state in states) == list(range(1, 9))
    newest = max(state.epoch for state in states)
    for journal, state in zip(several, states, strict=True):
        if state.epoch != newest:
            with pytest.raises(JournalConflict):
                journal.append(batch(0, (256, WEB), epoch=state.epoch))
    last = several[[state.epoch for state in states].index(newest)]
    assert last.append(batch(0, (256, DB), epoch=newest)) == 1


async def test_change_of_metadata_is_no_conflict_and_is_kept(journals: Journals, api: Api) -> None:
    journal = journals.handle()
    journal.open()
    path = f"{JOURNALS}/{journals.name}"
    await api.patch(path, {"metadata": {"annotations": {"who": "me"}, "labels": {"a": "b"}}})
    assert journal.append(batch(0, (256, WEB))) == 1
    await api.patch(path, {"metadata": {"annotations": {"why": "so"}}})
    assert journal.append(batch(1, (257, DB))) == 2
    metadata = (await api.get(path))["metadata"]
    assert metadata["annotations"] == {"who": "me", "why": "so"}
    assert metadata["labels"] == {"a": "b"}


async def test_edited_journal_is_another_writers(journals: Journals, api: Api) -> None:
    journal = journals.handle()
    journal.open()
    await api.patch(f"{JOURNALS}/{journals.name}", {"spec": {"cursor": 4000}})
    with pytest.raises(JournalConflict):
        journal.append(batch(0, (256, WEB)))
    journal.close()
    assert journal.open() == JournalState(2, 0, 4000)


async def test_unreadable_journal_is_left_as_it_is(journals: Journals, api: Api) -> None:
    journal = journals.handle()
    journal.open()
    journal.append(batch(0, (256, WEB)))
    journal.close()
    path = f"{JOURNALS}/{journals.name}"
    await api.patch(path, {"spec": {"digests": ""}})
    before = await api.get(path)
    with pytest.raises(JournalCorrupt, match=r"1 numbers are in use, with 0 digests. It was left"):
        journal.open()
    assert await api.get(path) == before
    with pytest.raises(JournalError, match="is not open"):
        journal.append(batch(0))


async def test_deleted_journal_begins_anew_above_all_births(journals: Journals, api: Api) -> None:
    journal = journals.handle()
    journal.open()
    await identity(api, 300, "web", birth=41)
    await identity(api, 301, "db")
    await api.delete(f"{JOURNALS}/{journals.name}", {})
    with pytest.raises(JournalConflict, match="somebody deleted it"):
        journal.append(batch(0, (256, WEB)))
    journal.close()
    state = journal.open()
    assert (state.epoch, state.revision) == (1, 42 + REVISION_GAP)
    assert {(each.number, each.birth, each.phase) for each in state.entries} == {
        (300, 42 + REVISION_GAP, "active"),
        (301, 42 + REVISION_GAP, "active"),
    }


async def test_journal_lost_with_all_births_begins_above_the_clock(
    journals: Journals, api: Api
) -> None:
    """Objects that somebody else makes later are none of the new one's, whatever they say."""
    journal = journals.handle()
    journal.open()
    journal.append(batch(0, (256, WEB)))
    journal.close()
    journals.lose()
    journals.wall = DAY_ONE + 1.0
    state = journal.open()
    assert (state.epoch, state.revision, state.entries) == (1, 1_000_000, ())
    journal.close()
    await identity(api, 256, "web", birth=1)
    entry = Entry(256, 1_000_001, labels("web"), "active")
    assert journal.open() == JournalState(2, 1_000_001, 256, (entry,))


def test_leader_of_a_journal_that_is_restored_is_overtaken(journals: Journals) -> None:
    leader = journals.handle()
    leader.open()
    copy = journals.copy()
    assert leader.append(batch(0, (256, WEB))) == 1
    journals.restore(copy)
    with pytest.raises(JournalConflict, match="another server has taken over"):
        leader.append(batch(1, (257, DB)))
    leader.close()
    journals.wall = DAY_ONE + 1.0
    assert leader.open() == JournalState(2, 1_000_000, 256)
    assert leader.append(batch(1_000_000, (256, DB), epoch=2)) == 1_000_001


class Dying(JournalApi):
    """Takes the epoch of a new journal, and is gone before it adopts."""

    def replace(self, read: Found, spec: JournalSpec) -> Found:
        if spec.counts.in_use:
            raise Refused(403, "killed")
        return super().replace(read, spec)


async def test_new_journal_whose_leader_dies_before_it_adopts(journals: Journals, api: Api) -> None:
    """Marks of the journal before mean nothing to the second leader either."""
    await identity(api, 300, "web", birth=41)
    with pytest.raises(JournalError, match="killed"):
        journals.handle(Dying).open()
    state = journals.handle().open()
    assert [(each.number, each.birth) for each in state.entries] == [(300, 42 + REVISION_GAP)]
    assert state.epoch == 2


def test_write_that_is_too_large_is_refused_before_it_is_sent(journals: Journals) -> None:
    journal, api = networked(journals)
    large = [(300 + n, f"k8s:app={n}{'x' * 100_000};") for n in range(20)]
    with pytest.raises(JournalError, match=r"1400000 are the most .* 20 entries wait to become"):
        journal.append(batch(0, *large))
    assert api.writes == 0
    assert journal.append(batch(0, *large[:12])) == 1


def test_write_that_the_api_server_refuses_changes_nothing(
    journals: Journals, cluster: Cluster
) -> None:
    journal = journals.handle()
    journal.open()
    nobody = JournalApi(connect(cluster.kubeconfig("nobody", ())), journals.name)
    journals.made.append(nobody)
    with pytest.raises(JournalError, match=r"answers 403: .*install the manifests' ClusterRole"):
        KubernetesJournal(nobody).open()
    assert journal.append(batch(0, (256, WEB))) == 1


def test_credentials_are_read_again_when_they_are_refused(
    journals: Journals, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    past = cluster.kubeconfig(lasts=datetime.timedelta(seconds=-1))
    path.write_text(Path(past).read_text())
    api = JournalApi(connect(str(path)), journals.name)
    journals.made.append(api)
    journal = KubernetesJournal(api, wall=lambda: DAY_ONE)
    with pytest.raises(JournalError, match=r"answers 401: .*give the server valid ones"):
        journal.open()
    path.write_text(Path(cluster.kubeconfig()).read_text())
    journal.open()
    api.requests.clear()
    journal.append(batch(0, (256, WEB)))
    assert api.requests == {("update", "allocationjournals"): 1}
    assert api.requests.total() == 1


def test_no_kubeconfig(tmp_path: Path) -> None:
    journal = KubernetesJournal(JournalApi(connect(str(tmp_path / "none")), "default"))
    with pytest.raises(ConfigError, match="kubeconfig"):
        journal.open()


# The allocator on it


class KubernetesAllocatorMachine(AllocatorMachine):
    """Any schedule of crashes and take-overs, with this journal."""

    load: ClassVar[list[Connect]]
    numbers = iter(range(1 << 30))

    def open_store(self) -> None:
        self.journals = Journals(self.load[0], f"machine-{next(self.numbers)}")

    def handle(self) -> Journal:
        return self.journals.handle()

    def content(self) -> JournalState:
        return self.journals.read()

    def teardown(self) -> None:
        if hasattr(self, "journals"):
            self.journals.close()


@pytest.mark.timeout(600)
def test_allocator_with_a_journal_in_kubernetes(load: Connect, empty: None) -> None:
    KubernetesAllocatorMachine.load = [load]
    examples = max(5, settings().max_examples // 20)
    run_state_machine_as_test(
        KubernetesAllocatorMachine, settings=settings(max_examples=examples, stateful_step_count=40)
    )


def test_specs_of_writes_are_equal_only_with_their_marks(journals: Journals) -> None:
    journal = journals.handle()
    journal.open()
    found = journals.api().get()
    journal.append(batch(0, (256, WEB)))
    again = journals.api().get()
    assert found.journal.spec.writer.holder == again.journal.spec.writer.holder == journal.holder
    assert found.journal.spec.writer.sequence < again.journal.spec.writer.sequence
    assert msgspec.structs.asdict(again.journal.spec)["counts"].pending == 1
