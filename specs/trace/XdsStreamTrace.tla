---------------------------- MODULE XdsStreamTrace ----------------------------
\* What one server recorded of one stream, read as the server's half of XdsStream: which event each
\* request is, what is left unanswered, what is subscribed to. The types are those of the product.
EXTENDS XdsStream

CONSTANTS
    \* @type: Set(Str);
    Kinds,      \* types of which there is a word
    \* @type: SERVER;
    Server

\* @type: (Seq(a)) => Set(a);
Range(s) == {s[i] : i \in DOMAIN s}

TraceInit(e) ==
    /\ Init
    /\ want = Nobody

\* Types are keys here; the first event makes them: before it no type was heard of.
State(t) == IF t \in DOMAIN stream[1] THEN stream[1][t] ELSE "idle"
Due(t) == IF t \in DOMAIN open[Server] THEN open[Server][t] ELSE <<>>
Asked(t) == IF t \in DOMAIN sub THEN sub[t] ELSE Nobody

Becomes(t, state, due, s) ==
    /\ stream' = [x \in 1..1 |-> [k \in Kinds |-> IF k = t THEN state ELSE State(k)]]
    /\ open' = [x \in {Server} |-> [k \in Kinds |-> IF k = t THEN due ELSE Due(k)]]
    /\ sub' = [k \in Kinds |-> IF k = t THEN s ELSE Asked(k)]
    /\ UNCHANGED <<revision, content, loaded, serving, known, rollout, acked, target, net, agent,
                   faults, asks, fired>>

\* The request is what the code took it for.
Is(e, kind, event) ==
    LET t == e.args.type IN
    /\ Meaning(State(t), Due(t), kind, IF kind = "ask" THEN "" ELSE e.args.nonce) = event
    /\ Becomes(t, To(State(t), event),
               IF event \in {"ack", "ack_last", "nack"} THEN Without(Due(t), e.args.nonce) ELSE Due(t),
               IF event = "subscribe" THEN
                    (IF e.args.add = <<>> THEN Begun({}) ELSE Changed(Nobody, Range(e.args.add), Range(e.args.drop)))
               ELSE IF event = "resubscribe" THEN Changed(Asked(t), Range(e.args.add), Range(e.args.drop))
               ELSE Asked(t))

Explain(e) ==
    CASE e.action = "Subscribe" -> Is(e, "ask", "subscribe")
      [] e.action = "Resubscribe" -> Is(e, "ask", "resubscribe")
      [] e.action = "Ack" -> Is(e, "ack", "ack")
      [] e.action = "AckLast" -> Is(e, "ack", "ack_last")
      [] e.action = "Nack" -> Is(e, "nack", "nack")
      [] e.action = "StaleAck" -> Is(e, "ack", "stale_ack")
      [] e.action = "StaleNack" -> Is(e, "nack", "stale_nack")
      [] e.action = "Send" ->
            LET t == e.args.type IN
            /\ State(t) \notin {"idle", "closed"}
            /\ Becomes(t, AfterSends(State(t), 1), Append(Due(t), e.args.nonce), Asked(t))
      [] e.action = "Close" ->
            LET t == e.args.type IN
            /\ State(t) # "closed"
            /\ Becomes(t, "closed", <<>>, Nobody)

Observe(e) ==
    /\ stream'[1][e.args.type] = e.args.state
    /\ e.action \in {"Subscribe", "Resubscribe"} =>
        sub'[e.args.type] = [wild |-> e.args.wild, names |-> Range(e.args.names)]

Hidden == FALSE
=============================================================================
