"""Every recorded run of the tool is read as what it was.

The table is written by hand, from the rule in reading.py and from what each run printed; it is not
what the reader said. Runs: tests/data/apalache/runs, one file each, standard output by lines.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.formal.apalache.reading import Answer, Cause, Position, Verdict, judge
from tests.apalache_runs import RUNS, load

P, V = (Verdict.PROVED, Cause.NONE, ""), (Verdict.VIOLATED, Cause.NONE, "")


def no(cause: Cause, reason: str) -> tuple[Verdict, Cause, str]:
    return Verdict.NO_ANSWER, cause, reason


# run → verdict, cause, and words of the reason
TABLE = {
    "action_invariant": V,
    "bad_jvm_args": no(Cause.JAVA, "Invalid maximum heap size: -Xmx2zz"),
    "bad_option_value": no(Cause.COMMAND_LINE, "option length, got 'abc', expected an Int"),
    "cinit_absent": no(Cause.INPUT, "Variable N is not assigned a value"),
    "cinit_missing_operator": no(Cause.CONFIGURATION, "Operator Nope not found"),
    "cinit_ok": P,
    "cinit_partial": no(Cause.ASSIGNMENT, "No assignments found for: Procs"),
    "cinit_range": P,
    "cinit_type_error": no(Cause.TYPES, "ConstsType.tla:17:13: Arguments to = should"),
    "cinit_unsat": no(Cause.INPUT, "Constant N has multiple initializations: 5 and 4"),
    "config_command": no(Cause.NOTHING_ASKED, "checks nothing"),
    "dash_version": no(Cause.COMMAND_LINE, "No command found, expected one of check"),
    "deadlock": V,
    # Its flags make a stuck state look like a step: the tool says NoError, and so does the rule.
    # `Apalache.check` never passes them together.
    "deadlock_flag_kept": P,
    "deadlock_ignored": no(Cause.TOO_SHORT, "every execution ends before the bound"),
    "debug": P,
    "env_config_file": no(Cause.CONFIGURATION, "$.checker.lenght: Unknown configuration key."),
    "env_out_dir": P,
    "help": no(Cause.NOTHING_ASKED, "checks nothing"),
    "help_check": no(Cause.COMMAND_LINE, "No option found for --help"),
    "inv_list_second_fails": V,
    "inv_missing_operator": no(Cause.CONFIGURATION, "Nope not found (used as an invariant)"),
    "inv_two": V,
    "jar_missing": no(Cause.JAVA, "Unable to access jarfile /nonexistent/apalache.jar"),
    "java_too_old": no(Cause.JAVA, "install Java 21 or newer"),
    "json_config": P,
    "labels": V,
    "length0": P,
    "length0_inductive": no(Cause.ASSIGNMENT, "Deadlock.tla:8:8: Assignment error: x' is used"),
    "max_error": V,
    "max_error_no_view": no(Cause.CONFIGURATION, "checker.max-error=4 requires checker.view"),
    "missing_argument": no(Cause.COMMAND_LINE, "No argument provided for file"),
    "missing_file": no(Cause.CRASHED, "java.nio.file.NoSuchFileException: Nope.tla"),
    "missing_module": no(Cause.PARSE, "Cannot find source file for module NoSuchModule"),
    "missing_operator_init": no(Cause.CONFIGURATION, "used as the initialization predicate"),
    "no_assignment": no(Cause.ASSIGNMENT, "NoAssignment.tla:9:23: Assignment error: y' is used"),
    "no_command": no(Cause.COMMAND_LINE, "No command found, expected one of check"),
    "no_java": no(Cause.JAVA, "java: not found; install Java 21 or newer"),
    "no_tmpdir": no(Cause.NOTHING_ASKED, "checks nothing"),
    "options_after_file": no(Cause.COMMAND_LINE, "Too many arguments: --inv=Inv, --length=2"),
    "out_dir": P,
    "out_dir_unwritable": no(Cause.CONFIGURATION, "Could not find or create directory"),
    "out_dir_violation": V,
    "output_traces": P,
    "parse_command_error": no(Cause.PARSE, "Could not parse module ParseError"),
    "parse_error": no(Cause.PARSE, "Could not parse module ParseError"),
    "parse_json_error": no(Cause.PARSE, "JSON has no field named [version]."),
    "parse_ok": no(Cause.NOTHING_ASKED, "checks nothing"),
    "semantic_error": no(Cause.PARSE, "SemanticError.tla:7:14: "),
    "simulate_ok": P,  # as a run; `Apalache.simulate` never calls that a proof
    "simulate_violation": V,
    "smt_encoding_arrays": P,
    "smt_encoding_bad": no(Cause.COMMAND_LINE, "got 'foo', expected an SMT encoding"),
    "smt_solver_cvc5_encoding": no(Cause.CONFIGURATION, "smt-encoding=oopsla19, but got arrays"),
    "smt_timeout_ok": no(Cause.SOLVER_TIMEOUT, "the solver gave up"),
    "spec_eval_75": no(Cause.UNSUPPORTED, "InfiniteSeq.tla:6:15: unsupported expression: Seq(_)"),
    "temporal_always": P,
    "temporal_fair": no(Cause.FAIRNESS, "fairness is not supported"),
    "temporal_no_stutter": P,
    "temporal_ok": P,
    "temporal_stutter": V,
    "temporal_too_short": P,  # no lasso fits in no steps; `Apalache.check` says so in its caveat
    "temporal_violation": V,
    "test_ok": P,
    "test_violation": V,
    "tlc_config_bad": no(Cause.CONFIGURATION, "ConstsBad.cfg:4:1: "),
    "tlc_config_missing": no(Cause.CONFIGURATION, "TLC config file not found: Nope.cfg"),
    "tlc_config_model_values": no(Cause.INPUT, "Constant Procs declared in the specification"),
    "tlc_config_not_given": no(Cause.INPUT, "Variable N is not assigned a value"),
    "tlc_config_strings": P,
    "tlc_config_typed_model_values": no(Cause.CRASHED, "an uninterpreted sort PROC, not a string"),
    "tracee": no(Cause.CRASHED, "Tried to load state from an invalid source: Labels.tla."),
    "two_word_option": no(Cause.COMMAND_LINE, "Too many arguments: --length, 2, Deadlock.tla"),
    "type_bad_annotation": no(Cause.TYPES, "Parser error in type annotation of x"),
    "type_error": no(Cause.TYPES, "TypeError.tla:7:14: An operator with the signature"),
    "type_error_check": no(Cause.TYPES, "TypeError.tla:7:14: An operator with the signature"),
    "type_missing_annotation": no(Cause.TYPES, "Expected a type annotation for VARIABLE x"),
    "typecheck_ok": no(Cause.NOTHING_ASKED, "checks nothing"),
    "typecheck_output": no(Cause.NOTHING_ASKED, "checks nothing"),
    "unbounded_set": no(Cause.UNSUPPORTED, "A set filter over InfSet[CellTFrom(Int)]"),
    "unknown_command": no(Cause.COMMAND_LINE, "Unknown command 'chekc', did you mean check?"),
    "unknown_option": no(Cause.COMMAND_LINE, "No option found for --no-such-option"),
    "vacuous_init": V,
    "vacuous_init_no_deadlock": no(Cause.TOO_SHORT, "or there is none at all"),
    # Nothing satisfies its Init, and its flags hide that; as deadlock_flag_kept.
    "vacuous_init_silent": P,
    "version": no(Cause.NOTHING_ASKED, "checks nothing"),
    "violation_kinds": V,
    "wrong_extension": no(Cause.CONFIGURATION, "Unsupported file format: badext"),
    "wrong_module_name": no(Cause.PARSE, "File name 'WrongName' does not match"),
}

# run → what fell: (kind, number, label, invariant, step); "" where the output leaves it open
FELL = {
    "action_invariant": [("action", 0, "", "ActInv", 0)],
    "deadlock": [],
    "inv_list_second_fails": [("state", 1, "", "Below", 3)],
    # Inv and ActInv, one conjunct each, of two kinds: numbered apart, so the name stays open.
    "inv_two": [("action", 0, "", "", 0)],
    "labels": [("state", 1, "below", "Inv", 3)],
    "max_error": [("state", 0, "", "Inv", 2)],
    "out_dir_violation": [],
    "simulate_violation": [("state", 0, "", "Inv", 2)],
    "temporal_stutter": [("state", 0, "", "Live", 2)],
    "temporal_violation": [("state", 0, "", "Never", 4)],
    "test_violation": [("action", 0, "", "ActInv", 0)],
    "vacuous_init": [],
    "violation_kinds": [("state", 0, "", "Inv", 1)],
}
TRACES = {  # run → ITF files beside the unnumbered copies
    **{run: ["violation1.itf.json"] for run in FELL},
    "deadlock": ["violation0.itf.json"],
    "max_error": [f"violation{number}.itf.json" for number in range(1, 5)],
    "out_dir_violation": ["violation0.itf.json"],
    "output_traces": ["example0.itf.json"],
    "simulate_ok": [f"example{number}.itf.json" for number in range(1, 4)],
    "vacuous_init": ["violation0.itf.json"],
}
POSITIONS = {  # run → places of its errors, in order
    "cinit_type_error": [
        Position("ConstsType.tla", 17, 13, 17, 22),
        Position("ConstsType.tla", 17, 1, 17, 48),
    ],
    "length0_inductive": [Position("Deadlock.tla", 8, 8, 8, 8)],
    "no_assignment": [Position("NoAssignment.tla", 9, 23, 9, 24)],
    "semantic_error": [Position("SemanticError.tla", 7, 14, 7, 14)],
    "spec_eval_75": [Position("InfiniteSeq.tla", 6, 15, 6, 25)],
    "tlc_config_bad": [Position("ConstsBad.cfg", 4, 1, 4, 1)],
    "type_error": [Position("TypeError.tla", 7, 14, 7, 23), Position("TypeError.tla", 7, 1, 7, 23)],
}
POSITIONS["type_error_check"] = POSITIONS["type_error"]


def test_table_is_complete() -> None:
    assert sorted(TABLE) == sorted(RUNS)
    assert len(TABLE) == 89
    assert {run for run, row in TABLE.items() if row is V} == set(FELL)


@pytest.mark.parametrize("run", RUNS)
def test_verdict(run: str) -> None:
    answer = judge(load(run).output)
    verdict, cause, reason = TABLE[run]
    assert (answer.verdict, answer.cause) == (verdict, cause), answer.reason
    assert reason in answer.reason
    assert bool(answer.reason) == (verdict is Verdict.NO_ANSWER)
    assert "\x1b" not in answer.reason
    assert answer.deadlock == (run in {"deadlock", "out_dir_violation", "vacuous_init"})


@pytest.mark.parametrize("run", RUNS)
def test_what_fell(run: str) -> None:
    fell = judge(load(run).output).fell
    found = [(one.kind, one.number, one.label, one.invariant, one.step) for one in fell]
    assert found == FELL.get(run, [])


@pytest.mark.parametrize("run", RUNS)
def test_positions(run: str) -> None:
    problems = judge(load(run).output).problems
    assert [one.position for one in problems if one.position] == POSITIONS.get(run, [])


@pytest.mark.parametrize("run", RUNS)
def test_traces(run: str) -> None:
    assert sorted(judge(load(run).output).traces) == TRACES.get(run, [])


def test_versions() -> None:
    """Banner or `version`; runs that end before the banner have none."""
    without = {run for run in RUNS if not judge(load(run).output).version}
    assert {judge(load(run).output).version for run in RUNS if run not in without} == {
        "0.62.1-2-g4943c45f1"
    }
    assert "version" not in without
    assert without == {
        run
        for run, (_, cause, _) in TABLE.items()
        if cause in (Cause.COMMAND_LINE, Cause.JAVA) or run == "help"
    } | {"env_config_file", "out_dir_unwritable", "wrong_extension"}


# --------------------------------------------------------------------------------- robustness

ANSWERED = sorted(run for run, row in TABLE.items() if row[0] is not Verdict.NO_ANSWER)


# Parts of real output, none of which makes an answer without the tool's own end.
PARTS = [
    "The outcome is: NoError      I@19:13:10.100",
    "The outcome is: Error        I@19:13:10.100",
    "State 3: state invariant 9 [x] violated.   I@19:13:10.100",
    "> VCGen produced 99999999999 verification condition(s)",
    "EXITCODE: OK I@",
    "Unhandled exception   E@19:13:10.100",
    "# APALACHE version: ",
    "[a.tla:1:2-3:4]: x E@19:13:10.100",
]


def changed(run: str, **fields: object) -> Answer:
    output = load(run).output
    return judge(
        type(output)(**{**{f: getattr(output, f) for f in output.__struct_fields__}, **fields})
    )


@given(st.sampled_from(ANSWERED), st.data())
def test_cut_output_answers_nothing(run: str, data: st.DataObject) -> None:
    """Whatever is lost at the end, from one character on: neither proved nor violated."""
    text = load(run).output.stdout.rstrip()
    kept = data.draw(st.integers(0, len(text) - 1))
    answer = changed(run, stdout=text[:kept])
    assert answer.verdict is Verdict.NO_ANSWER
    assert answer.reason


@given(st.sampled_from(ANSWERED), st.integers(0, 255))
def test_other_exit_code_answers_nothing(run: str, code: int) -> None:
    answer = changed(run, exit=code)
    if code != load(run).output.exit:
        assert answer.verdict is Verdict.NO_ANSWER
        assert answer.reason


@given(st.sampled_from([run for run in ANSWERED if run in FELL]), st.data())
def test_cut_counterexample_is_no_violation(run: str, data: st.DataObject) -> None:
    cut = {}
    for name, text in load(run).output.traces.items():
        kept = data.draw(st.integers(0, len(text.rstrip()) - 1))
        cut[name] = text[:kept]
    answer = changed(run, traces=cut)
    assert (answer.verdict, answer.cause) == (Verdict.NO_ANSWER, Cause.BROKE_OFF)


@given(st.sampled_from(sorted(RUNS)), st.sampled_from(["timed out", "cancelled"]))
def test_a_run_that_was_ended_answers_nothing(run: str, ended: str) -> None:
    assert changed(run, ended=ended).cause.value == ended


@given(
    st.text(max_size=400) | st.lists(st.sampled_from(PARTS), max_size=9).map("\n".join),
    st.integers(0, 255),
    st.dictionaries(st.sampled_from(["violation1.itf.json"]), st.text(max_size=30)),
)
def test_garbage_answers_nothing(text: str, code: int, traces: dict[str, str]) -> None:
    output = load("labels").output
    garbage = type(output)(
        command=(), ended="exited", exit=code, stdout=text, stderr=text, traces=traces
    )
    assert judge(garbage).verdict is Verdict.NO_ANSWER


@given(st.sampled_from(ANSWERED), st.data())
def test_lines_from_the_middle_are_lost(run: str, data: st.DataObject) -> None:
    """A hole in the output never turns one answer into the other."""
    lines = load(run).output.stdout.splitlines()
    start = data.draw(st.integers(0, len(lines)))
    end = data.draw(st.integers(start, len(lines)))
    answer = changed(run, stdout="\n".join(lines[:start] + lines[end:]))
    assert answer.verdict in (Verdict.NO_ANSWER, TABLE[run][0])


def test_two_outcomes_are_none() -> None:
    text = load("cinit_ok").output.stdout
    line = "The outcome is: Error                                             I@19:13:10.1\n"
    answer = changed("cinit_ok", stdout=text.replace("The outcome is", f"{line}The outcome is"))
    assert (answer.verdict, answer.cause) == (Verdict.NO_ANSWER, Cause.UNKNOWN)


def test_timeout_line_spoils_a_proof() -> None:
    text = load("cinit_ok").output.stdout
    late = text.replace(
        "State 3: state invariant 0 holds.", "State 3: state invariant 0 => TIMEOUT."
    )
    assert late != text
    assert changed("cinit_ok", stdout=late).cause is Cause.SOLVER_TIMEOUT


def test_data_says_nothing_of_a_machine() -> None:
    folder = Path(__file__).resolve().parents[1] / "data" / "apalache"
    size = 0
    for path in folder.rglob("*.*"):
        text = path.read_text()
        size += len(text.encode())
        assert not [part for part in ("/home/", "/root/", "/tmp/") if part in text], path
    assert size < 1_000_000
    assert json.loads((folder / "runs" / "labels.json").read_text())["exit"] == 12
