---------------------------- MODULE MCXdsStream ----------------------------
\* Bounds for model checking XdsStream.
EXTENDS XdsStream, TLC

CONSTANTS s1, s2, a, b

One == <<a>>
Two == <<a, b>>
Silent == {Nobody}
ByName == {[wild |-> FALSE, names |-> {a}]}
Everything == {[wild |-> TRUE, names |-> {}]}
Both == {[wild |-> FALSE, names |-> {a, b}]}
Either == ByName \union Everything

\* A graph of every step is too large for what it tells. These have the steps of one subject each.
\* What a stream goes through: pipelined responses that are refused, one after the other.
PipelinedNext ==
    \/ \E s \in Servers : Subscribe(s)
    \/ \E s \in Servers : Ack(s)
    \/ \E s \in Servers : AckLast(s)
    \/ \E s \in Servers : Nack(s)
    \/ Dial
    \/ \E s \in Servers : Connect(s)
    \/ Stage
    \/ Flip
    \/ Apply
    \/ \E s \in Servers : Resubscribe(s)
    \/ Reject
    \/ \E x \in Names, on \in {TRUE}, stale \in {FALSE} : Ask(x, on, stale)

\* Answers to what nobody waits for.
StaleNext ==
    \/ \E s \in Servers : Subscribe(s)
    \/ \E s \in Servers : Ack(s)
    \/ \E s \in Servers : AckLast(s)
    \/ \E s \in Servers : Nack(s)
    \/ Dial
    \/ \E s \in Servers : Connect(s)
    \/ Stage
    \/ Flip
    \/ Apply
    \/ \E s \in Servers : StaleAck(s)
    \/ \E s \in Servers : StaleNack(s)
    \/ Reject
    \/ \E x \in Names, on \in {TRUE}, stale \in {TRUE} : Ask(x, on, stale)
    \/ \E kind \in {"ack", "nack"}, type \in {"labels"} : Repeat(kind, type)
    \/ \E late \in {FALSE} : Break(late)

\* All ways to ask, while what is asked for is edited.
AsksNext ==
    \/ \E s \in Servers : Subscribe(s)
    \/ \E s \in Servers : Ack(s)
    \/ \E s \in Servers : AckLast(s)
    \/ \E s \in Servers : Nack(s)
    \/ Dial
    \/ \E s \in Servers : Connect(s)
    \/ Stage
    \/ Flip
    \/ Apply
    \/ \E s \in Servers : Resubscribe(s)
    \/ \E s \in Servers : StaleAck(s)
    \/ \E x \in Names \union {Star}, on \in BOOLEAN, stale \in BOOLEAN : Ask(x, on, stale)
    \/ \E x \in Edited, v \in 0..Versions : Publish(x, v)
    \/ \E s \in Servers, r \in 1..MaxRevision : CatchUp(s, r)

\* How a stream ends, and what the next one begins with.
EndsNext ==
    \/ \E s \in Servers : Subscribe(s)
    \/ \E s \in Servers : Ack(s)
    \/ \E s \in Servers : AckLast(s)
    \/ \E s \in Servers : Nack(s)
    \/ Dial
    \/ \E s \in Servers : Connect(s)
    \/ Stage
    \/ Flip
    \/ Apply
    \/ Reject
    \/ Refuse
    \/ \E s \in Servers : Drop(s)
    \/ \E s \in Servers : Retry(s)
    \/ \E s \in Servers : Restart(s)
    \/ \E s \in Servers, r \in 1..MaxRevision : CatchUp(s, r)
    \/ \E late \in {FALSE} : Break(late)

Symmetry == Permutations(Servers)
Quiet == <<revision, content, server, net, agent, faults, asks>>
=============================================================================
