"""Reading modules and configurations without a parser of TLA+."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import ConfigError
from reconciler.formal import config, module

CORE = r"""
-------------------------------- MODULE Core --------------------------------
(* A comment with a (* nested *) one: Next == \/ Nothing *)
EXTENDS Naturals, Sequences

CONSTANTS
    \* @type: Set(NODE);
    Nodes,   \* who takes part, e.g. VARIABLES
    Max
CONSTANT Limit(_), Kinds
VARIABLES
    \* @type: NODE -> Seq(Str);
    mail,
    \* @type: Int;
    sent
vars == <<mail, sent>>

Init == mail = [n \in Nodes |-> <<>>] /\ sent = 0
Send(n, text) == mail' = [mail EXCEPT ![n] = Append(@, text)] /\ sent' = sent + 1
Lose(n) == mail' = [mail EXCEPT ![n] = <<>>] /\ UNCHANGED sent
Reset == sent' = 0 /\ UNCHANGED mail

Next ==
    \/ \E n \in Nodes, t \in {"a : b", "c, d"} : Send(n, t)   \* any text
    \/ \E n \in {m \in Nodes : mail[m] # <<>>} : \E k \in {<<1, 2>>} :
         Lose(n)
    \/ Send("x", <<1, [a |-> 1]>>)
    \/ Reset

Spec == Init /\ [][Next]_vars
FairSpec ==
    /\ Spec
    /\ WF_vars(Reset)
OtherSpec ==
    /\ Init /\ [][Reset]_vars
    /\ WF_vars(Reset)
=============================================================================
"""


@pytest.fixture
def core(tmp_path: Path) -> Path:
    (tmp_path / "Core.tla").write_text(CORE)
    (tmp_path / "mc").mkdir()
    path = tmp_path / "mc" / "MC.tla"
    path.write_text("---- MODULE MC ----\nEXTENDS Core, TLC\nVARIABLE extra\n====\n")
    return path


def test_family_and_names(core: Path) -> None:
    family = module.family(core, (core.parent.parent,))
    assert [m.name for m in family] == ["MC", "Core"]
    assert module.constants(family) == ("Nodes", "Max", "Kinds")
    assert module.variables(family) == ("extra", "mail", "sent")


def test_a_missing_module_is_named(core: Path) -> None:
    with pytest.raises(ConfigError, match="extends Core, which is not found"):
        module.family(core)


def test_actions_of_a_flat_next(core: Path) -> None:
    found = module.actions(module.family(core, (core.parent.parent,)))
    assert [(a.name, a.args) for a in found] == [
        ("Send", ("n", "t")),
        ("Lose", ("n",)),
        ("Send", ('"x"', "<<1, [a |-> 1]>>")),
        ("Reset", ()),
    ]
    assert found[0].text == '\\E n \\in Nodes, t \\in {"a : b", "c, d"} : Send(n, t)'


@pytest.mark.parametrize(
    "line",
    ["Send(n, t) /\\ TRUE", "\\E n \\in Nodes : x' = 1", "\\E n \\in Nodes Send(n)", "A \\/ B"],
)
def test_a_next_that_is_not_flat(tmp_path: Path, line: str) -> None:
    path = tmp_path / "M.tla"
    path.write_text(f"---- MODULE M ----\nNext ==\n    \\/ {line}\n====\n")
    with pytest.raises(ConfigError, match=r"M\.tla: Next"):
        module.actions(module.family(path))


def test_a_next_without_disjuncts(tmp_path: Path) -> None:
    path = tmp_path / "M.tla"
    path.write_text("---- MODULE M ----\nNext == Send\n====\n")
    with pytest.raises(ConfigError, match="expected"):
        module.actions(module.family(path))
    with pytest.raises(ConfigError, match="no definition of Other"):
        module.actions(module.family(path), "Other")


def test_comments_are_blanked_in_place() -> None:
    text = 'a \\* "b\nc == "\\* no (* comment" (* d\n (* e *) *) f'
    code = module.blank_comments(text)
    assert code.split() == ["a", "c", "==", '"\\*', "no", "(*", 'comment"', "f"]
    assert len(code) == len(text)
    assert code.count("\n") == text.count("\n")


CONFIG = r"""
\* bounds
SPECIFICATION FairSpec
CONSTANTS
    Nodes = {n1, n2}
    Max = 3
CONSTANT Kinds <- MCKinds
INVARIANTS OneCut
    BeliefIsPast
PROPERTY Converges
SYMMETRY Sym
"""


def test_config(core: Path) -> None:
    path = core.with_suffix(".cfg")
    path.write_text(CONFIG)
    read = config.read(path)
    assert read.properties == ("OneCut", "BeliefIsPast", "Converges")
    assert read.behaviour(module.family(core, (core.parent.parent,))) == ("Init", "Next")
    assert read.names("SYMMETRY") == ("Sym",)
    path.write_text(CONFIG.replace("FairSpec", "OtherSpec"))
    other = config.read(path).behaviour(module.family(core, (core.parent.parent,)))
    assert other == ("Init", "Reset")
    text = " ".join(read.text(["CONSTANT"]).split())
    assert text == "CONSTANT Nodes = {n1, n2} Max = 3 CONSTANT Kinds <- MCKinds"


def test_config_with_init_and_next(tmp_path: Path) -> None:
    path = tmp_path / "M.cfg"
    path.write_text("INIT Start\nNEXT Step\n")
    assert config.read(path).behaviour(()) == ("Start", "Step")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("Nodes = 1\nINIT A\n", "begin"), ("INVARIANT A\n", "neither SPECIFICATION")],
)
def test_config_that_is_wrong(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "M.cfg"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        config.read(path).behaviour(())
