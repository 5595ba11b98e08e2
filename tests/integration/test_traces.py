"""Code → spec: what the processes of many joined clusters recorded, and two real ones, explained.

And refused, at the right line, when a trace is broken.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from reconciler import tracefile
from reconciler.commands.ask import query
from reconciler.formal import module as modules
from reconciler.formal import suite
from reconciler.formal.suite import Spec
from reconciler.testing.replay import Recorded, recorded
from reconciler.testing.replay.evidence import Judged, judge
from reconciler.tracefile import Life
from tests.broken_traces import KINDS, broken
from tests.golden_traces import SPECS
from tests.integration.test_processes import SHOP, Processes
from tests.property import leadership_runs, other_clients, replica_runs
from tests.property.joined_runs import STORIES, record, record_story

SUITE = suite.load(SPECS)
READ = [spec for spec in SUITE.specs if spec.trace]
RUNS = 200
REPLICAS = 12
"""Runs of several replicas. Their nodes record nothing."""

SERVED = ("Allocation", "StageCommit", "XdsStream")
"""Specs of which servers record steps."""

OTHERS = 8
"""Runs of clients that are none of ours, and of servers that are deposed."""

LEADERS = 20
"""Runs of replicas that want to lead, with nothing to serve."""

BROKEN = 20
"""Broken traces a kind and spec."""

LEAST = {"dropped": BROKEN // 4, "changed": BROKEN // 4, "swapped": BROKEN * 9 // 10}
"""As many must be refused, half of them at the very line. A line that repeats what is known already
may be missing without being missed, and so may a field; lines that don't commute can't change
places."""


@pytest.fixture(scope="module")
def lives() -> Mapping[str, Life]:
    found: dict[str, Life] = {}
    for seed in range(RUNS):
        found |= record(seed)
    for path in STORIES:
        found |= record_story(path)
    for seed in range(REPLICAS):
        found |= replica_runs.record(seed)
    for seed in range(OTHERS):
        found |= other_clients.record(seed)
    for seed in range(LEADERS):
        found |= leadership_runs.record(seed)
    return found


def explained(judged: list[Judged]) -> None:
    refused = [str(each.verdict) for each in judged if not each.verdict.passed]
    assert not refused, f"{len(refused)} of {len(judged)} refused\n" + "\n\n".join(refused[:3])


@pytest.mark.parametrize("spec", READ, ids=lambda spec: spec.name)
def test_recorded_runs_are_explained(spec: Spec, lives: Mapping[str, Life]) -> None:
    judged = judge(SUITE, lives, specs=[spec.name])
    explained(judged)
    runs = {each.life.partition(",")[0] for each in judged}
    kinds = Counter(name.split()[0] for name in runs)
    alone = spec.name == "Leadership"
    assert kinds.pop("leaders", 0) == (LEADERS if alone else 0)
    assert kinds.pop("replicas", 0) == (REPLICAS if spec.name in SERVED else 0)
    assert kinds.total() == (0 if alone else RUNS + len(STORIES) + OTHERS), (
        "every run has traces of every spec"
    )
    events = Counter(event.action for each in judged for event in each.verdict.events)
    print(f"{spec.name}: {len(judged)} traces, {events.total()} events: {dict(events)}")
    assert set(events) == actions_read(spec), "what is recorded is read, and the other way round"


def actions_read(spec: Spec) -> set[str]:
    """Actions that the trace modules of a spec can explain."""
    found: set[str] = set()
    for reading in recorded(spec.trace):
        path = SUITE.folder / "trace" / f"{reading.module}.tla"
        _, text = modules.definition(modules.family(path, SUITE.libraries), "Explain")
        found |= set(re.findall(r'\.action = "(\w+)"', text))
    return found


@pytest.mark.parametrize("spec", READ, ids=lambda spec: spec.name)
def test_broken_traces_are_refused_at_the_right_line(spec: Spec, lives: Mapping[str, Life]) -> None:
    chance = random.Random(1)
    for reading in recorded(spec.trace):
        if not reading.exact:
            continue
        made, where = _broken(spec, reading, lives, chance)
        judged = judge(SUITE, made, specs=[spec.name], show=0)
        refused = Counter[str]()
        exact = Counter[str]()
        for each in judged:
            kind, line = where[each.life]
            if each.refused_at is None:
                continue
            assert each.refused_at >= line, f"{each.life}: refused before what is wrong"
            refused[kind] += 1
            exact[kind] += each.refused_at == line
        print(f"{spec.name} {reading.module}: refused {refused}, at the very line {exact}")
        for kind in KINDS:
            assert refused[kind] >= LEAST[kind], f"{kind}: the spec takes them for right"
            assert exact[kind] >= LEAST[kind] / 2, f"{kind}: found too late"


def _broken(
    spec: Spec, reading: Recorded, lives: Mapping[str, Life], chance: random.Random
) -> tuple[dict[str, Life], dict[str, tuple[str, int]]]:
    made: dict[str, Life] = {}
    where: dict[str, tuple[str, int]] = {}
    parts = [
        list(part)
        for name, life in lives.items()
        if life.process == reading.process
        and name.startswith("replicas") == (reading.module == "AllocationReplicaTrace")
        and name.startswith("leaders") == (spec.name == "Leadership")
        for part in reading.split(
            [event for event in life.events if event.spec == (reading.spec or spec.name)]
        ).values()
    ]
    for kind in KINDS:
        count = 0
        while count < BROKEN:
            found = broken(chance.choice(parts), kind, chance)
            if found is not None:
                name = f"{kind} {count}"
                where[name] = (kind, found[0])
                made[name] = Life(reading.process, kind, 2, tuple(found[1]))
                count += 1
    return made, where


def identities(processes: Processes) -> object:
    return query(processes.server_status, "/v1/identities")


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    shutil.copytree(SHOP, tmp_path / "shop")
    found = Processes(tmp_path, tmp_path / "shop")
    yield found
    for name in list(found.running):
        found.stop(name, signal.SIGKILL)


def test_what_real_processes_recorded_is_explained(processes: Processes) -> None:
    """Both are killed and come back, and the objects change meanwhile."""
    processes.server()
    processes.agent()
    processes.wait(processes.in_sync)
    namespaces = processes.manifests / "namespaces.yaml"
    before, first = namespaces.read_text(), identities(processes)
    namespaces.write_text(before.replace("team: store", "team: other"))
    processes.wait(lambda: identities(processes) != first and processes.in_sync())
    processes.stop("agent", signal.SIGKILL)
    processes.agent()
    processes.wait(processes.in_sync)
    processes.stop("server", signal.SIGKILL)
    namespaces.write_text(before)
    processes.server()
    processes.wait(processes.in_sync)
    processes.stop("agent")
    processes.stop("server")
    recordings = {
        f"{path.name} {number}": life
        for path in sorted(processes.directory.glob("*.jsonl"))
        for number, life in enumerate(tracefile.read(path), 1)
    }
    assert len(recordings) == 4
    judged = judge(SUITE, recordings)
    explained(judged)
    assert {each.spec for each in judged} == {spec.name for spec in READ} - {"Leadership"}
