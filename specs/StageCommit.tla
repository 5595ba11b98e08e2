----------------------------- MODULE StageCommit -----------------------------
(***************************************************************************)
(* Stage and commit: how a server brings nodes from cut to cut.             *)
(*                                                                          *)
(* A cut is the content of all resources of a node's view at one revision:  *)
(* peer sets, rule sets, policies, bindings, addresses. What it means is a   *)
(* function of these contents, `Allowed`: who may talk to whom, by way of     *)
(* address, group, (number, birth), policy, rule set and peer set. The        *)
(* constants give a few fixed contents ("worlds") between which the cluster  *)
(* moves, back too, and what each is to mean, said without numbers (`Allows`).*)
(*                                                                          *)
(* The server's part is models/rollout.toml as reconciler/core/xds/rollout.py *)
(* runs it, one a node; the node's is models/cut.toml (core/dataplane/cut.py, *)
(* agent.py) above a kernel that flips in one step (NodeMaps refines that).   *)
(* Between them is a stream that keeps the order and may break, with all that *)
(* is on it, at any time.                                                   *)
(*                                                                          *)
(* Nonces stand for content: two responses that say the same have the same   *)
(* nonce, so the late answer to one counts for the other. That is why the    *)
(* root of a commit has to be checked.                                      *)
(*                                                                          *)
(* Time is left out: a grace is over when it pleases.                        *)
(***************************************************************************)
EXTENDS Naturals, Sequences, FiniteSets

CONSTANTS
    \* @type: Set(NODE);
    Nodes,
    \* @type: Set(Str);
    Keys,         \* names of resources
    \* @type: Str -> Str;
    TypeOf,       \* of each: "peers", "rules", "policies", "bindings", "addresses", "endpoints"
    \* @type: Str -> (Int -> $meaning);
    Says,         \* key -> version -> what the resource says
    \* @type: Str -> Str;
    ClosedBy,     \* rule set -> the one of its direction that drops everything
    \* @type: Set(Str);
    Worlds,
    \* @type: Str -> (Str -> Int);
    Content,      \* world -> key -> version; 0: there is none
    \* @type: Set($flow);
    Flows,        \* those that are looked at
    \* @type: Str -> Set($flow);
    Allows,       \* world -> those of them that it is to allow
    \* @type: Int;
    MaxRevision,  \* the most of any scenario
    \* @type: Set($scenario);
    Scenarios     \* what the search begins with, and its bounds

(* @typeAlias: meaning = {names: Set(Str), numbers: Set(Int), bound: Set($bound), number: Int,
                          birth: Int, group: Str};
   @typeAlias: bound = {group: Str, number: Int, birth: Int};
   @typeAlias: flow = {src: Str, dst: Str};
   @typeAlias: message = {kind: Str, type: Str, put: Str -> Int, rev: Int, key: Str};
   @typeAlias: cut = {rev: Int, has: Str -> Int};
   @typeAlias: cause = {key: Str, version: Int, rules: Set(Str)};
   @typeAlias: scenario = {history: Seq(Str), enforces: Int, moves: Set(<<Str, Str>>), revisions: Int,
                           faults: Int, kinds: Set(Str)};
   @typeAlias: row = {machine: Str, on: Str, from: Str, to: Str};
   @typeAlias: server = {newest: Int, rollout: Str, acked: $cut, target: $cut, waiting: Set($message),
                         stray: Set(Str), causes: Set($cause), refusal: $cause, due: Bool,
                         sends: Seq($message), rows: Set($row)};
   @typeAlias: agent = {state: Str, held: Str -> Int, known: Bool, preparing: Seq($message),
                        backlog: Seq($message), item: $message, synced: Bool, link: Str,
                        sends: Seq($message), rows: Set($row)}; *)
StageCommitAliases == TRUE

VARIABLES
    \* The worlds published at first, oldest first, and which of them the nodes enforce (0: they are new);
    \* which world may follow which; the most revisions and faults, and the kinds of faults; "reopen"
    \* (no fault): what is closed may be tried again.
    \* @type: $scenario;
    bounds,
    \* @type: Seq(Str);
    published, \* revision -> world
    \* @type: Int;
    revision,  \* the newest one
    \* The server, for each node
    \* @type: NODE -> Int;
    newest,    \* the revision that the server of this node has
    \* @type: NODE -> Str;
    rollout,   \* models/rollout.toml
    \* @type: NODE -> $cut;
    acked,     \* the last cut that the node reported or acknowledged; rev 0: not known
    \* @type: NODE -> $cut;
    target,    \* the cut that is under way; rev 0: none
    \* @type: NODE -> Set($message);
    waiting,   \* responses that are not answered
    \* @type: NODE -> Set(Str);
    stray,     \* keys of cuts given up that the node may have staged
    \* @type: NODE -> Set($cause);
    causes,    \* what was refused, and the rule sets that are closed for it
    \* @type: NODE -> $cause;
    refusal,   \* the last refusal, if it names a resource; not yet among `causes`
    \* @type: NODE -> Bool;
    due,       \* it is time to try again what is closed
    \* The stream
    \* @type: NODE -> Str;
    link,      \* "dead": there is no agent; "down", "up", "closing": the agent gives it up
    \* @type: NODE -> Seq($message);
    down,
    \* @type: NODE -> Seq($message);
    up,
    \* The agent
    \* @type: NODE -> Str;
    cutState,  \* models/cut.toml
    \* @type: NODE -> (Str -> Int);
    held,      \* what is in force with what is staged on top of it
    \* @type: NODE -> Bool;
    known,     \* the agent knows what is in force (else it came to pinned maps without a cache)
    \* @type: NODE -> Seq($message);
    preparing, \* responses that are being written
    \* @type: NODE -> Seq($message);
    backlog,   \* responses that wait until the maps can be staged into
    \* @type: NODE -> $message;
    item,      \* the commit under way
    \* @type: NODE -> Bool;
    synced,    \* the server has confirmed by a commit, on this stream, what the node enforces
    \* The kernel
    \* @type: NODE -> (Str -> Int);
    enforced,
    \* @type: NODE -> Int;
    cut,       \* the revision that it carries
    \* @type: NODE -> Bool;
    flipped,   \* it has flipped, the agent does not know yet
    \* @type: Int;
    faults,    \* so far (bounds the search)
    \* @type: Set($row);
    fired      \* rows of the machines that the last step took; on "": a new machine in place of the old

serverVars == <<newest, rollout, acked, target, waiting, stray, causes, refusal, due>>
linkVars == <<link, down, up>>
agentVars == <<cutState, held, known, preparing, backlog, item, synced>>
kernelVars == <<enforced, cut, flipped>>
publicVars == <<bounds, published, revision>>
vars == <<publicVars, serverVars, linkVars, agentVars, kernelVars, faults, fired>>

-----------------------------------------------------------------------------
(* What contents mean *)

Rules == {k \in Keys : TypeOf[k] = "rules"}
Closed == {ClosedBy[r] : r \in Rules}
Closable == Rules \ Closed
Order == <<"peers", "rules", "policies", "bindings", "addresses", "endpoints">>

\* @type: (Str -> Int, Str) => Set(Str);
There(has, type) == {k \in Keys : TypeOf[k] = type /\ has[k] # 0}

\* @type: (Str -> Int, Str) => $meaning;
Said(has, key) == Says[key][has[key]]

\* @type: (Str -> Int, Str) => Set($bound);
Identities(has, address) ==
    LET groups == {Said(has, k).group : k \in {a \in There(has, "addresses") : address \in Said(has, a).names}}
    IN {b \in UNION {Said(has, k).bound : k \in There(has, "bindings")} : b.group \in groups}

\* A policy is that of a number *and* its birth: a number that came back has nothing of its earlier one.
\* @type: (Str -> Int, $bound) => Set(Str);
RulesOf(has, identity) ==
    UNION {Said(has, k).names : k \in {p \in There(has, "policies") :
        Said(has, p).number = identity.number /\ Said(has, p).birth = identity.birth}}

\* @type: (Str -> Int, Str) => Set(Int);
Peers(has, rule) ==
    IF has[rule] = 0 THEN {}
    ELSE UNION {Said(has, p).numbers : p \in {q \in Said(has, rule).names : has[q] # 0}}

\* @type: (Str -> Int, $flow) => Bool;
Allowed(has, flow) ==
    \E peer \in Identities(has, flow.src), subject \in Identities(has, flow.dst) :
        \E rule \in RulesOf(has, subject) : peer.number \in Peers(has, rule)

\* The version of a policy that names rule sets that drop everything instead of some.
\* @type: (Str, Int, Set(Str)) => Int;
Closing(key, version, refused) ==
    LET names == {IF r \in refused THEN ClosedBy[r] ELSE r : r \in Says[key][version].names}
    IN CHOOSE v \in DOMAIN Says[key] : Says[key][v] = [Says[key][version] EXCEPT !.names = names]

\* What a node is served of a world when some rule sets are closed for it: policies that name one of
\* them name a closed one instead, and what nothing names any more is left out.
\* @type: (Str, Set(Str)) => (Str -> Int);
Served(world, refused) ==
    LET real == Content[world]
        policy == [k \in Keys |->
            IF TypeOf[k] = "policies" /\ real[k] # 0 THEN Closing(k, real[k], refused) ELSE real[k]]
        rules == UNION {Says[k][policy[k]].names : k \in There(real, "policies")}
        peers == UNION {Says[k][1].names : k \in rules}
    IN [k \in Keys |->
           CASE TypeOf[k] = "rules" -> IF k \in rules THEN 1 ELSE 0
             [] TypeOf[k] = "peers" -> IF k \in peers THEN real[k] ELSE 0
             [] TypeOf[k] = "policies" -> policy[k]
             [] OTHER -> real[k]]

Publishable == [w \in Worlds |-> {Served(w, c) : c \in SUBSET Closable}]
Views == [w \in Worlds |-> [c \in SUBSET Closable |-> Served(w, c)]]

\* @type: (Int, Set(Str)) => (Str -> Int);
View(rev, refused) == Views[published[rev]][refused]

Nothing == [k \in Keys |-> 0]

\* Two resources of one name are taken for the same when this is equal: a hash of all that they say.
\* @type: (Str, Int) => Set($meaning);
Version(key, number) == IF number = 0 THEN {} ELSE {Says[key][number]}

\* @type: (Str -> Int, Str -> Int) => Set(Str);
Differ(one, other) == {k \in Keys : Version(k, one[k]) # Version(k, other[k])}

\* Flows that a world is to allow on a node for which some rule sets are closed: but for those to a pod
\* whose rule set about peers is one of them.
\* @type: (Str, Set(Str)) => Set($flow);
Oracle(world, refused) ==
    {f \in Allows[world] : \A subject \in Identities(Content[world], f.dst) :
        \A rule \in RulesOf(Content[world], subject) \intersect refused : Says[rule][1].names = {}}

Oracles == [w \in Worlds |-> {Oracle(w, c) : c \in SUBSET Closable}]

-----------------------------------------------------------------------------
(* Messages *)

\* @type: (Str, Str, Str -> Int, Int, Str) => $message;
Message(kind, type, put, rev, key) ==
    [kind |-> kind, type |-> type, put |-> put, rev |-> rev, key |-> key]

None == Message("", "", Nothing, 0, "")
NoCut == [rev |-> 0, has |-> Nothing]
NoRefusal == [key |-> "", version |-> 0, rules |-> {}]

\* @type: (Str, Str, Str, Str) => $row;
Row(machine, on, from, to) == [machine |-> machine, on |-> on, from |-> from, to |-> to]
Rolls(on, from, to) == Row("rollout", on, from, to)
Cuts(on, from, to) == Row("cut", on, from, to)

\* One response a type, in the order of `Order`: what these keys are in a view.
\* @type: (Set(Str), Str -> Int) => Seq($message);
Responses(keys, view) ==
    LET of(type) == Message("stage", type, [k \in {q \in keys : TypeOf[q] = type} |-> view[k]], 0, "")
        all == <<of(Order[1]), of(Order[2]), of(Order[3]), of(Order[4]), of(Order[5]), of(Order[6])>>
        Some(m) == DOMAIN m.put # {}
    IN SelectSeq(all, Some)

\* @type: Seq($message) => Set($message);
Range(messages) == {messages[i] : i \in DOMAIN messages}

CommitOf(c) == Message("commit", "commit", c.has, c.rev, "")
Answer(kind, m, key) == Message(kind, m.type, m.put, m.rev, key)

\* What an answer is to: the nonce of a response is a hash of what it says.
\* @type: ($message, $message) => Bool;
Answers(answer, m) == answer.type = m.type /\ answer.put = m.put /\ answer.rev = m.rev

\* A cut of the agent's own, after a restart, is answered to nobody.
IsOwn(m) == m.type = "own"

-----------------------------------------------------------------------------
(* The server: one rollout a node. A step is a function of the rollout's part of the state. *)

\* @type: (NODE) => $server;
ServerOf(n) ==
    [newest |-> newest[n], rollout |-> rollout[n], acked |-> acked[n], target |-> target[n],
     waiting |-> waiting[n], stray |-> stray[n], causes |-> causes[n], refusal |-> refusal[n],
     due |-> due[n], sends |-> <<>>, rows |-> {}]

\* @type: (NODE, $server) => Bool;
SetServer(n, s) ==
    /\ newest' = [newest EXCEPT ![n] = s.newest]
    /\ rollout' = [rollout EXCEPT ![n] = s.rollout]
    /\ acked' = [acked EXCEPT ![n] = s.acked]
    /\ target' = [target EXCEPT ![n] = s.target]
    /\ waiting' = [waiting EXCEPT ![n] = s.waiting]
    /\ stray' = [stray EXCEPT ![n] = s.stray]
    /\ causes' = [causes EXCEPT ![n] = s.causes]
    /\ refusal' = [refusal EXCEPT ![n] = s.refusal]
    /\ due' = [due EXCEPT ![n] = s.due]

\* @type: ($server, Str, Str) => $server;
Goes(s, on, to) == [s EXCEPT !.rollout = to, !.rows = @ \union {Rolls(on, s.rollout, to)}]

\* @type: ($server) => Set(Str);
Refused(s) == UNION {c.rules : c \in s.causes}

\* What was refused is in the newest view still, as it was.
\* @type: ($server, $cause) => Bool;
Stands(s, cause) == View(s.newest, {})[cause.key] = cause.version

\* @type: ($server) => Bool;
StillRefused(s) == IF s.refusal.key = "" THEN s.causes # {} ELSE Stands(s, s.refusal)

\* The rule sets that a refusal leads to and that are not closed yet.
\* @type: ($server) => Set(Str);
Named(s) ==
    LET key == s.refusal.key
        view == View(s.newest, {})
        found ==
            IF key = "" THEN {}
            ELSE CASE TypeOf[key] = "rules" -> {key}
                   [] TypeOf[key] = "peers" -> {r \in There(view, "rules") : key \in Said(view, r).names}
                   [] TypeOf[key] = "policies" -> IF view[key] = 0 THEN {} ELSE Said(view, key).names
                   [] OTHER -> {}
    IN found \ (Refused(s) \union Closed)

\* @type: ($server) => $server;
Forgets(s) == [s EXCEPT !.causes = {}, !.refusal = NoRefusal, !.due = FALSE]

\* Everything is acknowledged: the commit.
\* @type: ($server) => $server;
SendsCommit(s) ==
    LET to == IF s.rollout = "staging" THEN "committing" ELSE "closed-committing"
    IN [Goes(s, "all_acked", to) EXCEPT !.waiting = {CommitOf(s.target)},
                                        !.sends = Append(@, CommitOf(s.target))]

\* The newest view is fixed as the next cut; sent is what differs from the last acknowledged one, and
\* what may be left over from cuts given up. A cut that differs in nothing is committed at once.
\* @type: ($server) => $server;
Begins(s) ==
    LET view == View(s.newest, Refused(s))
        sent == Responses(Differ(s.acked.has, view) \union s.stray, view)
        begun == [s EXCEPT !.target = [rev |-> s.newest, has |-> view], !.stray = {},
                           !.waiting = Range(sent), !.sends = @ \o sent]
    IN IF sent = <<>> THEN SendsCommit(begun) ELSE begun

\* Rule sets that are refused are closed; it is time to try again only after another while.
\* @type: ($server) => $server;
Closes(s) ==
    LET cause == [key |-> s.refusal.key, version |-> s.refusal.version, rules |-> Named(s)]
    IN [s EXCEPT !.causes = IF s.refusal.key = "" THEN @ ELSE {c \in @ : c.key # cause.key} \union {cause},
                 !.refusal = NoRefusal, !.due = FALSE]

\* Towards the newest view, from a state in which nothing is under way. A report is always answered by
\* a commit, be it of what the node enforces already: that is how it knows that it is in sync.
\* @type: ($server, Bool) => $server;
Advances(old, reported) ==
    LET s == IF old.rollout = "closed-fallback"
             THEN [old EXCEPT !.causes = {c \in @ : Stands(old, c)}] ELSE old
        view == View(s.newest, Refused(s))
        settled == s.rollout = "current" \/ (s.rollout = "closed-fallback" /\ s.causes # {})
        equal == settled /\ s.acked.rev > 0 /\ Differ(s.acked.has, view) = {}
        now == IF equal THEN [s EXCEPT !.acked = [rev |-> s.newest, has |-> view]] ELSE s
    IN CASE equal /\ ~reported -> now
         [] s.rollout = "current" /\ ~(equal /\ ~reported) -> Begins(Goes(now, "view_changed", "staging"))
         [] s.rollout = "held" /\ StillRefused(s) -> Goes(s, "view_changed", "held")
         [] s.rollout = "held" /\ ~StillRefused(s) -> Begins(Forgets(Goes(s, "view_changed", "staging")))
         [] s.rollout = "closed-fallback" /\ ~(equal /\ ~reported) ->
                IF StillRefused(s)
                THEN Begins(Closes(Goes(now, "view_changed", "closed-staging")))
                ELSE Begins(Forgets(Goes(now, "view_changed", "staging")))
         [] OTHER -> s

Publish(world) ==
    /\ revision < bounds.revisions
    /\ <<published[revision], world>> \in bounds.moves
    /\ revision' = revision + 1
    /\ published' = Append(published, world)
    /\ fired' = {}
    /\ UNCHANGED <<bounds, serverVars, linkVars, agentVars, kernelVars, faults>>

\* The server that the node has its stream to is at one more revision.
\* @type: ($server) => $server;
Hears(s) ==
    CASE s.rollout = "ahead" /\ s.acked.rev <= s.newest -> Advances(Goes(s, "caught_up", "current"), TRUE)
      [] s.rollout \in {"current", "held", "closed-fallback"} -> Advances(s, FALSE)
      [] OTHER -> Goes(s, "view_changed", s.rollout)

Hear(n) ==
    /\ newest[n] < revision
    /\ LET s == Hears([ServerOf(n) EXCEPT !.newest = @ + 1])
       IN /\ SetServer(n, s)
          /\ down' = [down EXCEPT ![n] = @ \o s.sends]
          /\ fired' = s.rows
    /\ UNCHANGED <<publicVars, link, up, agentVars, kernelVars, faults>>

\* The node says what it enforces, on a new stream.
\* @type: ($server, $message) => $server;
Reported(s, m) ==
    LET said == [s EXCEPT !.acked = [rev |-> m.rev, has |-> m.put]]
        kept == IF s.due THEN Forgets(said) ELSE said
    IN IF m.rev > s.newest THEN Goes(Forgets(said), "report_ahead", "ahead")
       ELSE IF kept.causes = {} THEN Advances(Goes(kept, "report", "current"), TRUE)
       ELSE Advances(Goes(kept, "report_closed", "closed-fallback"), TRUE)

\* @type: ($server, $message) => Set($message);
Unanswered(s, m) == {w \in s.waiting : ~Answers(m, w)}

\* @type: ($server, $message) => $server;
Acknowledged(s, m) ==
    LET left == [s EXCEPT !.waiting = Unanswered(s, m)]
        to == IF s.rollout = "committing" THEN "current" ELSE "closed-fallback"
    IN IF left.waiting # {} THEN left
       ELSE IF m.kind = "ack" /\ m.type # "commit" THEN SendsCommit(left)
       ELSE Advances([Goes(left, "commit_acked", to) EXCEPT !.acked = s.target, !.target = NoCut], FALSE)

\* The cut is given up whole. What is not answered yet may be staged all the same.
\* @type: ($server, $message) => $server;
Nacked(s, m) ==
    LET left == Unanswered(s, m)
        names == m.key # "" /\ s.target.has[m.key] # 0
        refused == IF names THEN [key |-> m.key, version |-> s.target.has[m.key], rules |-> {}] ELSE NoRefusal
    IN [Goes(s, "nack", "held") EXCEPT
            !.refusal = refused, !.target = NoCut, !.waiting = {},
            !.stray = @ \union UNION {DOMAIN w.put : w \in {v \in left : v.kind = "stage"}}]

\* @type: ($server, $message) => $server;
Receives(s, m) ==
    CASE m.kind = "report" -> Reported(s, m)
      [] m.kind # "report" /\ Unanswered(s, m) = s.waiting -> s  \* to a cut that was given up
      [] m.kind = "ack" /\ Unanswered(s, m) # s.waiting -> Acknowledged(s, m)
      [] m.kind = "nack" /\ Unanswered(s, m) # s.waiting -> Nacked(s, m)

ServerReceives(n) ==
    /\ up[n] # <<>>
    /\ LET s == Receives(ServerOf(n), Head(up[n]))
       IN /\ SetServer(n, s)
          /\ up' = [up EXCEPT ![n] = Tail(@)]
          /\ down' = [down EXCEPT ![n] = @ \o s.sends]
          /\ fired' = s.rows
    /\ UNCHANGED <<publicVars, link, agentVars, kernelVars, faults>>

\* The grace after a refusal is over: the rule set that it leads to is closed, everything else goes on.
GraceOver(n) ==
    /\ rollout[n] = "held"
    /\ Named(ServerOf(n)) # {}
    /\ LET s == Begins(Closes(Goes(ServerOf(n), "grace_over", "closed-staging")))
       IN /\ SetServer(n, s)
          /\ down' = [down EXCEPT ![n] = @ \o s.sends]
          /\ fired' = s.rows
    /\ UNCHANGED <<publicVars, link, up, agentVars, kernelVars, faults>>

\* It has been closed for long.
ReopenDue(n) ==
    /\ "reopen" \in bounds.kinds
    /\ causes[n] # {}
    /\ ~due[n]
    /\ due' = [due EXCEPT ![n] = TRUE]
    /\ fired' = {}
    /\ UNCHANGED <<publicVars, newest, rollout, acked, target, waiting, stray, causes, refusal,
                   linkVars, agentVars, kernelVars, faults>>

\* From time to time what was refused is tried again: the node may have room now.
Reopen(n) ==
    /\ rollout[n] = "closed-fallback"
    /\ due[n]
    /\ LET s == Begins(Goes(Forgets(ServerOf(n)), "retry", "staging"))
       IN /\ SetServer(n, s)
          /\ down' = [down EXCEPT ![n] = @ \o s.sends]
          /\ fired' = s.rows
    /\ UNCHANGED <<publicVars, link, up, agentVars, kernelVars, faults>>

\* A stream that ends: what the node is believed to enforce stays, be it old.
\* @type: ($server) => $server;
Disconnected(s) ==
    [Goes(s, "disconnect", "absent") EXCEPT
        !.target = NoCut, !.waiting = {}, !.stray = {}, !.refusal = NoRefusal]

-----------------------------------------------------------------------------
(* The agent: its cut machine. A step is a function of the agent's part of the state. *)

Ready == {"current", "staging", "staged"}

\* @type: (NODE) => $agent;
AgentOf(n) ==
    [state |-> cutState[n], held |-> held[n], known |-> known[n], preparing |-> preparing[n],
     backlog |-> backlog[n], item |-> item[n], synced |-> synced[n], link |-> link[n],
     sends |-> <<>>, rows |-> {}]

\* @type: (NODE, $agent) => Bool;
SetAgent(n, a) ==
    /\ cutState' = [cutState EXCEPT ![n] = a.state]
    /\ held' = [held EXCEPT ![n] = a.held]
    /\ known' = [known EXCEPT ![n] = a.known]
    /\ preparing' = [preparing EXCEPT ![n] = a.preparing]
    /\ backlog' = [backlog EXCEPT ![n] = a.backlog]
    /\ item' = [item EXCEPT ![n] = a.item]
    /\ synced' = [synced EXCEPT ![n] = a.synced]

\* @type: ($agent, Str, Str) => $agent;
Turns(a, on, to) == [a EXCEPT !.state = to, !.rows = @ \union {Cuts(on, a.state, to)}]

\* Answers are sent while the stream is there, and nobody waits for those of an own cut.
\* @type: ($agent, Seq($message)) => $agent;
Replies(a, answers) ==
    LET Due(m) == ~IsOwn(m)
    IN IF a.link = "up" THEN [a EXCEPT !.sends = @ \o SelectSeq(answers, Due)] ELSE a

\* What taking a staging back leads to.
\* @type: (NODE, $agent) => (Str -> Int);
Base(n, a) == IF a.known THEN enforced[n] ELSE Nothing

\* @type: (Str -> Int, Seq($message)) => (Str -> Int);
Overlaid(has, messages) ==
    [k \in Keys |->
        LET there == {i \in DOMAIN messages : k \in DOMAIN messages[i].put}
        IN IF there = {} THEN has[k]
           ELSE LET last == CHOOSE i \in there : \A j \in there : j <= i
                IN messages[last].put[k]]

\* @type: ($agent, Seq($message)) => $agent;
Prepares(a, messages) ==
    [a EXCEPT !.held = Overlaid(@, messages), !.preparing = @ \o messages]

\* What is prepared, on top of what is in force, is what the commit names.
\* @type: (NODE, $agent, $message) => Bool;
RootMatches(n, a, m) == Differ(a.held, m.put) = {} /\ m.rev >= cut[n]

\* A commit, in a state in which nothing is being prepared. Where the root differs, the stream is opened anew.
\* @type: (NODE, $agent, $message) => $agent;
TakesCommit(n, a, m) ==
    IF RootMatches(n, a, m)
    THEN [Turns(a, "commit", "flipping") EXCEPT !.item = m]
    ELSE LET refused == Replies(Turns(a, "commit", "rolled-back"), <<Answer("nack", m, "")>>)
         IN [refused EXCEPT !.held = Base(n, a), !.link = IF @ = "up" THEN "closing" ELSE @]

\* Goes on with what waits, as far as the state allows: responses until the first commit, or that commit.
\* @type: (NODE, $agent) => $agent;
Drains(n, a) ==
    LET q == a.backlog
        commits == {i \in DOMAIN q : q[i].kind = "commit"}
        count == IF commits = {} THEN Len(q) ELSE (CHOOSE i \in commits : \A j \in commits : i <= j) - 1
        first == SubSeq(q, 1, count)
        rows == {Cuts("stage", a.state, "staging")} \union
                (IF count > 1 THEN {Cuts("stage", "staging", "staging")} ELSE {})
    IN CASE a.state \in Ready /\ count > 0 ->
              [Prepares(a, first) EXCEPT !.state = "staging", !.rows = @ \union rows,
                                         !.backlog = SubSeq(q, count + 1, Len(q))]
         [] a.state \in {"current", "staged"} /\ count = 0 /\ q # <<>> ->
              TakesCommit(n, [a EXCEPT !.backlog = Tail(q)], Head(q))
         [] OTHER -> a

\* Responses came while the maps could not be staged into: the first of them is prepared at once.
\* @type: (NODE, $agent, Str) => $agent;
GoesOn(n, a, on) ==
    IF a.backlog # <<>> /\ Head(a.backlog).kind = "stage"
    THEN LET next == [Prepares(Turns(a, on, "staging"), <<Head(a.backlog)>>) EXCEPT !.backlog = Tail(a.backlog)]
         IN Drains(n, next)
    ELSE Drains(n, Turns(a, on, "current"))

Offered(n, a, m, on) ==
    IF a.backlog # <<>> THEN [a EXCEPT !.backlog = Append(@, m)]
    ELSE [Turns(a, on, a.state) EXCEPT !.backlog = <<m>>]

\* A response arrives.
Stage(n) ==
    /\ link[n] = "up"
    /\ down[n] # <<>>
    /\ Head(down[n]).kind = "stage"
    /\ LET m == Head(down[n])
           a == AgentOf(n)
           after ==
               IF a.backlog = <<>> /\ a.state \in Ready
               THEN Prepares(Turns(a, "stage", "staging"), <<m>>)
               ELSE Offered(n, a, m, "stage")
       IN /\ SetAgent(n, after)
          /\ down' = [down EXCEPT ![n] = Tail(@)]
          /\ fired' = after.rows
    /\ UNCHANGED <<publicVars, serverVars, link, up, kernelVars, faults>>

\* A commit arrives.
TakeCommit(n) ==
    /\ link[n] = "up"
    /\ down[n] # <<>>
    /\ Head(down[n]).kind = "commit"
    /\ LET m == Head(down[n])
           a == AgentOf(n)
           after ==
               IF a.backlog = <<>> /\ a.state \in {"current", "staged"}
               THEN TakesCommit(n, a, m)
               ELSE Offered(n, a, m, "commit")
       IN /\ SetAgent(n, after)
          /\ link' = [link EXCEPT ![n] = after.link]
          /\ up' = [up EXCEPT ![n] = @ \o after.sends]
          /\ down' = [down EXCEPT ![n] = Tail(@)]
          /\ fired' = after.rows
    /\ UNCHANGED <<publicVars, serverVars, kernelVars, faults>>

\* @type: (NODE, $agent) => Bool;
AgentSteps(n, a) ==
    /\ SetAgent(n, a)
    /\ link' = [link EXCEPT ![n] = a.link]
    /\ up' = [up EXCEPT ![n] = @ \o a.sends]
    /\ fired' = a.rows
    /\ UNCHANGED <<publicVars, serverVars, down>>

\* The kernel has written the oldest of the responses: it is acknowledged.
Prepared(n) ==
    /\ cutState[n] = "staging"
    /\ LET a == AgentOf(n)
           to == IF Len(a.preparing) > 1 THEN "staging" ELSE "staged"
           next == [Turns(a, "prepared", to) EXCEPT !.preparing = Tail(@)]
       IN AgentSteps(n, Drains(n, Replies(next, <<Answer("ack", Head(a.preparing), "")>>)))
    /\ UNCHANGED <<kernelVars, faults>>

\* @type: (Str) => Bool;
Fault(kind) ==
    /\ kind \in bounds.kinds
    /\ faults < bounds.faults
    /\ faults' = faults + 1

\* The resource that a refusal names: the only one of the response.
\* @type: ($message) => Str;
Culprit(m) == IF Cardinality(DOMAIN m.put) = 1 THEN CHOOSE k \in DOMAIN m.put : TRUE ELSE ""

\* It can't: a map is full, a write fails. What is staged is taken back as a whole.
Refuse(n) ==
    /\ Fault("refuse")
    /\ cutState[n] = "staging"
    /\ LET a == AgentOf(n)
           No(i) == Answer("nack", a.preparing[i], Culprit(Head(a.preparing)))
           next == Replies(Turns(a, "prepare_failed", "rolled-back"), [i \in DOMAIN a.preparing |-> No(i)])
       IN AgentSteps(n, [next EXCEPT !.preparing = <<>>, !.held = Base(n, a)])
    /\ UNCHANGED kernelVars

\* The one word is written: from here on each packet meets the new cut.
KernelFlips(n) ==
    /\ cutState[n] = "flipping"
    /\ ~flipped[n]
    /\ enforced' = [enforced EXCEPT ![n] = held[n]]
    /\ cut' = [cut EXCEPT ![n] = item[n].rev]
    /\ flipped' = [flipped EXCEPT ![n] = TRUE]
    /\ fired' = {}
    /\ UNCHANGED <<publicVars, serverVars, linkVars, agentVars, faults>>

\* The agent hears of it: the commit is acknowledged, and cleaning begins.
Flipped(n) ==
    /\ cutState[n] = "flipping"
    /\ flipped[n]
    /\ flipped' = [flipped EXCEPT ![n] = FALSE]
    /\ LET a == AgentOf(n)
           next == Turns(Turns(a, "flipped", "committed"), "clean_due", "cleaning")
       IN AgentSteps(n, [Replies(next, <<Answer("ack", a.item, "")>>) EXCEPT
                             !.known = TRUE, !.item = None,
                             !.synced = @ \/ (a.link = "up" /\ ~IsOwn(a.item))])
    /\ UNCHANGED <<enforced, cut, faults>>

FlipFailed(n) ==
    /\ Fault("flip")
    /\ cutState[n] = "flipping"
    /\ ~flipped[n]
    /\ LET a == AgentOf(n)
           next == Replies(Turns(a, "flip_failed", "rolled-back"), <<Answer("nack", a.item, "")>>)
       IN AgentSteps(n, [next EXCEPT !.item = None, !.held = Base(n, a)])
    /\ UNCHANGED kernelVars

CleanFailed(n) ==
    /\ Fault("clean")
    /\ cutState[n] = "cleaning"
    /\ AgentSteps(n, Turns(AgentOf(n), "clean_failed", "committed"))
    /\ UNCHANGED kernelVars

CleanAgain(n) ==
    /\ cutState[n] = "committed"
    /\ AgentSteps(n, Turns(AgentOf(n), "clean_due", "cleaning"))
    /\ UNCHANGED <<kernelVars, faults>>

Cleaned(n) ==
    /\ cutState[n] = "cleaning"
    /\ AgentSteps(n, GoesOn(n, AgentOf(n), "cleaned"))
    /\ UNCHANGED <<kernelVars, faults>>

RollBackFailed(n) ==
    /\ Fault("undo")
    /\ cutState[n] = "rolled-back"
    /\ AgentSteps(n, Turns(AgentOf(n), "roll_back_failed", "rolled-back"))
    /\ UNCHANGED kernelVars

Undone(n) ==
    /\ cutState[n] = "rolled-back"
    /\ AgentSteps(n, GoesOn(n, AgentOf(n), "undone"))
    /\ UNCHANGED <<kernelVars, faults>>

\* The agent's end of a stream that is over: what came on it is gone; a flip can't be called back.
\* @type: (NODE, $agent) => $agent;
Discards(n, a) ==
    LET dropped == [a EXCEPT !.backlog = <<>>, !.preparing = <<>>, !.link = "down"]
    IN CASE a.state \in {"staging", "staged"} ->
              [Turns(dropped, "discard", "rolled-back") EXCEPT !.held = Base(n, a)]
         [] a.state = "flipping" ->
              [Turns(dropped, "discard", "flipping") EXCEPT !.item = Message("commit", "own", @.put, @.rev, "")]
         [] OTHER -> Turns(dropped, "discard", a.state)

\* The agent opens a stream and says what the kernel enforces, never what was staged; nothing, if it
\* does not know. It waits until a flip or a taking back is over, and its own cut in force.
Connect(n) ==
    /\ link[n] = "down"
    /\ cutState[n] \in {"current", "committed", "cleaning"}
    /\ link' = [link EXCEPT ![n] = "up"]
    /\ LET said == IF known[n] THEN Message("report", "", enforced[n], cut[n], "")
                   ELSE Message("report", "", Nothing, 0, "")
       IN up' = [up EXCEPT ![n] = <<said>>]
    /\ synced' = [synced EXCEPT ![n] = FALSE]
    /\ fired' = {}
    /\ UNCHANGED <<publicVars, serverVars, down, cutState, held, known, preparing, backlog, item,
                   kernelVars, faults>>

-----------------------------------------------------------------------------
(* Ends *)

\* Both ends of the stream are gone, with what is on it.
\* @type: (NODE, $server, $agent) => Bool;
StreamEnds(n, s, a) ==
    /\ SetServer(n, s)
    /\ SetAgent(n, a)
    /\ link' = [link EXCEPT ![n] = a.link]
    /\ down' = [down EXCEPT ![n] = <<>>]
    /\ up' = [up EXCEPT ![n] = <<>>]
    /\ fired' = s.rows \union a.rows
    /\ UNCHANGED publicVars

\* The network breaks it, or the agent gives it up, after a commit whose root differed.
Break(n) ==
    /\ IF link[n] = "closing" THEN UNCHANGED faults ELSE link[n] = "up" /\ Fault("break")
    /\ StreamEnds(n, Disconnected(ServerOf(n)), Discards(n, AgentOf(n)))
    /\ UNCHANGED kernelVars

\* After a refusal that leads to nothing that can be closed: the node is made to start anew.
Retry(n) ==
    /\ rollout[n] = "held"
    /\ Named(ServerOf(n)) = {}
    /\ StreamEnds(n, Disconnected(Goes(ServerOf(n), "retry", "absent")), Discards(n, AgentOf(n)))
    /\ UNCHANGED <<kernelVars, faults>>

\* The agent dies (its stream breaks first); the kernel goes on.
Crash(n) ==
    /\ Fault("crash")
    /\ link[n] = "down"
    /\ LET gone == [AgentOf(n) EXCEPT !.state = "current", !.held = Nothing, !.known = FALSE,
                        !.preparing = <<>>, !.backlog = <<>>, !.item = None, !.synced = FALSE,
                        !.link = "dead", !.rows = {Cuts("", "", "current")}]
       IN AgentSteps(n, gone)
    /\ flipped' = [flipped EXCEPT ![n] = FALSE]
    /\ UNCHANGED <<enforced, cut>>

\* It starts. With a cache it stages the cut in force as one of its own and flips to it; without one
\* that cut stays, unknown.
Start(n, cached) ==
    /\ link[n] = "dead"
    /\ LET own == Message("stage", "own", enforced[n], 0, "")
           commit == Message("commit", "own", enforced[n], cut[n], "")
           up0 == [AgentOf(n) EXCEPT !.link = "down", !.known = (cut[n] = 0)]
           a == IF cached /\ cut[n] > 0
                THEN Offered(n, Prepares(Turns(up0, "stage", "staging"), <<own>>), commit, "commit")
                ELSE up0
       IN /\ cut[n] = 0 => ~cached
          /\ AgentSteps(n, a)
    /\ UNCHANGED <<kernelVars, faults>>

\* Another server takes over, or the agent turns to another replica (the stream breaks first): it
\* knows nothing of the node, and may have an older revision.
Failover(n, rev) ==
    /\ Fault("failover")
    /\ link[n] \in {"down", "dead"}
    /\ rev <= newest[n]
    /\ SetServer(n, [ServerOf(n) EXCEPT
           !.newest = rev, !.rollout = "absent", !.acked = NoCut, !.target = NoCut, !.waiting = {},
           !.stray = {}, !.causes = {}, !.refusal = NoRefusal, !.due = FALSE])
    /\ fired' = {Rolls("", "", "absent")}
    /\ UNCHANGED <<publicVars, linkVars, agentVars, kernelVars>>

-----------------------------------------------------------------------------
Init ==
    /\ bounds \in Scenarios
    /\ published = bounds.history
    /\ revision = Len(bounds.history)
    /\ newest = [n \in Nodes |-> Len(bounds.history)]
    /\ rollout = [n \in Nodes |-> "absent"]
    /\ acked = [n \in Nodes |-> NoCut]
    /\ target = [n \in Nodes |-> NoCut]
    /\ waiting = [n \in Nodes |-> {}]
    /\ stray = [n \in Nodes |-> {}]
    /\ causes = [n \in Nodes |-> {}]
    /\ refusal = [n \in Nodes |-> NoRefusal]
    /\ due = [n \in Nodes |-> FALSE]
    /\ link = [n \in Nodes |-> "down"]
    /\ down = [n \in Nodes |-> <<>>]
    /\ up = [n \in Nodes |-> <<>>]
    /\ cutState = [n \in Nodes |-> "current"]
    /\ enforced = [n \in Nodes |-> 
           IF bounds.enforces = 0 THEN Nothing ELSE Views[bounds.history[bounds.enforces]][{}]]
    /\ held = enforced
    /\ known = [n \in Nodes |-> TRUE]
    /\ preparing = [n \in Nodes |-> <<>>]
    /\ backlog = [n \in Nodes |-> <<>>]
    /\ item = [n \in Nodes |-> None]
    /\ synced = [n \in Nodes |-> FALSE]
    /\ cut = [n \in Nodes |-> bounds.enforces]
    /\ flipped = [n \in Nodes |-> FALSE]
    /\ faults = 0
    /\ fired = {}

Next ==
    \/ \E world \in Worlds : Publish(world)
    \/ \E n \in Nodes : Hear(n)
    \/ \E n \in Nodes : ServerReceives(n)
    \/ \E n \in Nodes : GraceOver(n)
    \/ \E n \in Nodes : ReopenDue(n)
    \/ \E n \in Nodes : Reopen(n)
    \/ \E n \in Nodes : Retry(n)
    \/ \E n \in Nodes : Connect(n)
    \/ \E n \in Nodes : Stage(n)
    \/ \E n \in Nodes : TakeCommit(n)
    \/ \E n \in Nodes : Prepared(n)
    \/ \E n \in Nodes : Refuse(n)
    \/ \E n \in Nodes : KernelFlips(n)
    \/ \E n \in Nodes : Flipped(n)
    \/ \E n \in Nodes : FlipFailed(n)
    \/ \E n \in Nodes : CleanFailed(n)
    \/ \E n \in Nodes : CleanAgain(n)
    \/ \E n \in Nodes : Cleaned(n)
    \/ \E n \in Nodes : RollBackFailed(n)
    \/ \E n \in Nodes : Undone(n)
    \/ \E n \in Nodes : Break(n)
    \/ \E n \in Nodes : Crash(n)
    \/ \E n \in Nodes, cached \in BOOLEAN : Start(n, cached)
    \/ \E n \in Nodes, rev \in 1..MaxRevision : Failover(n, rev)

\* What a node and its server do by themselves can go on: the guards of these actions. (ENABLED would say
\* the same, and takes TLC for ever.)
CanGoOn(n) ==
    \/ up[n] # <<>>
    \/ rollout[n] = "held"                                                \* GraceOver or Retry
    \/ causes[n] # {} /\ ~due[n] /\ "reopen" \in bounds.kinds            \* ReopenDue
    \/ due[n] /\ rollout[n] = "closed-fallback"                           \* Reopen
    \/ link[n] = "down" /\ cutState[n] \in {"current", "committed", "cleaning"}
    \/ link[n] = "up" /\ down[n] # <<>>
    \/ cutState[n] \in {"staging", "flipping", "committed", "cleaning", "rolled-back"}
    \/ link[n] \in {"closing", "dead"}

StateOf(n) ==
    <<rollout[n], acked[n], target[n], waiting[n], stray[n], causes[n], refusal[n], due[n], link[n],
      down[n], up[n], cutState[n], held[n], known[n], preparing[n], backlog[n], item[n], synced[n],
      enforced[n], cut[n], flipped[n]>>

\* A step of a node or its server that is no fault and brings no newer revision.
GoesOnItself(n) == StateOf(n)' # StateOf(n) /\ newest'[n] = newest[n] /\ faults' = faults
HearsOfIt(n) == newest'[n] > newest[n]

\* Weak fairness of all that happens by itself, and of `Hear`.
Fair(n) ==
    /\ []<>(~CanGoOn(n)) \/ []<><<GoesOnItself(n)>>_vars
    /\ []<>(newest[n] = revision) \/ []<><<HearsOfIt(n)>>_vars

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ \A n \in Nodes : Fair(n)

-----------------------------------------------------------------------------
(* What holds *)

\* What may be published of a revision: the view, with any rule sets closed.
\* @type: (Str -> Int, Int) => Bool;
IsCut(has, rev) == has \in Publishable[published[rev]]

\* R3: a node enforces exactly one published cut as a whole, the one that its kernel names.
OneCut == \A n \in Nodes : IF cut[n] = 0 THEN enforced[n] = Nothing ELSE IsCut(enforced[n], cut[n])

\* R2, R3: every verdict is what the cluster's objects of that revision mean, whatever numbers meant
\* before; rule sets that are closed for the node allow nothing.
OneVerdict == \A n \in Nodes : cut[n] > 0 =>
    LET allowed == {f \in Flows : Allowed(enforced[n], f)}
    IN allowed \in Oracles[published[cut[n]]]

\* R6: what the server believes committed is what the kernel enforces, or older.
BeliefIsPast == \A n \in Nodes : acked[n].rev <= cut[n] \/ acked[n].has = enforced[n]

\* R2: a number that no cut from the acknowledged one on uses is in nothing that the node enforces.
UseIsKnown == \A n \in Nodes : acked[n].rev > 0 =>
    \E r \in DOMAIN published : r >= acked[n].rev /\ IsCut(enforced[n], r)

\* The agent knows what it stages on.
HeldIsBase == \A n \in Nodes :
    (cutState[n] \in {"current", "committed", "cleaning", "rolled-back"} /\ known[n]) => held[n] = enforced[n]

\* R6: the cuts of one node never go back.
NeverBack == [][\A n \in Nodes : cut'[n] >= cut[n]]_cut

\* R4: a flow that a node allows stops only in the step to a cut that does not allow it.
MakeBeforeBreak == [][\A n \in Nodes : enforced'[n] # enforced[n] =>
    \A f \in Flows : (Allowed(enforced[n], f) /\ ~Allowed(enforced'[n], f)) =>
        IsCut(enforced'[n], cut'[n]) /\ \E o \in Oracles[published[cut'[n]]] : f \notin o]_enforced

\* R7: when nothing more is published or goes wrong, every node comes to enforce the newest view, with
\* nothing closed, and hears from its server that it does.
Converges == \A n \in Nodes : <>[](enforced[n] = View(revision, {}) /\ synced[n])

Shape ==
    /\ \A n \in Nodes : rollout[n] \in {"absent", "ahead", "current", "staging", "committing", "held",
           "closed-staging", "closed-committing", "closed-fallback"}
    /\ \A n \in Nodes : cutState[n] \in {"current", "staging", "staged", "flipping", "committed",
           "cleaning", "rolled-back"}
    /\ \A n \in Nodes : link[n] \in {"dead", "down", "up", "closing"}
=============================================================================
