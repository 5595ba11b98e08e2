------------------------ MODULE StageCommitServerTrace ------------------------
\* What a server recorded of one node's rollout, read as the server's part of StageCommit: contents are
\* roots, so which view is next is open, and all that is believed and under way is not.
EXTENDS Naturals, Sequences

VARIABLES
    \* @type: Str;
    rollout,
    \* @type: {server: Int, cut: Int, root: Str, at: Seq(Int)};
    acked,
    \* @type: {server: Int, cut: Int, root: Str, at: Seq(Int)};
    target,
    \* @type: {server: Int, cut: Int, at: Seq(Int)};
    newest,
    \* @type: Int;
    lines       \* so far, of this rollout

None == [server |-> 0, cut |-> 0, root |-> "", at |-> <<>>]
Nothing == [server |-> 0, cut |-> 0, at |-> <<>>]

\* Of several replicas a cut says up to where each kind of object was read: only that has an order then.
\* @type: ({server: Int, cut: Int, at: Seq(Int)}, {server: Int, cut: Int, at: Seq(Int)}) => Bool;
NotAfter(a, b) ==
    IF a.at = <<>> \/ b.at = <<>>
    THEN a.server < b.server \/ (a.server = b.server /\ a.cut <= b.cut)
    ELSE Len(a.at) = Len(b.at) /\ \A i \in DOMAIN a.at : a.at[i] <= b.at[i]

\* A server that takes over knows a newer revision from the start.
First(e) == newest = Nothing /\ e.action # "Hear"

\* A replica reads on without a word where nothing changes: a report is judged by what it has read, and a
\* cut begins there.
ReadOn(from, to) == from.at # <<>> /\ to.at # <<>> /\ NotAfter(from, to)

\* The step ends in a state in which a cut of the newest revision is under way.
Begun(states) ==
    /\ rollout' \in states
    /\ \/ target'.server = newest'.server /\ target'.cut = newest'.cut
       \/ ReadOn(newest', target')

Real == {"staging", "committing"}
Closed == {"closed-staging", "closed-committing"}

\* Nothing to send: what is believed is the newest revision too. Or the next cut.
Onwards(believed, state) ==
    /\ acked'.root = believed.root
    /\ \/ rollout' = state /\ target' = None /\ NotAfter(believed, acked')
       \/ Begun(Real)
       \/ state = "closed-fallback" /\ Begun(Closed)

\* A node that was let go begins anew when it comes back.
Same ==
    /\ target' = target
    /\ acked' = acked \/ (rollout = "absent" /\ acked' = None)

Hear ==
    /\ NotAfter(newest, newest')
    /\ CASE rollout = "ahead" ->
                \/ Same /\ rollout' = "ahead" /\ ~NotAfter(acked, newest')
                \/ NotAfter(acked, newest') /\ Begun(Real) /\ acked'.root = acked.root
         [] rollout \in {"current", "closed-fallback"} -> Onwards(acked, rollout)
         [] rollout = "held" ->
                \/ Same /\ rollout' = "held"
                \/ Begun(Real) /\ acked' = acked
         [] OTHER -> Same /\ rollout' = rollout

Report ==
    /\ rollout = "absent"
    /\ newest' = newest \/ ReadOn(newest, newest')
    /\ \/ rollout' = "ahead" /\ target' = None /\ ~NotAfter(acked', newest')
       \/ NotAfter(acked', newest') /\ Begun(Real \union Closed)

Acked ==
    /\ newest' = newest /\ Same
    /\ \/ rollout = "staging" /\ rollout' = "committing"
       \/ rollout = "closed-staging" /\ rollout' = "closed-committing"

Commit ==
    /\ newest' = newest
    /\ \/ rollout = "committing" /\ Onwards(target, "current")
       \/ rollout = "closed-committing" /\ Onwards(target, "closed-fallback")

Nacked ==
    /\ newest' = newest /\ acked' = acked /\ target' = None
    /\ rollout \in Real \union Closed /\ rollout' = "held"

Tick ==
    /\ newest' = newest /\ acked' = acked
    /\ \/ rollout = "held" /\ Begun(Closed)
       \/ rollout = "held" /\ rollout' = "absent" /\ target' = None
       \/ rollout = "closed-fallback" /\ Begun(Real)
       \/ rollout \in Closed /\ UNCHANGED <<rollout, target>>  \* it passes while a cut is under way

Break == rollout' = "absent" /\ acked' = acked /\ target' = None /\ newest' = newest

TraceInit(e) ==
    /\ lines = 0
    /\ rollout = "absent" /\ acked = None /\ target = None
    /\ newest = Nothing

Explain(e) ==
    /\ rollout' = e.args.state
    /\ acked' = e.args.acked
    /\ target' = e.args.target
    /\ newest' = e.args.newest
    /\ lines' = e.args.line
    /\ lines' = lines + 1 \/ (lines' = 1 /\ rollout = "absent")
    /\ CASE e.action = "Hear" -> Hear
         [] e.action = "Report" -> Report \/ (First(e) /\ rollout = "absent")
         [] e.action = "Acked" -> Acked
         [] e.action = "Commit" -> Commit
         [] e.action = "Nacked" -> Nacked
         [] e.action = "Tick" -> Tick
         [] e.action = "Break" -> Break \/ (First(e) /\ rollout' = "absent" /\ Same)
         [] OTHER -> FALSE

Observe(e) == TRUE
Hidden == FALSE /\ UNCHANGED <<rollout, acked, target, newest, lines>>
=============================================================================
