--------------------------- MODULE NodeMapsTrace ---------------------------
\* What one agent recorded of its node's maps, write by write, against what NodeMaps promises of
\* them. A real node has many addresses, pods and rules, so the maps are here as they were recorded;
\* questions (a pod, a peer's address, a direction, a port) are asked of both halves after each line:
\*
\* * only a flip changes any answer of the half in force (AsInForce, OnlyTheFlip);
\* * at the flip the other half answers as the cut does whose root the flip names: its meaning is
\*   worked out from the resources that the agent holds, not from its tables (OneCut);
\* * until a grace is over, the half that was in force answers as it did (NeverDropped);
\* * when all is settled, both halves answer the same (NothingLeft).
\*
\* An interface's own entry may come, go and change hands at any time; it never lets through what
\* the cut in force does not.
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
    Cuts,       \* [root, allows: questions that pass] of every root that the resources held had
    Questions   \* sequence of [pod, ingress, protocol, port, keys: around the address, longest first]

VARIABLES
    active, addresses, groups, policies, endpoints, \* as recorded
    pods,       \* interface -> pod behind it, as the CNI named it
    says,       \* interface -> question -> whether it passes by the half in force
    older,      \* the same by the other half, while `waits`
    waits,      \* a packet that came before the last flip may be on its way
    cut,        \* in force: [known, allows]
    broken      \* writes of which one failed: those from here on were not done

vars == <<active, addresses, groups, policies, endpoints, pods, says, older, waits, cut, broken>>

\* TLC works out a definition without arguments once, and what stands for a constant each time.
Asked == Questions
Roots == Cuts

Range(s) == {s[i] : i \in DOMAIN s}
At(s, key) == (CHOOSE x \in Range(s) : x.key = key).value
Keys(s) == {x.key : x \in Range(s)}

-----------------------------------------------------------------------------
(* A packet's look-ups *)

Row(h, g) == IF g \in DOMAIN groups THEN groups[g][h] ELSE <<0, 0, 0>>

Owner(h, q) ==
    LET keys == Asked[q].keys
        there == {i \in DOMAIN keys : keys[i] \in DOMAIN addresses}
    IN IF there = {} THEN 0
       ELSE addresses[keys[CHOOSE i \in there : \A j \in there : i <= j]][h]

Service == 7
Unknown == 1
Identity(h, g) == IF g \in {0, Service} \/ Row(h, g)[1] = 0 THEN Unknown ELSE Row(h, g)[1]

\* The verdict of the most specific entry: 0 none, 1 allow, 2 deny.
Said(rule, peer, q) ==
    LET about(x) ==
            /\ x.about[1] = (IF Asked[q].ingress THEN 1 ELSE 2)
            /\ x.about[2] \in {0, Asked[q].protocol}
            /\ x.about[3] <= Asked[q].port /\ Asked[q].port <= x.about[4]
        there == IF <<rule, peer>> \in DOMAIN policies
                 THEN {x \in policies[<<rule, peer>>] : about(x)} ELSE {}
    IN IF there = {} THEN 0
       ELSE (CHOOSE x \in there : \A y \in there : y.about[5] <= x.about[5]).value

Passes(h, i, q) ==
    LET ingress == Asked[q].ingress
        own == Row(h, endpoints[i][2][h])
        rule == IF ingress THEN own[2] ELSE own[3]
        group == Owner(h, q)
        verdicts == {Said(rule, Identity(h, group), q), Said(rule, 0, q)}
    IN /\ ~endpoints[i][1]
       /\ rule # 0
       /\ ingress \/ group # Service
       /\ 2 \notin verdicts
       /\ 1 \in verdicts

Of(i) == IF i \in DOMAIN pods THEN {q \in DOMAIN Asked : Asked[q].pod = pods[i]} ELSE {}
Says(h) == [i \in DOMAIN endpoints |-> [q \in Of(i) |-> Passes(h, i, q)]]
InForce == Says(active)
Other == Says(3 - active)

NothingWrong ==
    cut'.known => \A i \in DOMAIN says' : \A q \in DOMAIN says'[i] :
        says'[i][q] => q \in cut'.allows

-----------------------------------------------------------------------------
(* Lines *)

\* What is known of an interface before and after a line is the same.
Same(f, g) ==
    \A i \in DOMAIN f : i \in DOMAIN g =>
        \A q \in DOMAIN f[i] \intersect DOMAIN g[i] : f[i][q] = g[i][q]

Seen ==
    /\ says' = TLCEval(InForce')
    /\ older' = IF waits THEN TLCEval(Other') ELSE older

Unseen == Same(says, says') /\ Same(older, older')

Put(f, key, value) == TLCEval([k \in (DOMAIN f) \union {key} |-> IF k = key THEN value ELSE f[k]])
Drop(f, key) == TLCEval([k \in (DOMAIN f) \ {key} |-> f[k]])
Changed(f, e) == IF e.value = <<>> THEN Drop(f, e.key) ELSE Put(f, e.key, e.value)

Around == UNION {Range(Asked[q].keys) : q \in DOMAIN Asked}

Address(e) ==
    /\ addresses' = Changed(addresses, e)
    /\ UNCHANGED <<active, groups, policies, endpoints, pods, waits, cut>>
    /\ IF e.key \in Around THEN Seen /\ Unseen ELSE UNCHANGED <<says, older>>

Group(e) ==
    /\ groups' = Changed(groups, e)
    /\ UNCHANGED <<active, addresses, policies, endpoints, pods, waits, cut>>
    /\ Seen
    /\ Unseen

Policy(e) ==
    /\ LET old == IF e.key \in DOMAIN policies THEN policies[e.key] ELSE {}
           kept == {x \in old : x.about # e.about}
           new == IF e.value = 0 THEN kept
                  ELSE kept \union {[about |-> e.about, value |-> e.value]}
       IN policies' = IF new = {} THEN Drop(policies, e.key) ELSE Put(policies, e.key, new)
    /\ UNCHANGED <<active, addresses, groups, endpoints, pods, waits, cut>>
    /\ Seen
    /\ Unseen

\* Of an entry that stays what it is in force, the other half is as unseen as that of any map.
Entry(e) ==
    /\ endpoints' = Changed(endpoints, e)
    /\ UNCHANGED <<active, addresses, groups, policies, pods, waits, cut>>
    /\ Seen
    /\ IF e.key \notin DOMAIN endpoints \/ e.value = <<>> THEN TRUE
       ELSE IF \/ e.value[2][active] # endpoints[e.key][2][active]
               \/ e.value[1] # endpoints[e.key][1]
            THEN TRUE ELSE Unseen
    /\ NothingWrong

\* An interface that the half names must answer as the cut; one that is closed is not asked.
Flip(e) ==
    /\ e.half = 3 - active
    /\ says' = TLCEval(Other)
    /\ older' = says
    /\ \E c \in Roots :
        /\ c.root = e.root
        /\ cut' = [known |-> TRUE, allows |-> c.allows]
        /\ \A i \in DOMAIN says : \A q \in DOMAIN says[i] :
            ~endpoints[i][1] /\ endpoints[i][2][e.half] # 0
                => says'[i][q] = (q \in c.allows)
    /\ active' = e.half
    /\ waits' = TRUE
    /\ UNCHANGED <<addresses, groups, policies, endpoints, pods>>
    /\ NothingWrong

Grace ==
    /\ waits' = FALSE
    /\ older' = <<>>
    /\ UNCHANGED <<active, addresses, groups, policies, endpoints, pods, says, cut>>

Settled ==
    /\ Other = says
    /\ UNCHANGED <<active, addresses, groups, policies, endpoints, pods, says, older, waits, cut>>

Link(e) ==
    /\ pods' = Put(pods, e.ifindex, e.pod)
    /\ UNCHANGED <<active, addresses, groups, policies, endpoints, waits, cut>>
    /\ Seen

AsMap(s) == [k \in Keys(s) |-> At(s, k)]
AsEntries(s) == [k \in Keys(s) |->
    {[about |-> x.about, value |-> x.value] : x \in {y \in Range(s) : y.key = k}}]

\* What an audit found that somebody else had written: taken as it is.
FoundAgain(e) ==
    /\ active' = e.active
    /\ addresses' = AsMap(e.Address)
    /\ groups' = AsMap(e.Group)
    /\ policies' = AsEntries(e.Policy)
    /\ endpoints' = AsMap(e.Entry)
    /\ cut' = [known |-> FALSE, allows |-> {}]
    /\ UNCHANGED <<pods, waits>>
    /\ Seen

\* What a process finds at its start; a packet of before may be on its way.
TraceInit(e) ==
    /\ active = e.args.active
    /\ addresses = AsMap(e.args.Address)
    /\ groups = AsMap(e.args.Group)
    /\ policies = AsEntries(e.args.Policy)
    /\ endpoints = AsMap(e.args.Entry)
    /\ pods = <<>>
    /\ says = [i \in DOMAIN endpoints |-> <<>>]
    /\ older = says
    /\ waits = TRUE
    /\ LET known == {c \in Roots : c.root = e.args.root} IN
        cut = [known |-> known # {}, allows |-> UNION {c.allows : c \in known}]
    /\ broken = FALSE

\* Of writes of which one failed, those before it were done.
Lost(e) ==
    /\ e.args.maybe
    /\ UNCHANGED <<active, addresses, groups, policies, endpoints, pods, says, older, waits, cut>>
    /\ broken' = TRUE
Counts(e) ==
    /\ e.args.maybe => ~broken
    /\ broken' = FALSE

Explain(e) ==
    CASE e.action = "Found" ->
            IF <<addresses, groups, policies, endpoints>> = <<AsMap(e.args.Address),
                    AsMap(e.args.Group), AsEntries(e.args.Policy), AsMap(e.args.Entry)>>
            THEN UNCHANGED vars
            ELSE FoundAgain(e.args) /\ UNCHANGED broken
      [] e.action = "Hold" -> UNCHANGED vars
      [] e.action = "Undo" -> UNCHANGED vars
      [] e.action = "Settled" -> Settled /\ UNCHANGED broken
      [] e.action = "Link" -> Link(e.args) /\ UNCHANGED broken
      [] e.action = "Address" -> (Counts(e) /\ Address(e.args.entry)) \/ Lost(e)
      [] e.action = "Group" -> (Counts(e) /\ Group(e.args.entry)) \/ Lost(e)
      [] e.action = "Policy" -> (Counts(e) /\ Policy(e.args.entry)) \/ Lost(e)
      [] e.action = "Entry" -> (Counts(e) /\ Entry(e.args.entry)) \/ Lost(e)
      [] e.action = "Flip" -> (Counts(e) /\ Flip(e.args)) \/ Lost(e)
      [] e.action = "Grace" -> (Counts(e) /\ Grace) \/ Lost(e)
      [] OTHER -> FALSE

Observe(e) == TRUE
Hidden == FALSE
=============================================================================
