---------------------------- MODULE XdsClientTrace ----------------------------
\* What one agent recorded of its streams, read as the client's half of XdsStream: the actions are
\* the spec's own, with a server at the other end that sends what the agent says it got.
\*
\* The staging of a cut is StageCommit's: of its responses only that they came is read here.
EXTENDS XdsStream

CONSTANT
    \* @type: Seq(<<Int, Int>>);
    Cuts        \* (server, cut) of each revision of which there is a word, in their order

\* The same revision as the spec counts it: its place among all.
Rank(e) ==
    IF e.args.cut = 0 THEN 0
    ELSE CHOOSE i \in DOMAIN Cuts : Cuts[i] = <<e.args.server, e.args.cut>>

\* The process finds a cut in the kernel, or none.
TraceInit(e) ==
    /\ revision = 1
    /\ content = [r \in 1..1 |-> [n \in {Star} |-> 1]]
    /\ loaded = [s \in Servers |-> 1]
    /\ serving = [s \in Servers |-> 0]
    /\ stream = [k \in Streams |-> [t \in Types |-> "idle"]]
    /\ open = [s \in Servers |-> [t \in Types |-> <<>>]]
    /\ sub = [s \in Servers |-> Nobody]
    /\ known = [s \in Servers |-> Nothing]
    /\ rollout = [s \in Servers |-> "absent"]
    /\ acked = [s \in Servers |-> 0]
    /\ target = [s \in Servers |-> 0]
    /\ down = [k \in Streams |-> <<>>]
    /\ up = [k \in Streams |-> <<>>]
    /\ opened = 0
    /\ client = "disconnected"
    /\ link = 0
    /\ asked = FALSE
    /\ want = Nobody
    /\ held = Nothing
    /\ cut \in 0..Len(Cuts)
    /\ inbox = NoFrame
    /\ refused = {}
    /\ faults = 0
    /\ asks = 0
    /\ fired = {}

\* A response that is a part of a cut, which is not there as a whole yet: a server sends nothing of
\* the next one while a commit is without its answer.
Part ==
    /\ inbox = NoFrame
    /\ client \in {"syncing", "in-sync"}
    /\ client' = "syncing"
    /\ UNCHANGED <<revision, content, server, net, link, asked, want, held, cut, inbox, refused,
                   faults, asks, fired>>

\* The commit of cut r has arrived: none before it on this stream is without an answer.
Commit(r) ==
    /\ Linked
    /\ inbox = NoFrame
    /\ inbox' = CutFrame(r)
    /\ client' = "syncing"
    /\ UNCHANGED <<revision, content, server, net, link, asked, want, held, cut, refused, faults,
                   asks, fired>>

\* A part of a cut was refused; the commit does not come before that is answered.
RefusePart ==
    /\ inbox = NoFrame
    /\ client = "syncing"
    /\ UNCHANGED vars

Explain(e) ==
    CASE e.action = "Dial" -> Dial
      [] e.action = "Expire" -> Expire
      [] e.action = "Fail" -> Fail
      [] e.action = "Connect" -> \E s \in Servers : Connect(s)
      [] e.action = "Break" -> \E late \in BOOLEAN : Break(late)
      [] e.action = "Stage" -> IF e.args.commit THEN Commit(Rank(e)) ELSE Part
      [] e.action = "Flip" -> Flip
      [] e.action = "Refuse" -> IF inbox = NoFrame THEN RefusePart ELSE Refuse

\* What it reports is what it enforces; or nothing, when it wants to be sent everything.
Observe(e) ==
    /\ client' = e.args.state
    /\ e.action = "Connect" => Rank(e) \in {cut, 0}

Hidden == FALSE
=============================================================================
