"""The agent without IO: what comes from the server, the kernel, the CNI and the clock goes in, and
what is to be done comes out as effects.

Promises:
* an ACK of a staged response means that the kernel holds it where no packet looks; an ACK of a
  commit means that the kernel enforces exactly that cut;
* what is reported to a server on a new stream is what the kernel enforces, never what was staged;
* what can't be staged is taken back whole and refused with its reason; the last cut stays;
* after a start, the cut found in pinned maps (or, if these are empty, the cached one) is enforced
  before a server is asked for anything.

When what is held turns out not to be what the server believes (a root that differs), the stream is
opened anew with an honest report; if that does not help, with an empty one, which makes the server
send everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reconciler.core.dataplane.adopt import Adopted, Finding, audit, recognise_cut
from reconciler.core.dataplane.cut import (
    Answer,
    Committing,
    Cut,
    Enforced,
    Key,
    Output,
    Refused,
    Save,
    Settled,
    Staging,
    Write,
    refusal_of,
)
from reconciler.core.dataplane.effects import (
    Alarm,
    Apply,
    Attach,
    Connect,
    Detach,
    Disconnect,
    Effect,
    Options,
    Send,
)
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import MapId
from reconciler.core.dataplane.ops import Flip
from reconciler.core.dataplane.recorded import MapTrace
from reconciler.core.dataplane.records import CachedCut
from reconciler.core.dataplane.rows import agent_row, endpoint_rows
from reconciler.core.dataplane.saving import Saving
from reconciler.core.dataplane.tables import Tables
from reconciler.core.dataplane.values import Change
from reconciler.core.policy.ir import Direction
from reconciler.core.resources.decode import decode
from reconciler.core.resources.types import COMMIT, STAGED, Resource
from reconciler.core.resources.values import Commit, IdentityLabels
from reconciler.core.snapshots import AgentRow, EndpointRow
from reconciler.core.trace import Event, Trace, cut
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import Response
from reconciler.errors import DatapathError, ProtocolError, Refusal

RETRY_SECONDS = 1.0
"""Between attempts to attach to, or to write or remove the entry of, an interface."""


class AgentCore:
    def __init__(
        self,
        node: str,
        limits: Mapping[MapId, int],
        kernel: Adopted | None,
        cache: CachedCut | None,
        now: float,
        options: Options | None = None,
        trace: Trace | None = None,
    ) -> None:
        """kernel: what was found in the maps, None or empty after a restart of the node.

        cache: `records.replay` of the disk cache with the kernel's root (None root if the maps are
        empty); a cut with another root than the maps' is not used for more than its `next_id`.
        trace: records the steps of this process, in the order in which they take effect.
        """
        self.node = node
        self._trace = trace
        self._noted = (0, "")  # lines recorded, state of the cut in the last one
        self._options = options or Options()
        self._limits = limits
        self._effects: list[Effect] = []
        self._link_writes: dict[int, tuple[int, ...]] = {}  # token → interfaces being removed
        self._link_retry: float | None = None
        self._attach_retry: dict[int, float] = {}
        self._mismatches = 0  # commits in a row whose root differed
        self._empty_report = False
        self._connecting = self._connected = self._closing = False
        self._saving = Saving()
        self._client = Client(node, now, self._options.max_stale, trace, self._options.instance)
        kernel = kernel or Adopted()
        next_id = max((*kernel.ids, cache.next_id - 1 if cache else 0, 0)) + 1
        self._tables = Tables(node, limits, self._options.services, next_id, trace)
        self._cut = Cut(node, self._tables, trace)
        self._cut.revision, self._cut.root = kernel.revision, kernel.root
        self._maps = MapTrace(trace, node, self._options.services)
        self._maps.found(kernel)
        self._adopting = False
        self._start(kernel, cache, now)
        self._after(now)

    # --- the stream ------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        self._connecting, self._connected = False, True
        self._after(now)

    def disconnected(self, reason: str, now: float, jitter: float = 0.5) -> None:
        """jitter: 0..1, random: spreads the next attempts of nodes that lost one server."""
        self._connecting = self._connected = self._closing = False
        self._client.lost(now, jitter)
        if self._client.discard:
            self._client.discard = False
            self._cut.discard(now)
        self._after(now)

    def received(self, frame: bytes, now: float) -> None:
        if self._closing or self._client.state not in ("syncing", "in-sync"):
            return  # of a stream that was given up
        try:
            response = self._client.received(frame, now)
        except ProtocolError as error:
            self._close(str(error))
        else:
            self._cut.offer(self._item(response), now)
        self._after(now)

    def _item(self, response: Response) -> Staging | Committing:
        """A response as the cut machine takes it. What can't be read is refused there, in turn."""
        type_url, answer = response.type_url, (response.type_url, response.nonce)
        changes: list[Change] = []
        held: list[tuple[Key, Resource | None]] = []
        refusal: Refusal | None = None
        if type_url == COMMIT and len(response.resources) == 1 and not response.removed:
            (got,) = response.resources
            value = decode(type_url, got.name, got.version, got.body)
            if isinstance(value, Commit):
                return Committing(answer, value.revision, value.root, position=value.position)
            refusal = value if isinstance(value, Refusal) else None
        if type_url not in STAGED:
            refusal = refusal or Refusal(type_url, "", "not a resource that was asked for")
            return Staging(answer, (), (), refusal)
        for got in response.resources:
            value = decode(type_url, got.name, got.version, got.body)
            if isinstance(value, Refusal):
                return Staging(answer, (), (), value)
            assert not isinstance(value, Commit | IdentityLabels)  # not a type that is staged
            changes.append(Change(type_url, got.name, value))
            held.append(((type_url, got.name), Resource(type_url, got.name, got.version, got.body)))
        for name in response.removed:
            changes.append(Change(type_url, name, None))
            held.append(((type_url, name), None))
        return Staging(answer, tuple(changes), tuple(held))

    # --- the kernel ------------------------------------------------------------------------

    def applied(self, token: int, now: float) -> None:
        self._maps.done(token)
        if not self._cut.done(token, now):
            for ifindex in self._link_writes.pop(token, ()):
                self._tables.endpoints.answered(ifindex, "removed")
        self._after(now)

    def apply_failed(self, token: int, error: DatapathError | Refusal, now: float) -> None:
        self._maps.failed(token)
        refusal = error if isinstance(error, Refusal) else refusal_of(error)
        self._effects.append(Alarm("datapath", refusal.name, refusal.reason))
        if not self._cut.failed(token, refusal, now):
            for ifindex in self._link_writes.pop(token, ()):
                self._tables.endpoints.answered(ifindex, "remove_failed")
            self._tables.endpoints.forget_written()
            self._link_retry = now + RETRY_SECONDS
        self._after(now)

    def audited(self, kernel: Adopted, now: float) -> list[Finding] | None:
        """Compare maps dumped just now with what they should hold, and repair what differs.

        None: a cut is under way, try again later. The repair is a flip to an equal cut, so that no
        packet sees anything between what was found and what is right.
        """
        if not self._cut.settled or self._link_writes or self._opaque:
            return None
        found = audit(self._tables, kernel)
        if found:
            self._maps.found(kernel)
            text = f"{len(found)} entries differ, the first {found[0].kind} in {found[0].map}"
            self._effects.append(Alarm("audit", self.node, text))
            resources = tuple(self._cut.held.now.values())
            cached = CachedCut(
                self.node,
                self._cut.revision,
                self._cut.root,
                self._tables.endpoints.next_id,
                self._cut.distrusts,
                resources,
                self._cut.position,
            )
            self._rebuild(kernel, cached, now)
        self._after(now)
        return found

    def cache_failed(self, reason: str, now: float) -> None:
        """A record is not on disk. What is enforced is as it was; a whole one makes up for it."""
        self._effects.append(Alarm("cache", self.node, reason))
        self._cut.record_lost()
        self._saving.failed()
        self._after(now)

    # --- interfaces ------------------------------------------------------------------------

    def link_added(self, link: Link, now: float) -> None:
        """A new interface of a pod, or news about a known one."""
        self._tables.endpoints.add(link)
        self._after(now)

    def link_removed(self, ifindex: int, now: float) -> None:
        self._attach_retry.pop(ifindex, None)
        self._tables.endpoints.remove(ifindex)
        self._after(now)

    def links_listed(self, links: Iterable[Link], now: float) -> None:
        """All interfaces there are: those that are not among them are gone."""
        listed = {link.ifindex: link for link in links}
        for ifindex in [each for each in self._tables.endpoints.ports if each not in listed]:
            self._tables.endpoints.remove(ifindex)
        for link in listed.values():
            self._tables.endpoints.add(link)
        self._after(now)

    def attached(self, ifindex: int, now: float) -> None:
        self._tables.endpoints.answered(ifindex, "attached")
        self._after(now)

    def attach_failed(self, ifindex: int, reason: str, now: float) -> None:
        self._tables.endpoints.answered(ifindex, "attach_failed")
        if ifindex in self._tables.endpoints.ports:
            self._attach_retry[ifindex] = now + RETRY_SECONDS
            self._effects.append(Alarm("datapath", f"interface {ifindex}", reason))
        self._after(now)

    # --- time ------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        self._cut.tick(now)
        if not self._adopting:
            self._client.tick(now)
        if self._link_retry is not None and now >= self._link_retry:
            self._link_retry = None
        for ifindex, at in list(self._attach_retry.items()):
            if now >= at:
                del self._attach_retry[ifindex]
        self._after(now)

    def next_deadline(self) -> float | None:
        times = [self._cut.retry_at, self._link_retry, *self._attach_retry.values()]
        if not self._adopting:
            times.append(self._client.next_deadline())
        return min((at for at in times if at is not None), default=None)

    def effects(self) -> list[Effect]:
        """What is to be done, in this order; each is given once."""
        effects, self._effects = self._effects, []
        return effects

    # --- what a human asks -----------------------------------------------------------------

    def row(self) -> AgentRow:
        return agent_row(self.node, self._client.state, self._cut, self._limits)

    def endpoint_rows(self) -> tuple[EndpointRow, ...]:
        return endpoint_rows(self.node, self._tables)

    def origins(self, ifindex: int, direction: Direction, cookie: int) -> tuple[str, ...]:
        """Policy objects behind a sampled verdict; () when the default decided or it is over."""
        return self._tables.origins(ifindex, direction, cookie)

    @property
    def enforced(self) -> tuple[int, bytes]:
        """(revision, root) of the cut that the kernel enforces; revision 0: none."""
        return self._cut.revision, self._cut.root

    # --- inside ----------------------------------------------------------------------------

    @property
    def _opaque(self) -> bool:
        """A cut is in force whose content is not known."""
        return bool(self._cut.revision) and not self._cut.held.now and bool(any(self._cut.root))

    def _start(self, kernel: Adopted, cache: CachedCut | None, now: float) -> None:
        empty = not kernel.revision
        usable = cache is not None and cache.node == self.node
        if cache is not None and usable and (empty or cache.root == kernel.root):
            self._adopt(kernel, cache, now)
        else:
            self._tables.load(kernel.active, kernel.maps, kernel.attached)
            if not empty:
                text = "the pinned cut is not in the cache: it stays, everything is asked for anew"
                self._effects.append(Alarm("cache", self.node, text))
        for ifindex, port in self._tables.endpoints.ports.items():
            if port.has_entry:
                self._effects.append(Attach(ifindex))  # this program version, replaced in place

    def _adopt(self, kernel: Adopted, cache: CachedCut, now: float) -> None:
        """Stage the cached cut on what was found, as a cut of our own."""
        changes: list[Change] = []
        held: list[tuple[Key, Resource | None]] = []
        for each in cache.resources:
            value = decode(each.type_url, each.name, each.version, each.body)
            if isinstance(value, Refusal | Commit | IdentityLabels):
                self._tables.load(kernel.active, kernel.maps, kernel.attached)
                self._effects.append(Alarm("cache", each.name, f"can't be read: {value}"))
                return
            changes.append(Change(each.type_url, each.name, value))
            held.append(((each.type_url, each.name), each))
        self._tables.load(kernel.active, kernel.maps, kernel.attached)
        recognise_cut(self._tables, kernel, changes, distrust=cache.distrusts)
        self._adopting = True
        own = Staging(None, tuple(changes), tuple(held), distrust=cache.distrusts)
        self._cut.offer(own, now)
        end = Committing(None, cache.revision, cache.root, cache.distrusts, cache.position)
        self._cut.offer(end, now)

    def _rebuild(self, kernel: Adopted, cut: CachedCut, now: float) -> None:
        former = self._tables.endpoints
        services = self._options.services
        self._tables = Tables(self.node, self._limits, services, cut.next_id, self._trace)
        self._cut = self._cut.successor(self._tables)
        known = {ifindex for ifindex, port in former.ports.items() if port.has_entry}
        self._adopt(
            Adopted(kernel.active, kernel.revision, kernel.root, kernel.maps, frozenset(known)),
            cut,
            now,
        )
        self._tables.endpoints.take_over(former)

    def _distrust(self, now: float) -> None:
        """Nobody vouches for remote pods any more: a cut of our own says so."""
        due = self._client.distrusted and not self._cut.distrusts
        if due and not self._adopting and not self._opaque and self._cut.settled:
            cut = self._cut
            cut.offer(Staging(None, (), (), distrust=True), now)
            cut.offer(Committing(None, cut.revision, cut.root, True, cut.position), now)

    def _close(self, reason: str) -> None:
        if self._connected and not self._closing:
            self._closing = True
            self._effects.append(Disconnect(reason))

    def _report(self) -> Report:
        """What is enforced; nothing when the server is to send everything."""
        held = self._cut.held.now
        empty = self._empty_report or self._opaque or self._cut.distrusts
        if empty or not self._cut.revision:
            self._cut.unconfirmed = set(held)
            return Report()
        versions: dict[str, dict[str, str]] = {}
        for (type_url, name), resource in held.items():
            versions.setdefault(type_url, {})[name] = resource.version
        return Report(self._cut.revision, self._cut.root, versions, self._cut.position)

    def _after(self, now: float) -> None:
        """Turn what the parts have to say into effects."""
        self._distrust(now)
        self._drain_cut(now)
        self._drain_links()
        if self._client.wants_stream and not self._connecting and not self._connected:
            self._connecting = True
            self._effects.append(Connect())
        unsure = self._cut.state in ("flipping", "rolled-back") or self._adopting
        if self._connected and not unsure and self._client.state.endswith("connecting"):
            for frame in self._client.opened(self._report(), now):
                self._effects.append(Send(frame))

    def _drain_cut(self, now: float) -> None:
        outputs = self._cut.take()
        self._note(outputs)
        for output in outputs:
            if isinstance(output, Write):
                self._maps.asked(output.token, output.ops)
                self._effects.append(Apply(output.token, output.ops))
            elif isinstance(output, Answer):
                self._answer(output)
            elif isinstance(output, Save):
                save = self._saving.announced(output.record, in_force=self._adopting)
                self._effects.append(save)
            elif isinstance(output, Enforced):
                self._adopting = False
                if not output.own:
                    self._mismatches, self._empty_report = 0, False
                    if self._connected:
                        self._client.committed(now)
            elif isinstance(output, Refused):
                self._refused(output, now)
            elif isinstance(output, Settled):
                self._maps.settled()
                alone = self._saving.settled(self._cut)
                self._effects += [alone] if alone is not None else []

    def _note(self, outputs: Sequence[Output]) -> None:
        """For a recorded trace: what is in force, and which flips the kernel is asked for."""
        lines, state = self._noted
        if self._trace is None or not (outputs or self._cut.state != state):
            return
        self._noted = (lines + 1, self._cut.state)
        ops = [op for output in outputs if isinstance(output, Write) for op in output.ops]
        flips = [op for op in ops if isinstance(op, Flip)]
        args = {
            "line": lines + 1,
            "state": self._cut.state,
            "force": {**cut(self._cut.revision), "root": self._cut.root[:8].hex()},
            "flips": [{**cut(op.revision), "root": op.root[:8].hex()} for op in flips],
        }
        self._trace(Event("StageCommit", "Cut", args))

    def _answer(self, answer: Answer) -> None:
        if not self._connected or self._closing:
            return
        if answer.refusal is None:
            frame = self._client.ack(answer.type_url, answer.nonce)
        else:
            text = f"{answer.refusal.name}: {answer.refusal.reason}"
            frame = self._client.nack(answer.type_url, answer.nonce, text, answer.refusal)
        self._effects.append(Send(frame))

    def _refused(self, refused: Refused, now: float) -> None:
        refusal = refused.refusal
        self._adopting = False
        self._effects.append(Alarm("refused", refusal.name, refusal.reason))
        if self._connected:
            self._client.refused(now)
        if refused.resync:
            self._mismatches += 1
            self._empty_report = self._mismatches > 1
            self._close(f"starting anew: {refusal.reason}")

    def _drain_links(self) -> None:
        endpoints = self._tables.endpoints
        for ifindex, port in list(endpoints.ports.items()):
            idle = port.state == "discovered" and not port.attaching
            if idle and ifindex not in self._attach_retry:
                port.fire("attach_due")
            if "attach" in port.due:
                port.due.remove("attach")
                self._effects.append(Attach(ifindex))
        if self._link_retry is not None:
            return
        removed: list[int] = []
        for ifindex, port in endpoints.ports.items():
            if port.due:
                port.due.clear()
                removed.append(ifindex)
                self._effects.append(Detach(ifindex))
        ops = self._tables.links_changed(removed)
        if ops or removed:
            token = self._cut.next_token()
            self._link_writes[token] = tuple(removed)
            self._maps.asked(token, ops)
            self._effects.append(Apply(token, tuple(ops)))
