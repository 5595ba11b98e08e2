------------------------------ MODULE XdsStream ------------------------------
(***************************************************************************)
(* One client and the server replicas that it may connect to, over delta    *)
(* xDS as this product speaks it. One stream carries types of two kinds:     *)
(*                                                                          *)
(*   "cut"     served whole, one frame a revision (the staging of a cut and  *)
(*             its commit are StageCommit's). A report of what the client    *)
(*             enforces is always answered; a replica that is behind it      *)
(*             waits; one frame is under way at a time.                      *)
(*   "labels"  served as they change, by name or by wildcard, pipelined,     *)
(*             with removals, names that do not exist, and what the client   *)
(*             has from the stream before.                                   *)
(*                                                                          *)
(* Versions are hashes of content, so they come back. So are nonces: a frame *)
(* is its own nonce. The two ends of a stream close one after the other:     *)
(* frames on their way to an end that has left are lost, the end that is     *)
(* still there reads on until it notices.                                    *)
(*                                                                          *)
(* Kept out: flow control, the split of a large response, what a cut holds.  *)
(***************************************************************************)
EXTENDS Integers, Sequences, FiniteSets

CONSTANTS
    \* @type: Set(SERVER);
    Servers,
    \* @type: Seq(NAME);
    NameOrder,      \* names of labels, at most three, in the order in which they are sent
    \* @type: NAME;
    Star,           \* the wildcard; as a key of `content` it stands for the cut
    \* @type: Int;
    Versions,       \* contents that each resource may have
    \* @type: Int;
    MaxRevision,
    \* @type: Int;
    MaxStreams,     \* streams that there can be: one more than faults
    \* @type: Int;
    MaxFaults,      \* breaks, crashes, failed attempts, NACKs, answers to nothing
    \* @type: Int;
    MaxAsks,        \* changes of the subscription
    \* @type: Set(NAME);
    Edited,         \* what is ever edited; the wildcard stands for the cut
    \* @type: Set({wild: Bool, names: Set(NAME)});
    Begins          \* what the client may want at first

VARIABLES
    \* @type: Int;
    revision,   \* the newest one that there is
    \* @type: Int -> (NAME -> Int);
    content,    \* revision -> resource -> version, 0 for none: what a revision means
    \* @type: SERVER -> Int;
    loaded,     \* revision that a replica has; 0: it has just started
    \* @type: SERVER -> Int;
    serving,    \* server: the stream that it holds open, 0 for none
    \* @type: Int -> (Str -> Str);
    stream,     \* server: models/stream.toml, per stream and type
    \* @type: SERVER -> (Str -> Seq({type: Str, rev: Int, body: NAME -> Int}));
    open,       \* server: nonces that are not answered, oldest first
    \* @type: SERVER -> {wild: Bool, names: Set(NAME)};
    sub,        \* server: what the client asked for of labels
    \* @type: SERVER -> (NAME -> Int);
    known,      \* server: what the client was sent of labels
    \* @type: SERVER -> Str;
    rollout,    \* server: "absent", "ahead", "current", "committing" or "held"
    \* @type: SERVER -> Int;
    acked,      \* server: revision of the cut that the client is believed to enforce
    \* @type: SERVER -> Int;
    target,     \* server: revision of the cut under way, 0 for none
    \* @type: Int -> Seq({type: Str, rev: Int, body: NAME -> Int});
    down,       \* stream -> frames on their way to the client
    \* @type: Int -> Seq({kind: Str, type: Str, nonce: {type: Str, rev: Int, body: NAME -> Int}, add: Set(NAME), drop: Set(NAME), initial: NAME -> Int, rev: Int});
    up,         \* stream -> requests on their way to a server
    \* @type: Int;
    opened,     \* streams so far: they are numbered from 1
    \* @type: Str;
    client,     \* client: models/client.toml
    \* @type: Int;
    link,       \* client: the stream that it holds open, 0 for none
    \* @type: Bool;
    asked,      \* client: it has subscribed to labels on this stream
    \* @type: {wild: Bool, names: Set(NAME)};
    want,       \* client: what it wants of labels
    \* @type: NAME -> Int;
    held,       \* client: what it has of labels
    \* @type: Int;
    cut,        \* client: revision of the cut that it enforces, 0 for none; outlives the process
    \* @type: {type: Str, rev: Int, body: NAME -> Int};
    inbox,      \* client: the response of type "cut" that it is working on
    \* @type: Set(<<NAME, Int>>);
    refused,    \* contents that the client refused alone, and has not got since
    \* @type: Int;
    faults,     \* so far
    \* @type: Int;
    asks,       \* so far
    \* @type: Set({machine: Str, on: Str, from: Str, to: Str});
    fired

server == <<loaded, serving, stream, open, sub, known, rollout, acked, target>>
net == <<down, up, opened>>
agent == <<client, link, asked, want, held, cut, inbox, refused>>
vars == <<revision, content, server, net, agent, faults, asks, fired>>

Names == {NameOrder[i] : i \in DOMAIN NameOrder}
Types == {"cut", "labels"}
Streams == 1..MaxStreams

Unknown == -1    \* of a name: nothing was said
Absent == 0      \* of a name: it does not exist
Nothing == [n \in Names |-> Unknown]
Nobody == [wild |-> FALSE, names |-> {}]

NoFrame == [type |-> "none", rev |-> 0, body |-> Nothing]
CutFrame(r) == [type |-> "cut", rev |-> r, body |-> Nothing]
LabelsFrame(body) == [type |-> "labels", rev |-> 0, body |-> body]

\* A nonce stands for what the frame says, on any stream of any server.
Nonce(frame) == [type |-> frame.type, rev |-> frame.rev, body |-> frame.body]

Request(kind, type, nonce, add, drop, initial, rev) ==
    [kind |-> kind, type |-> type, nonce |-> nonce, add |-> add, drop |-> drop,
     initial |-> initial, rev |-> rev]
Answer(kind, frame) == Request(kind, frame.type, Nonce(frame), {}, {}, Nothing, 0)

Row(machine, on, from, to) == [machine |-> machine, on |-> on, from |-> from, to |-> to]
Wants(s, n) == s.wild \/ n \in s.names

Init ==
    /\ revision = 1
    /\ content = [r \in 1..MaxRevision |->
         [n \in Names \union {Star} |-> IF r = 1 THEN 1 ELSE 0]]
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
    /\ want \in Begins
    /\ held = Nothing
    /\ cut = 0
    /\ inbox = NoFrame
    /\ refused = {}
    /\ faults = 0
    /\ asks = 0
    /\ fired = {}

Fault == faults < MaxFaults /\ faults' = faults + 1

-----------------------------------------------------------------------------
(* What is due of labels: core/xds/served.py and subscription.py *)

\* A request's change of a subscription. A name in both is not subscribed to afterwards.
Changed(s, add, drop) ==
    [wild |-> (s.wild \/ Star \in (add \ drop)) /\ Star \notin drop,
     names |-> (s.names \ drop) \union ((add \ drop) \ {Star})]

\* The first request of a type: without names it is a wildcard.
Begun(add) == IF add = {} THEN [wild |-> TRUE, names |-> {}] ELSE Changed(Nobody, add, {})

\* What a request asks to be sent, though it was sent before: by name.
Again(s, after, add, drop) ==
    ((add \ drop) \ {Star}) \union (IF after.wild THEN s.names \intersect drop ELSE {})

Body(s, has, now, again, all) ==
    [n \in Names |->
        LET named == n \in s.names IN
        IF ~Wants(s, n) THEN Unknown
        ELSE IF now[n] # 0 THEN
            IF n \in again \/ all \/ has[n] # now[n] THEN now[n] ELSE Unknown
        ELSE IF (named \/ has[n] # Unknown) /\ (n \in again \/ has[n] # Absent) THEN Absent
        ELSE Unknown]

\* Counts as sent from now on.
Sent(s, now) ==
    [n \in Names |->
        IF ~Wants(s, n) THEN Unknown
        ELSE IF now[n] # 0 THEN now[n]
        ELSE IF n \in s.names THEN Absent
        ELSE Unknown]

Frames(body) == IF body = Nothing THEN <<>> ELSE <<LabelsFrame(body)>>

\* What a refused response said of each name, in responses of their own: the rest of it is not lost
\* with what was bad. One alone is not sent again. What has changed since was sent since.
Alone(s, body, has, i) ==
    IF i \notin DOMAIN NameOrder THEN <<>>
    ELSE LET n == NameOrder[i] IN
        IF \/ body[n] = Unknown
           \/ ~Wants(s, n)
           \/ body[n] > 0 /\ has[n] # body[n]
           \/ body[n] = Absent /\ has[n] > 0
        THEN <<>>
        ELSE <<LabelsFrame([Nothing EXCEPT ![n] = body[n]])>>

Apart(s, body, has) ==
    IF Cardinality({n \in Names : body[n] # Unknown}) < 2 THEN <<>>
    ELSE Alone(s, body, has, 1) \o Alone(s, body, has, 2) \o Alone(s, body, has, 3)

-----------------------------------------------------------------------------
(* What is due of the cut: core/xds/rollout.py, as far as it decides about whole cuts *)

\* Towards revision r from a state in which nothing is under way. `reported`: the client has just
\* said what it enforces, which is always answered, be it with what it has.
Advance(state, has, aim, r, reported) ==
    LET equal == state = "current" /\ has # 0 /\ content[has][Star] = content[r][Star] IN
    IF state \notin {"current", "held"} THEN
        [rollout |-> state, acked |-> has, target |-> aim, frames |-> <<>>]
    ELSE IF equal /\ ~reported THEN
        [rollout |-> state, acked |-> r, target |-> 0, frames |-> <<>>]
    ELSE
        [rollout |-> "committing", acked |-> IF equal THEN r ELSE has, target |-> r,
         frames |-> <<CutFrame(r)>>]

-----------------------------------------------------------------------------
(* The server *)

\* The objects change; every replica hears of it in its own time.
Publish(x, v) ==
    /\ revision < MaxRevision
    /\ content[revision][x] # v
    /\ x = Star => v # 0
    /\ revision' = revision + 1
    /\ content' = [content EXCEPT ![revision + 1] = [content[revision] EXCEPT ![x] = v]]
    /\ fired' = {}
    /\ UNCHANGED <<server, net, agent, faults, asks>>

\* Frames for a client that has left are lost.
Deliver(k, frames) ==
    down' = IF k # 0 /\ link = k THEN [down EXCEPT ![k] = @ \o frames] ELSE down

Nonces(frames) == [i \in DOMAIN frames |-> Nonce(frames[i])]

\* `state` after `count` responses were sent, and the rows that were taken.
AfterSends(state, count) == IF count = 0 THEN state ELSE "awaiting-ack"
SendRows(state, count) ==
    (IF count > 0 THEN {Row("stream", "send", state, "awaiting-ack")} ELSE {})
    \union (IF count > 1 THEN {Row("stream", "send", "awaiting-ack", "awaiting-ack")} ELSE {})

\* A replica publishes revision r: what a stream lacks of it is sent at once.
CatchUp(s, r) ==
    /\ loaded[s] < r
    /\ r <= revision
    /\ loaded' = [loaded EXCEPT ![s] = r]
    /\ LET k == serving[s]
           subscribed == k # 0 /\ stream[k]["labels"] # "idle"
           body == IF subscribed THEN Body(sub[s], known[s], content[r], {}, FALSE) ELSE Nothing
           labels == Frames(body)
           caught == rollout[s] = "ahead" /\ acked[s] <= r
           turn == Advance(IF caught THEN "current" ELSE rollout[s], acked[s], target[s], r, caught)
           of == [t \in Types |-> IF t = "cut" THEN turn.frames ELSE labels]
       IN
        /\ known' = IF subscribed THEN [known EXCEPT ![s] = Sent(sub[s], content[r])] ELSE known
        /\ rollout' = [rollout EXCEPT ![s] = turn.rollout]
        /\ acked' = [acked EXCEPT ![s] = turn.acked]
        /\ target' = [target EXCEPT ![s] = turn.target]
        /\ open' = [open EXCEPT ![s] = [t \in Types |-> @[t] \o Nonces(of[t])]]
        /\ stream' = IF k = 0 THEN stream ELSE
             [stream EXCEPT ![k]["cut"] = AfterSends(@, Len(of["cut"])),
                            ![k]["labels"] = AfterSends(@, Len(of["labels"]))]
        /\ fired' = UNION {SendRows(stream[k][t], Len(of[t])) : t \in IF k = 0 THEN {} ELSE Types}
        /\ Deliver(k, turn.frames \o labels)
    /\ UNCHANGED <<revision, content, serving, sub, up, opened, agent, faults, asks>>

\* What a request means in a state of its type in which `due` are the nonces that are not answered:
\* an event of models/stream.toml.
Meaning(state, due, kind, nonce) ==
    LET hit == \E i \in DOMAIN due : due[i] = nonce IN
    IF state = "idle" THEN "subscribe"
    ELSE IF kind = "ask" THEN "resubscribe"
    ELSE IF ~hit THEN (IF kind = "ack" THEN "stale_ack" ELSE "stale_nack")
    ELSE IF kind = "nack" THEN "nack"
    ELSE IF Len(due) = 1 THEN "ack_last"
    ELSE "ack"

Waits(s) == serving[s] # 0 /\ up[serving[s]] # <<>>
Request_(s) == Head(up[serving[s]])
Event(s) ==
    LET m == Request_(s)
    IN Meaning(stream[serving[s]][m.type], open[s][m.type], m.kind, m.nonce)

To(state, event) ==
    IF event = "subscribe" THEN "subscribed"
    ELSE IF event = "nack" THEN "nacked"
    ELSE IF event = "ack_last" /\ state = "awaiting-ack" THEN "acked"
    ELSE state

\* Answers come in the order of responses: it is the oldest of this content that was answered.
Without(queue, nonce) ==
    LET at == CHOOSE i \in DOMAIN queue :
                /\ queue[i] = nonce
                /\ \A j \in DOMAIN queue : queue[j] = nonce => i <= j
    IN SubSeq(queue, 1, at - 1) \o SubSeq(queue, at + 1, Len(queue))

\* The request that is next is handled, and what is due after it is sent in the same step.
Handle(s, event) ==
    /\ Waits(s)
    /\ Event(s) = event
    /\ LET k == serving[s]
           m == Request_(s)
           t == m.type
           labels == t = "labels"
           first == event = "subscribe"
           answered == event \in {"ack", "ack_last", "nack"}
           changes == labels /\ m.add \union m.drop # {}
           after == IF first THEN Begun(m.add) ELSE Changed(sub[s], m.add, m.drop)
           has == IF first THEN m.initial ELSE known[s]
           again == IF first THEN {} ELSE Again(sub[s], after, m.add, m.drop)
           all == ~first /\ Star \in (m.add \ m.drop)
           apart == IF labels /\ event = "nack" THEN Apart(sub[s], m.nonce.body, known[s]) ELSE <<>>
           body == IF labels /\ (first \/ changes)
                   THEN Body(after, has, content[loaded[s]], again, all) ELSE Nothing
           turn ==
             IF labels THEN Advance("none", acked[s], target[s], loaded[s], FALSE)
             ELSE IF first THEN
                Advance(IF m.rev > loaded[s] THEN "ahead" ELSE "current", m.rev, 0, loaded[s], TRUE)
             ELSE IF event = "ack_last" /\ rollout[s] = "committing" THEN
                Advance("current", target[s], 0, loaded[s], FALSE)
             ELSE IF event = "nack" /\ rollout[s] = "committing" THEN
                Advance("nacked", acked[s], 0, loaded[s], FALSE)
             ELSE Advance("none", acked[s], target[s], loaded[s], FALSE)
           frames == IF labels THEN apart \o Frames(body) ELSE turn.frames
           left == IF answered THEN Without(open[s][t], m.nonce) ELSE open[s][t]
           was == stream[k][t]
           is == To(was, event)
       IN
        /\ up' = [up EXCEPT ![k] = Tail(@)]
        /\ sub' = IF labels /\ (first \/ changes) THEN [sub EXCEPT ![s] = after] ELSE sub
        /\ known' = IF labels /\ (first \/ changes)
                    THEN [known EXCEPT ![s] = Sent(after, content[loaded[s]])] ELSE known
        /\ rollout' = [rollout EXCEPT ![s] =
             IF turn.rollout = "none" THEN @ ELSE IF turn.rollout = "nacked" THEN "held"
             ELSE turn.rollout]
        /\ acked' = [acked EXCEPT ![s] = turn.acked]
        /\ target' = [target EXCEPT ![s] = turn.target]
        /\ open' = [open EXCEPT ![s][t] = left \o Nonces(frames)]
        /\ stream' = [stream EXCEPT ![k][t] = AfterSends(is, Len(frames))]
        /\ fired' = {Row("stream", event, was, is)} \union SendRows(is, Len(frames))
             \union (IF changes /\ event # "resubscribe" /\ ~first
                     THEN {Row("stream", "resubscribe", is, is)} ELSE {})
        /\ Deliver(k, frames)
    /\ UNCHANGED <<revision, content, loaded, serving, opened, agent, faults, asks>>

Subscribe(s) == Handle(s, "subscribe")
Resubscribe(s) == Handle(s, "resubscribe")
Ack(s) == Handle(s, "ack")
AckLast(s) == Handle(s, "ack_last")
Nack(s) == Handle(s, "nack")
StaleAck(s) == Handle(s, "stale_ack")
StaleNack(s) == Handle(s, "stale_nack")

\* The server's end of its stream is over: what was on its way to it is lost. What is on its way to
\* the client may still be read.
CloseRows(k) == {Row("stream", "close", stream[k][t], "closed") : t \in Types}
ServerEnd(s, next) ==
    LET k == serving[s] IN
    /\ serving' = [serving EXCEPT ![s] = next]
    /\ stream' = IF k = 0 THEN stream ELSE
         [stream EXCEPT ![k]["cut"] = "closed", ![k]["labels"] = "closed"]
    /\ open' = [open EXCEPT ![s] = [t \in Types |-> <<>>]]
    /\ sub' = [sub EXCEPT ![s] = Nobody]
    /\ known' = [known EXCEPT ![s] = Nothing]
    /\ rollout' = [rollout EXCEPT ![s] = "absent"]
    /\ acked' = [acked EXCEPT ![s] = 0]
    /\ target' = [target EXCEPT ![s] = 0]

\* The server notices that the client has left; or the stream breaks at its end first.
Drop(s) ==
    /\ serving[s] # 0
    /\ IF serving[s] = link THEN Fault ELSE UNCHANGED faults
    /\ ServerEnd(s, 0)
    /\ up' = [up EXCEPT ![serving[s]] = <<>>]
    /\ fired' = CloseRows(serving[s])
    /\ UNCHANGED <<revision, content, loaded, down, opened, agent, asks>>

\* The grace after a refusal is over, and there is nothing to serve as closed: start anew.
Retry(s) ==
    /\ rollout[s] = "held"
    /\ ServerEnd(s, 0)
    /\ up' = [up EXCEPT ![serving[s]] = <<>>]
    /\ fired' = CloseRows(serving[s])
    /\ UNCHANGED <<revision, content, loaded, down, opened, agent, faults, asks>>

\* A replica dies and comes back with nothing; it listens when it has loaded something.
Restart(s) ==
    /\ loaded[s] # 0
    /\ Fault
    /\ loaded' = [loaded EXCEPT ![s] = 0]
    /\ ServerEnd(s, 0)
    /\ up' = IF serving[s] = 0 THEN up ELSE [up EXCEPT ![serving[s]] = <<>>]
    /\ fired' = IF serving[s] = 0 THEN {} ELSE CloseRows(serving[s])
    /\ UNCHANGED <<revision, content, down, opened, agent, asks>>

-----------------------------------------------------------------------------
(* The client *)

Linked == link # 0
ServerThere == \E s \in Servers : serving[s] = link
Arrived(type) ==
    Linked /\ inbox = NoFrame /\ down[link] # <<>> /\ Head(down[link]).type = type
Lost(state) ==
    IF state = "stale-connecting" THEN "stale" ELSE "disconnected"

Dial ==
    /\ client \in {"disconnected", "stale"}
    /\ client' = IF client = "stale" THEN "stale-connecting" ELSE "connecting"
    /\ fired' = {Row("client", "connect", client, client')}
    /\ UNCHANGED <<revision, content, server, net, link, asked, want, held, cut, inbox,
                   refused, faults, asks>>

\* No server for longer than the limit.
Expire ==
    /\ client \in {"disconnected", "connecting"}
    /\ client' = IF client = "connecting" THEN "stale-connecting" ELSE "stale"
    /\ fired' = {Row("client", "too_old", client, client')}
    /\ UNCHANGED <<revision, content, server, net, link, asked, want, held, cut, inbox,
                   refused, faults, asks>>

\* The attempt fails.
Fail ==
    /\ client \in {"connecting", "stale-connecting"}
    /\ Fault
    /\ client' = Lost(client)
    /\ fired' = {Row("client", "lost", client, client')}
    /\ UNCHANGED <<revision, content, server, net, link, asked, want, held, cut, inbox,
                   refused, asks>>

Wanting(w) == w.wild \/ w.names # {}
\* An empty list would mean everything, so who wants nothing must not ask; who wants everything may.
Listed(w) == IF w.names = {} THEN {} ELSE w.names \union (IF w.wild THEN {Star} ELSE {})
\* What the client has is listed with the first request; what it was told not to exist is not.
Initial(has) == [n \in Names |-> IF has[n] = Absent THEN Unknown ELSE has[n]]
Report == Request("ask", "cut", NoFrame, {}, {}, Nothing, cut)
Labels == Request("ask", "labels", NoFrame, Listed(want), {}, Initial(held), 0)

\* A stream opens to one of the replicas. One that it still holds for this client ends with that.
Connect(s) ==
    /\ client \in {"connecting", "stale-connecting"}
    /\ loaded[s] # 0
    /\ opened' = opened + 1
    /\ link' = opened'
    /\ ServerEnd(s, link')
    /\ asked' = Wanting(want)
    /\ LET first == IF asked' THEN <<Report, Labels>> ELSE <<Report>>
           left == IF serving[s] = 0 THEN up ELSE [up EXCEPT ![serving[s]] = <<>>]
       IN up' = [left EXCEPT ![link'] = first]
    /\ client' = "syncing"
    /\ fired' = {Row("client", "opened", client, "syncing")}
         \union (IF serving[s] = 0 THEN {} ELSE CloseRows(serving[s]))
    /\ UNCHANGED <<revision, content, loaded, down, want, held, cut, inbox, refused, faults, asks>>

\* Requests to a server that has left are lost.
Say(requests) ==
    up' = IF ServerThere THEN [up EXCEPT ![link] = @ \o requests] ELSE up

\* A cut is read; nothing else is until it is answered.
Stage ==
    /\ Arrived("cut")
    /\ inbox' = Head(down[link])
    /\ down' = [down EXCEPT ![link] = Tail(@)]
    /\ client' = "syncing"
    /\ fired' = {Row("client", "response", client, "syncing")}
    /\ UNCHANGED <<revision, content, server, up, opened, link, asked, want, held, cut,
                   refused, faults, asks>>

\* The kernel enforces the cut.
Flip ==
    /\ inbox # NoFrame
    /\ inbox.rev >= cut
    /\ cut' = inbox.rev
    /\ inbox' = NoFrame
    /\ Say(<<Answer("ack", inbox)>>)
    /\ client' = "in-sync"
    /\ fired' = {Row("client", "committed", client, "in-sync")}
    /\ UNCHANGED <<revision, content, server, down, opened, link, asked, want, held, refused,
                   faults, asks>>

\* The map is full, the root differs: what was staged is taken back.
Refuse ==
    /\ inbox # NoFrame
    /\ IF inbox.rev >= cut THEN Fault ELSE UNCHANGED faults
    /\ inbox' = NoFrame
    /\ Say(<<Answer("nack", inbox)>>)
    /\ fired' = {Row("client", "refused", client, client)}
    /\ UNCHANGED <<revision, content, server, down, opened, client, link, asked, want, held, cut,
                   refused, asks>>

\* Labels are taken over; what is not wanted any more is let go.
Apply ==
    /\ Arrived("labels")
    /\ LET frame == Head(down[link]) IN
        /\ held' = [n \in Names |->
             IF frame.body[n] = Unknown \/ ~Wants(want, n) THEN held[n]
             ELSE IF frame.body[n] = Absent /\ n \notin want.names THEN Unknown
             ELSE frame.body[n]]
        /\ refused' = {item \in refused : frame.body[item[1]] = Unknown}
        /\ Say(<<Answer("ack", frame)>>)
    /\ down' = [down EXCEPT ![link] = Tail(@)]
    /\ fired' = {}
    /\ UNCHANGED <<revision, content, server, opened, client, link, asked, want, cut, inbox,
                   faults, asks>>

\* A response is refused as a whole. What is refused alone is remembered: it is not sent again.
Reject ==
    /\ Arrived("labels")
    /\ Fault
    /\ LET frame == Head(down[link])
           said == {n \in Names : frame.body[n] # Unknown}
       IN
        /\ refused' = {item \in refused : frame.body[item[1]] = Unknown}
             \union (IF Cardinality(said) = 1 THEN {<<n, frame.body[n]>> : n \in said} ELSE {})
        /\ Say(<<Answer("nack", frame)>>)
    /\ down' = [down EXCEPT ![link] = Tail(@)]
    /\ fired' = {}
    /\ UNCHANGED <<revision, content, server, opened, client, link, asked, want, held, cut, inbox,
                   asks>>

\* The client changes what it wants: x is a name or the wildcard. `stale`: in one request with an
\* answer to what nobody waits for.
Ask(x, on, stale) ==
    /\ Linked
    /\ asks < MaxAsks
    /\ asks' = asks + 1
    /\ asked \/ on
    /\ stale => asked /\ Fault
    /\ ~stale => UNCHANGED faults
    /\ want' = Changed(want, IF on THEN {x} ELSE {}, IF on THEN {} ELSE {x})
    /\ held' = [n \in Names |-> IF Wants(want', n) THEN held[n] ELSE Unknown]
    /\ refused' = {item \in refused :
         /\ Wants(want', item[1])
         /\ ~(on /\ x = Star /\ item[2] # Absent)
         /\ item[1] = x => ~on /\ x \notin want.names}
    /\ asked' = TRUE
    /\ Say(<<Request(IF stale THEN "ack" ELSE "ask", "labels",
                     NoFrame, IF on THEN {x} ELSE {}, IF on THEN {} ELSE {x},
                     IF asked THEN Nothing ELSE Initial(held), 0)>>)
    /\ fired' = {}
    /\ UNCHANGED <<revision, content, server, down, opened, client, link, cut, inbox>>

\* An answer to what nobody waits for: made up, or to a cut of this or an earlier stream, which the
\* client has enforced.
Repeat(kind, type) ==
    /\ Linked
    /\ type = "cut" \/ asked
    /\ Fault
    /\ Say(<<Answer(kind, IF type = "cut" /\ kind = "ack" /\ cut # 0 THEN CutFrame(cut)
                          ELSE [NoFrame EXCEPT !.type = type])>>)
    /\ fired' = {}
    /\ UNCHANGED <<revision, content, server, down, opened, agent, asks>>

\* The client's end is over. `late`: the kernel was asked to flip, and does.
Break(late) ==
    /\ Linked
    /\ IF ServerThere THEN Fault ELSE UNCHANGED faults
    /\ late => inbox # NoFrame /\ inbox.rev >= cut
    /\ cut' = IF late THEN inbox.rev ELSE cut
    /\ link' = 0
    /\ asked' = FALSE
    /\ inbox' = NoFrame
    /\ down' = [down EXCEPT ![link] = <<>>]
    /\ client' = "disconnected"
    /\ fired' = {Row("client", "lost", client, "disconnected")}
    /\ UNCHANGED <<revision, content, server, up, opened, want, held, refused, asks>>

\* The agent dies, after its stream, and comes back: the kernel holds the cut, labels are gone.
Forget ==
    /\ client = "disconnected"
    /\ Fault
    /\ held' = Nothing
    /\ refused' = {}
    /\ fired' = {}
    /\ UNCHANGED <<revision, content, server, net, client, link, asked, want, cut, inbox, asks>>

-----------------------------------------------------------------------------
Next ==
    \/ \E x \in Edited, v \in 0..Versions : Publish(x, v)
    \/ \E s \in Servers, r \in 1..MaxRevision : CatchUp(s, r)
    \/ \E s \in Servers : Subscribe(s)
    \/ \E s \in Servers : Resubscribe(s)
    \/ \E s \in Servers : Ack(s)
    \/ \E s \in Servers : AckLast(s)
    \/ \E s \in Servers : Nack(s)
    \/ \E s \in Servers : StaleAck(s)
    \/ \E s \in Servers : StaleNack(s)
    \/ \E s \in Servers : Drop(s)
    \/ \E s \in Servers : Retry(s)
    \/ \E s \in Servers : Restart(s)
    \/ Dial
    \/ Expire
    \/ Fail
    \/ \E s \in Servers : Connect(s)
    \/ Stage
    \/ Flip
    \/ Apply
    \/ Refuse
    \/ Reject
    \/ \E x \in Names \union {Star}, on \in BOOLEAN, stale \in BOOLEAN : Ask(x, on, stale)
    \/ \E kind \in {"ack", "nack"}, type \in Types : Repeat(kind, type)
    \/ \E late \in BOOLEAN : Break(late)
    \/ Forget

\* What happens unless something keeps it from happening for ever. Faults, edits, refusals and
\* changes of mind need not happen; those that may are finite in number.
Progress ==
    \/ \E s \in Servers, r \in 1..MaxRevision : CatchUp(s, r)
    \/ \E s \in Servers :
        \/ Subscribe(s) \/ Resubscribe(s) \/ Ack(s) \/ AckLast(s) \/ Nack(s)
        \/ StaleAck(s) \/ StaleNack(s) \/ Retry(s) \/ Connect(s)
        \/ (serving[s] # link /\ Drop(s))
    \/ Dial \/ Stage \/ Flip \/ Apply
    \/ (Linked /\ ~ServerThere /\ Break(FALSE))

Spec == Init /\ [][Next]_vars
FairSpec == Spec /\ WF_vars(Progress)

-----------------------------------------------------------------------------
(* Safety *)

\* R6: what a server believes the client to enforce, on the stream that both hold, it enforces, or
\* newer; equal content counts, whatever the number.
BelievedIsEnforced ==
    \A s \in Servers :
        serving[s] # 0 /\ serving[s] = link /\ acked[s] # 0 =>
            \/ acked[s] <= cut
            \/ cut # 0 /\ content[acked[s]][Star] = content[cut][Star]

\* R6: a replica that is behind the client never offers it an older cut.
NeverOlder ==
    Linked => \A i \in DOMAIN down[link] : down[link][i].type = "cut" => down[link][i].rev >= cut

\* R6: the cuts of one node never go back.
NeverBack == [][cut' >= cut]_cut

\* What the client will have of name n when all that is on its way has arrived and is taken.
Coming(n) ==
    LET queue == down[link]
        says == {i \in DOMAIN queue : queue[i].type = "labels" /\ queue[i].body[n] # Unknown}
    IN IF says = {} THEN held[n]
       ELSE LET newest == CHOOSE i \in says : \A j \in says : j <= i
            IN IF queue[newest].body[n] = Absent /\ n \notin want.names THEN Unknown
               ELSE queue[newest].body[n]

Refusing(k) == \E i \in DOMAIN up[k] : up[k][i].type = "labels" /\ up[k][i].kind = "nack"
Asking(k) == \E i \in DOMAIN up[k] : up[k][i].type = "labels" /\ up[k][i].add \union up[k][i].drop # {}

\* R6: nothing is lost or left over. What was sent counts as known, whether it is answered or not:
\* so it is there or on its way, or was refused alone. Meant once the server has read what the
\* client asks for and refuses.
KnownIsThere ==
    \A s \in Servers :
        LET k == serving[s] IN
        k # 0 /\ k = link /\ asked /\ ~Refusing(k) /\ ~Asking(k)
            /\ stream[k]["labels"] # "idle" =>
            /\ sub[s] = want
            /\ \A n \in Names : Wants(want, n) =>
                \/ known[s][n] = Coming(n)
                \/ <<n, known[s][n]>> \in refused
                \/ known[s][n] = Unknown /\ <<n, Absent>> \in refused

\* R6: on a new stream nothing is sent again that the client has.
Reused == [][
    \A s \in Servers :
        LET k == serving[s] IN
        k # 0 /\ k = link /\ serving'[s] = k /\ stream[k]["labels"] = "idle"
            /\ Len(down'[k]) > Len(down[k])
            /\ down'[k][Len(down'[k])].type = "labels" =>
                \A n \in Names :
                    LET sent == down'[k][Len(down'[k])].body[n] IN
                    sent > 0 => held[n] # sent
    ]_<<down, stream>>

\* The stream machine tells the truth: nothing is open exactly when it says so.
StatesAreTrue ==
    \A s \in Servers : serving[s] # 0 =>
        \A t \in Types :
            LET state == stream[serving[s]][t] IN
            /\ state \in {"idle", "subscribed", "acked"} => open[s][t] = <<>>
            /\ state = "awaiting-ack" => open[s][t] # <<>>
            /\ state # "closed"

\* The server holds one frame of the cut open, and knows which.
OneCutAtATime ==
    \A s \in Servers :
        /\ (rollout[s] = "committing") = (target[s] # 0)
        /\ Len(open[s]["cut"]) <= 1

-----------------------------------------------------------------------------
(* Liveness *)

\* R7: the client ends with the newest cut, in sync, and with exactly the newest of what it wants.
Newest(n) ==
    LET v == content[revision][n] IN
    IF v # 0 THEN v ELSE IF n \in want.names THEN Absent ELSE Unknown

Complete(n) ==
    \/ held[n] = (IF Wants(want, n) THEN Newest(n) ELSE Unknown)
    \/ <<n, content[revision][n]>> \in refused

Converged ==
    /\ client = "in-sync"
    /\ cut # 0
    /\ content[cut][Star] = content[revision][Star]
    /\ \A n \in Names : Complete(n)

Converges == <>[]Converged
=============================================================================
