"""Driving the tool: what a run is given, what it leaves, how it ends. The tool is a stand-in."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from reconciler.errors import ConfigError, UnavailableError
from reconciler.formal.apalache import Answer, Apalache, Cause, Verdict, find
from reconciler.formal.apalache.tool import BARE_VARIABLES
from tests.apalache_runs import INPUT, calls, player, write_program

MANY = INPUT / "Many.tla"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs make their folders; empty again when the test ends."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_left(scratch: Path) -> object:
    before = sorted(os.listdir("."))
    yield
    assert list(scratch.iterdir()) == []
    assert sorted(os.listdir(".")) == before


def stand_in(tmp_path: Path, *runs: str, before: str = "") -> Apalache:
    return Apalache(player(tmp_path / "apalache-mc", *runs, before=before))


def program(tmp_path: Path, source: str, **options: float) -> Apalache:
    return Apalache(write_program(tmp_path / "apalache-mc", source), **options)  # type: ignore[arg-type]


def check(apalache: Apalache, timeout: float = 60) -> Answer:
    return apalache.check(MANY, invariants=["Inv"], length=4, timeout=timeout)


# ------------------------------------------------------------------------------------- finding


def test_found_by_variable_then_path(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        player(tmp_path / name / "apalache-mc")
    on_path = {"PATH": str(tmp_path / "two")}
    one = str(tmp_path / "one" / "apalache-mc")
    assert find({"APALACHE_MC": one, **on_path}) == Path(one)
    assert find(on_path) == tmp_path / "two" / "apalache-mc"


def test_absent_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"Java 21.*release.*PATH.*APALACHE_MC"):
        find({"PATH": str(tmp_path)})


def test_variable_that_names_nothing_is_not_absent(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    for name in ("none", "text", "."):
        with pytest.raises(ConfigError, match="APALACHE_MC"):
            find({"APALACHE_MC": str(tmp_path / name), "PATH": str(tmp_path)})


def test_version(tmp_path: Path) -> None:
    assert stand_in(tmp_path).version().version == "0.62.1-2-g4943c45f1"
    no_java = program(tmp_path, "sys.stderr.write('exec: java: not found\\n'); sys.exit(127)")
    assert no_java.version().version == ""
    assert no_java.version().cause is Cause.JAVA


def test_program_that_cannot_start(tmp_path: Path) -> None:
    broken = tmp_path / "apalache-mc"
    broken.write_text("#!/nonexistent/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(UnavailableError, match="can't be started"):
        check(Apalache(broken))


# ---------------------------------------------------------------------------- what it is given


def test_environment_and_folders_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in BARE_VARIABLES:
        monkeypatch.setenv(name, "from outside")
    monkeypatch.setenv("JVM_ARGS", "-Xmx9g")
    monkeypatch.delenv("TMPDIR", raising=False)
    apalache = stand_in(tmp_path, "cinit_ok", "cinit_ok")
    check(apalache)
    check(apalache)
    first, second = calls(apalache.path)
    own: list[set[str]] = []
    for call in (first, second):
        environ, arguments = call["environ"], call["arguments"]
        assert isinstance(environ, dict)
        assert isinstance(arguments, list)
        assert not set(BARE_VARIABLES) & set(environ)
        assert environ["JVM_ARGS"] == "-Xmx9g"
        options = dict(part[2:].split("=", 1) for part in arguments if "=" in part)
        folders = {environ["TMPDIR"], options["run-dir"], options["out-dir"], str(call["cwd"])}
        assert len(folders) == 4
        own.append(folders | {options["config-file"]})
    assert not own[0] & own[1]


def test_command_line(tmp_path: Path) -> None:
    """`--name=value` only, the file last."""
    apalache = stand_in(tmp_path, "cinit_ok", "max_error")
    answer = apalache.check(
        MANY, invariants=["Inv", "ActInv"], length=4, constants="ConstInit", timeout=60
    )
    assert answer.output is not None
    assert answer.output.command == (
        *("apalache-mc", "check", "--init=Init", "--next=Next", "--cinit=ConstInit"),
        *("--length=4", "--inv=Inv,ActInv", "--no-deadlock", "Many.tla"),
    )
    many = apalache.check(
        MANY, invariants=["Inv"], length=4, deadlock=True, max_errors=4, view="View", timeout=60
    )
    assert many.output is not None
    assert many.output.command[-3:] == ("--max-error=4", "--view=View", "Many.tla")
    assert len(many.traces) == 4
    for call in calls(apalache.path):
        arguments = call["arguments"]
        assert isinstance(arguments, list)
        assert all(
            (part.startswith("--") and "=" in part) or part == "--no-deadlock"
            for part in arguments[1:-1]
        )
        assert "--discard-disabled=false" not in arguments


@pytest.mark.parametrize("name", ["Inv --debug", "A,B", "", "--inv", "x y", "Inv\n"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of an operator"):
        stand_in(tmp_path).check(MANY, invariants=[name], length=1, timeout=60)


def test_sources_are_found_across_folders(tmp_path: Path) -> None:
    """Wrapper in one folder, what it extends in another; a library hides what is beside it."""
    for name in ("wrappers", "specs", "mutant"):
        (tmp_path / name).mkdir()
    (tmp_path / "wrappers" / "APSpec.tla").write_text("---- MODULE APSpec ----\n====\n")
    (tmp_path / "specs" / "Spec.tla").write_text("---- MODULE Spec ----\n====\n")
    (tmp_path / "mutant" / "Spec.tla").write_text("mutant\n")
    apalache = stand_in(
        tmp_path, "cinit_ok", before="print(pathlib.Path('Spec.tla').read_text(), file=sys.stderr)"
    )
    answer = apalache.check(
        tmp_path / "wrappers" / "APSpec.tla",
        length=1,
        libraries=[tmp_path / "mutant", tmp_path / "specs"],
        timeout=60,
    )
    assert calls(apalache.path)[0]["sources"] == ["APSpec.tla", "Spec.tla"]
    assert answer.output is not None
    assert "mutant" in answer.output.stderr


def test_missing_module(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Nope\.tla: no such file"):
        stand_in(tmp_path).check(INPUT / "Nope.tla", length=1, timeout=60)


# --------------------------------------------------------------------------------- how it ends


def test_plays_recorded_runs(tmp_path: Path) -> None:
    apalache = stand_in(tmp_path, "cinit_ok", "labels", "smt_timeout_ok", "deadlock", "parse_error")
    answers = [check(apalache) for _ in range(5)]
    assert [answer.verdict.value for answer in answers] == [
        *("proved", "violated", "no answer", "violated", "no answer")
    ]
    assert [str(one) for one in answers[1].fell] == ["Inv.below"]
    assert answers[3].deadlock
    assert json.loads(answers[1].traces["violation1.itf.json"])["states"][3]["x"] == {
        "#bigint": "3"
    }


def test_without_trace_file_no_violation(tmp_path: Path) -> None:
    apalache = stand_in(tmp_path, "labels", before="run_dir = pathlib.Path('/dev/null/none')")
    answer = check(apalache)
    assert answer.verdict is Verdict.NO_ANSWER


@pytest.mark.parametrize("deaf", [False, True], ids=["ends-when-asked", "has-to-be-killed"])
def test_hanging_run_ends_at_its_limit(tmp_path: Path, deaf: bool) -> None:
    source = f"""
if {deaf}:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
print("The outcome is: NoError    I@19:13:10.100\\nEXITCODE: OK", flush=True)
while True:
    signal.pause()
"""
    answer = check(program(tmp_path, source, grace=0.2), timeout=1)
    assert (answer.verdict, answer.cause) == (Verdict.NO_ANSWER, Cause.TIMED_OUT)
    assert not alive(tmp_path)


def test_children_of_a_run_end_with_it(tmp_path: Path) -> None:
    """A start script that does not `exec` Java: the group is signalled, not one process."""
    source = f"""
if os.fork():
    while True:
        signal.pause()
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
while True:
    signal.pause()
"""
    assert check(program(tmp_path, source), timeout=1).cause is Cause.TIMED_OUT
    assert not alive(tmp_path)


WAITS = """
pathlib.Path({pid!r}).write_text(str(os.getpid()))
with open({started!r}, "w") as started:
    started.write("yes")
while True:
    signal.pause()
"""


class Started(threading.Event):
    """Is set, or raises, once the program has started and said so."""

    def __init__(self, fifo: Path, error: BaseException | None) -> None:
        super().__init__()
        self.fifo, self.error = fifo, error
        os.mkfifo(fifo)

    def is_set(self) -> bool:
        self.fifo.read_text()
        if self.error is not None:
            raise self.error
        return True


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=["cancelled", "interrupted"])
def test_ended_early(tmp_path: Path, error: BaseException | None) -> None:
    started = Started(tmp_path / "started", error)
    source = WAITS.format(pid=str(tmp_path / "pid"), started=str(started.fifo))
    apalache = Apalache(write_program(tmp_path / "apalache-mc", source), cancel=started)
    if error is None:
        answer = check(apalache)
        assert (answer.verdict, answer.cause) == (Verdict.NO_ANSWER, Cause.CANCELLED)
    else:
        with pytest.raises(KeyboardInterrupt):
            check(apalache)
    assert (tmp_path / "pid").exists()
    assert not alive(tmp_path)


def alive(folder: Path) -> bool:
    file = folder / "pid"
    if not file.exists():  # it was ended before it could write
        return False
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{file.read_text()}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"  # a child of the run that nobody has waited for yet


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGSEGV"])
def test_killed_by_others(tmp_path: Path, number: str) -> None:
    source = f"""
print("The outcome is: NoError    I@19:13:10.100", flush=True)
os.kill(os.getpid(), signal.{number})
"""
    answer = check(program(tmp_path, source))
    assert (answer.verdict, answer.cause) == (Verdict.NO_ANSWER, Cause.KILLED)


@pytest.mark.parametrize("code", [0, 12])
def test_no_last_line(tmp_path: Path, code: int) -> None:
    outcome = "NoError" if code == 0 else "Error"
    source = f"""
run_dir.joinpath("violation1.itf.json").write_text('{{"states": [{{"x": true}}]}}')
print("The outcome is: {outcome}    I@19:13:10.100", flush=True)
sys.exit({code})
"""
    answer = check(program(tmp_path, source))
    assert (answer.verdict, answer.cause) == (Verdict.NO_ANSWER, Cause.CUT_OFF)


@pytest.mark.parametrize("code", [0, 1, 12, 120, 150, 255])
def test_garbage(tmp_path: Path, code: int) -> None:
    source = f"""
run_dir.joinpath("violation1.itf.json").write_bytes(b"\\xff\\x00{{]")
sys.stdout.buffer.write(bytes(range(256)) * 40)
sys.stderr.buffer.write(bytes(range(256)) * 40)
sys.exit({code})
"""
    answer = check(program(tmp_path, source))
    assert answer.verdict is Verdict.NO_ANSWER
    assert answer.reason


# ----------------------------------------------------------------------------------- questions


def test_typecheck(tmp_path: Path) -> None:
    apalache = stand_in(
        tmp_path, "typecheck_ok", "type_error", "type_missing_annotation", "cinit_ok"
    )
    typings = [apalache.typecheck(MANY, timeout=60) for _ in range(4)]
    assert [typing.well_typed for typing in typings] == [True, False, False, False]
    assert str(typings[1].problems[0]).startswith("TypeError.tla:7:14: An operator with")
    assert typings[2].cause is Cause.TYPES


def test_typecheck_takes_no_success_of_another_command(tmp_path: Path) -> None:
    apalache = stand_in(tmp_path, "parse_ok", "config_command", "no_tmpdir")
    typings = [apalache.typecheck(MANY, timeout=60) for _ in range(3)]
    assert [typing.well_typed for typing in typings] == [False, False, True]


def test_induction_is_three_queries(tmp_path: Path) -> None:
    apalache = stand_in(tmp_path, "length0", "cinit_ok", "length0")
    found = apalache.inductive(MANY, invariant="Ind", safety=["Safe"], timeout=60)
    assert found.verdict is Verdict.PROVED
    assert found.reason == ""
    asked = [call["arguments"] for call in calls(apalache.path)]
    assert [
        [part for part in arguments if part[2:].startswith(("init", "inv", "len"))]
        for arguments in asked
        if isinstance(arguments, list)
    ] == [
        ["--init=Init", "--length=0", "--inv=Ind"],
        ["--init=Ind", "--length=1", "--inv=Ind"],
        ["--init=Ind", "--length=0", "--inv=Safe"],
    ]


@pytest.mark.parametrize(
    ("runs", "verdict", "reason"),
    [
        (("length0", "labels", "length0"), "violated", "step preserves: Inv.below"),
        (("labels", "cinit_ok", "length0"), "violated", "init implies: Inv.below"),
        (("length0", "cinit_ok", "smt_timeout_ok"), "no answer", "implies safety: the solver"),
        # No state satisfies the invariant: everything would follow from it.
        (
            ("length0", "vacuous_init_no_deadlock", "vacuous_init_no_deadlock"),
            "no answer",
            "step preserves: every execution ends before the bound, or there is none at all",
        ),
        (("no_java", "no_java", "no_java"), "no answer", "install Java 21"),
    ],
)
def test_induction_fails(tmp_path: Path, runs: tuple[str, ...], verdict: str, reason: str) -> None:
    apalache = stand_in(tmp_path, *runs)
    found = apalache.inductive(MANY, invariant="Ind", safety=["Safe"], timeout=60)
    assert found.verdict.value == verdict
    assert reason in found.reason


def test_simulation_is_no_proof(tmp_path: Path) -> None:
    apalache = stand_in(tmp_path, "simulate_ok", "simulate_violation", "smt_timeout_ok")
    fine, broken, lost = (
        apalache.simulate(MANY, invariants=["Inv"], length=3, runs=3, timeout=60) for _ in range(3)
    )
    assert (fine.completed, fine.violated, len(fine.answer.examples)) == (True, False, 3)
    assert (broken.completed, broken.violated) == (False, True)
    assert (lost.completed, lost.violated) == (False, False)
    arguments = calls(apalache.path)[0]["arguments"]
    assert isinstance(arguments, list)
    assert {"--max-run=3", "--output-traces"} <= set(arguments)


def test_fairness_is_refused_before_the_tool_is_asked(tmp_path: Path) -> None:
    apalache = stand_in(tmp_path)
    stated = apalache.check(INPUT / "Live.tla", temporal=["SpecFair"], length=6, timeout=60)
    assert (stated.verdict, stated.cause) == (Verdict.NO_ANSWER, Cause.FAIRNESS)
    assert "SpecFair states fairness" in stated.reason
    needed = apalache.check(
        INPUT / "Live.tla", temporal=["Always", "Reaches"], length=6, timeout=60
    )
    assert "Reaches promises progress and SpecFair states" in needed.reason
    assert calls(apalache.path) == []


def test_other_temporal_properties_have_a_caveat(tmp_path: Path) -> None:
    apalache = stand_in(tmp_path, "temporal_always", "temporal_stutter", "temporal_too_short")
    always = apalache.check(INPUT / "Live.tla", temporal=["Always"], length=6, timeout=60)
    assert always.proved
    assert "a loop that does not fit" in always.caveat
    stutter = apalache.check(INPUT / "Stutter.tla", temporal=["Live"], length=5, timeout=60)
    assert [str(one) for one in stutter.fell] == ["Live"]
    short = apalache.check(INPUT / "Stutter.tla", temporal=["Live"], length=0, timeout=60)
    assert (short.proved, short.bound) == (True, 0)
    assert short.caveat
