---------------------------- MODULE LeadershipTrace ----------------------------
\* What one replica recorded of its leaderships. Of the others it knows what became of the journal: its
\* epoch has gone on when this one opens it again, or when it finds that it was overtaken. What it writes
\* while it leads is in its traces of Allocation.
EXTENDS Leadership

Me == CHOOSE r \in Replicas : TRUE

\* At an epoch that nobody had before.
OpenAt(n) ==
    /\ life[Me] = "candidate"
    /\ Me \in opening
    /\ n > epoch
    /\ opening' = opening \ {Me}
    /\ epoch' = n
    /\ own' = [own EXCEPT ![Me] = n]
    /\ To(Me, "opened", "leader")
    /\ UNCHANGED <<lease, flight, wrote, writer>>

\* 0: it was not opened, or the answer is lost.
OpensLateAt(n) ==
    /\ life[Me] = "fenced"
    /\ Me \in opening
    /\ n = 0 \/ n > epoch
    /\ opening' = opening \ {Me}
    /\ epoch' = IF n = 0 THEN epoch ELSE n
    /\ fired' = {}
    /\ UNCHANGED <<life, lease, own, flight, wrote, writer>>

\* Somebody else has taken the journal over, as a write or a look at it says.
Overtaken ==
    /\ life[Me] = "leader"
    /\ lease' = lease \ {Me}
    /\ epoch' = epoch + 1
    /\ own' = [own EXCEPT ![Me] = 0]
    /\ To(Me, "overtaken", "fenced")
    /\ UNCHANGED <<opening, flight, wrote, writer>>

Explain(e) ==
    CASE e.action = "Acquire" -> Acquire(Me)
      [] e.action = "Lose" -> Lose(Me)
      [] e.action = "Open" -> OpenAt(e.args.epoch)
      [] e.action = "OpenFails" -> OpenFails(Me, FALSE)
      [] e.action = "OpensLate" -> OpensLateAt(e.args.epoch)
      [] e.action = "Conflict" -> Overtaken
      [] e.action = "Settle" -> Settle(Me)

Observe(e) == life'[Me] = e.args.state

Hidden == FALSE
=============================================================================
