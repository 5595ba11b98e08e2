------------------------- MODULE StageCommitAgentTrace -------------------------
\* What an agent recorded of its cut machine, read as the node's part of StageCommit: contents are roots.
\* A flip is asked for by a commit alone, and what is in force changes only to what was asked for.
EXTENDS Naturals, Sequences

VARIABLES
    \* @type: Str;
    cutState,
    \* @type: {server: Int, cut: Int, root: Str};
    force,
    \* @type: {server: Int, cut: Int, root: Str};
    asked,      \* what the kernel was asked to flip to
    \* @type: Int;
    lines       \* so far

\* @type: ({server: Int, cut: Int, root: Str}, {server: Int, cut: Int, root: Str}) => Bool;
NotAfter(a, b) == a.server < b.server \/ (a.server = b.server /\ a.cut <= b.cut)

\* Where one event of the machine (and what waited for it) leads.
Leads(from) ==
    CASE from = "current" -> {"current", "staging", "flipping", "rolled-back"}
      [] from \in {"staging", "staged"} -> {"staging", "staged", "flipping", "rolled-back"}
      [] from = "flipping" -> {"flipping", "cleaning", "rolled-back"}
      [] from = "committed" -> {"committed", "cleaning"}
      [] from = "cleaning" -> {"cleaning", "committed", "current", "staging", "flipping", "rolled-back"}
      [] from = "rolled-back" -> {"rolled-back", "current", "staging", "flipping"}

TraceInit(e) ==
    /\ cutState = "current"
    /\ lines = 0
    /\ force = e.args.force
    /\ asked = e.args.force

Explain(e) ==
    /\ e.action = "Cut"
    /\ cutState' = e.args.state
    /\ force' = e.args.force
    /\ lines' = lines + 1 /\ lines' = e.args.line
    /\ cutState' \in Leads(cutState)
    /\ IF cutState' = "flipping" /\ cutState # "flipping"
       THEN Len(e.args.flips) = 1 /\ asked' = e.args.flips[1] /\ NotAfter(force, asked')
       ELSE e.args.flips = <<>> /\ asked' = asked
    /\ IF cutState = "flipping" /\ cutState' = "cleaning" THEN force' = asked ELSE force' = force

Observe(e) == TRUE
Hidden == FALSE /\ UNCHANGED <<cutState, force, asked, lines>>
=============================================================================
