---------------------------- MODULE MCXdsChannel ----------------------------
\* XdsStream implements Channel: each of its streams is one link.
\*
\* Its ends close one after the other; a link breaks when the last has. Until then what was on its
\* way to the end that left first is lost but not gone: `lost` holds it (a history variable).
EXTENDS MCXdsStream

VARIABLE
    \* @type: Int -> {down: Seq(MESSAGE), up: Seq(MESSAGE)};
    lost

Served(k) == \E s \in Servers : serving[s] = k
None == [down |-> <<>>, up |-> <<>>]

ChannelInit == Init /\ lost = [k \in Streams |-> None]

ChannelNext ==
    /\ Next
    /\ lost' = [k \in Streams |->
         IF link' # k /\ ~Served(k)' THEN None
         ELSE [down |-> IF link = k /\ link' # k THEN down[k] ELSE lost[k].down,
               up |-> IF Served(k) /\ ~Served(k)' THEN up[k] ELSE lost[k].up]]

ChannelSpec == ChannelInit /\ [][ChannelNext]_<<vars, lost>>

Link(k) == IF k > opened THEN "new" ELSE IF link = k \/ Served(k) THEN "open" ELSE "broken"

Wire == INSTANCE Channel WITH
    Links <- Streams,
    link <- [k \in Streams |-> Link(k)],
    down <- [k \in Streams |-> down[k] \o lost[k].down],
    up <- [k \in Streams |-> up[k] \o lost[k].up]

Abstract == Wire!Spec

QuietChannel == <<Quiet, lost>>
=============================================================================
