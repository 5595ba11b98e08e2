"""One agent core on the in-memory datapath, with a hand-driven server at the other end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from pyroaring import BitMap

from reconciler.agent.applier import read_kernel
from reconciler.core.dataplane.agent import AgentCore
from reconciler.core.dataplane.effects import (
    Alarm,
    Apply,
    Attach,
    Connect,
    Detach,
    Disconnect,
    Effect,
    Options,
    SaveCache,
    Send,
)
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import MapId, Reason, map_specs
from reconciler.core.dataplane.records import Record, decode_record, replay
from reconciler.core.policy.ir import Direction, IdentityPolicy, Prefix, Rule, RuleSet, Verdict
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import encode, root
from reconciler.core.resources.types import COMMIT, CUT_TYPES, STAGED, Resource
from reconciler.core.xds.codec import Encoder, Request, decode_request
from reconciler.datapath.twin import TwinDatapath
from reconciler.errors import DatapathError

WEB, DB = "shop/" + "0" * 32, "shop/" + "1" * 32
SELECTOR = "a" * 32
CLUSTER = Prefix(bytes([10, 1, 0, 0]), 16)
WEB_ADDRESS, DB_ADDRESS = bytes([10, 1, 0, 1]), bytes([10, 1, 0, 2])
REMOTE, WORLD = bytes([10, 1, 9, 9]), bytes([8, 8, 8, 8])
LINK = 7

Table = dict[tuple[str, str], Resource]


def table(resources: Iterable[Resource | None]) -> Table:
    return {(each.type_url, each.name): each for each in resources if each is not None}


def cut(
    *, members: Iterable[int] = (256,), birth: int = 1, remote: Iterable[bytes] = (REMOTE,)
) -> Table:
    """DB, a pod of this node, lets in what the peer set holds (256 = web: one pod of it is
    remote) and sends to everyone."""
    ingress = RuleSet(
        Direction.INGRESS,
        True,
        (Rule(Verdict.ALLOW, peer_sets=(SELECTOR,), origins=("NetworkPolicy shop/db",)),),
    )
    egress = RuleSet(Direction.EGRESS, False, ())
    names = rule_set_hash(ingress), rule_set_hash(egress)
    return table(
        (
            encode.peer_set(SELECTOR, BitMap(members), 0),
            encode.rule_set(names[0], ingress),
            encode.rule_set(names[1], egress),
            encode.policy(IdentityPolicy(257, 1, *names)),
            *encode.bindings("shop", {WEB: (256, birth), DB: (257, 1)}),
            *encode.address_group(WEB, [WEB_ADDRESS, *remote]),
            *encode.address_group(DB, [DB_ADDRESS]),
            *encode.unknown([CLUSTER]),
            encode.endpoint("shop", "db", uid="u1", ipv4=DB_ADDRESS, ipv6=b"", group=DB),
        )
    )


def root_of(resources: Table) -> bytes:
    return root.to_bytes(root.total((*key, each.version) for key, each in resources.items()))


class Rig:
    def __init__(self, options: Options | None = None, **limits: int) -> None:
        self.now = 0.0
        self.options = options
        self._specs = map_specs(**limits)
        self.twin = TwinDatapath(self._specs, lambda: int(self.now * 1e9))
        self.disk: list[bytes] = []
        self.encoder = Encoder()
        self.start()

    # --- the process -----------------------------------------------------------------------

    def start(self, *, cached: bool = True) -> None:
        kernel = read_kernel(self.twin)
        records: list[Record] = []
        for data in self.disk if cached else ():
            record = decode_record(data)
            assert record is not None
            records.append(record)
        found = replay(records, "n1", kernel.root if kernel.revision else None)
        self.core = AgentCore("n1", self.twin.limits, kernel, found, self.now, self.options)
        self.wants_stream = self.open = False
        self.work: deque[Effect] = deque()
        self.alarms: list[Alarm] = []
        self.sent: list[Request] = []
        self.log: list[Effect] = []
        self.collect()

    def reboot(self) -> None:
        self.twin = TwinDatapath(self._specs, lambda: int(self.now * 1e9))
        self.start()

    def collect(self) -> None:
        for effect in self.core.effects():
            self.log.append(effect)
            if isinstance(effect, Connect):
                assert not self.open
                self.wants_stream = True
            elif isinstance(effect, Disconnect):
                self.lose()
            elif isinstance(effect, Send):
                assert self.open
                self.sent.append(decode_request(effect.frame))
            elif isinstance(effect, Alarm):
                self.alarms.append(effect)
            else:
                self.work.append(effect)

    def step(self) -> None:
        effect = self.work.popleft()
        if isinstance(effect, Apply):
            try:
                self.twin.apply(effect.ops)
            except DatapathError as error:
                self.core.apply_failed(effect.token, error, self.now)
            else:
                self.core.applied(effect.token, self.now)
        elif isinstance(effect, SaveCache):
            self.disk = [*self.disk, effect.data] if effect.append else [effect.data]
        elif isinstance(effect, Attach):
            self.twin.attach(effect.ifindex)
            self.core.attached(effect.ifindex, self.now)
        elif isinstance(effect, Detach):
            self.twin.detach(effect.ifindex)
        self.collect()

    def settle(self) -> None:
        while self.work:
            self.step()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.core.tick(self.now)
        self.collect()
        self.settle()

    # --- the stream ------------------------------------------------------------------------

    def connect(self) -> dict[str, dict[str, str]]:
        """Open the stream the core waits for; what was reported: type → name → version."""
        if not self.wants_stream:
            self.wait(60.0)
        assert self.wants_stream
        self.wants_stream, self.open, self.sent = False, True, []
        self.core.connected(self.now)
        self.collect()
        self.settle()
        assert [each.type_url for each in self.sent] == list(CUT_TYPES)
        return {each.type_url: each.initial for each in self.sent}

    def lose(self) -> None:
        self.open = False
        self.core.disconnected("lost", self.now)
        self.collect()

    def send(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            self.core.received(frame, self.now)
            self.collect()

    def staging(self, old: Mapping[tuple[str, str], Resource], new: Table) -> list[bytes]:
        frames = []
        for type_url in STAGED:
            changed = [
                each
                for key, each in sorted(new.items())
                if key[0] == type_url and (key not in old or old[key].version != each.version)
            ]
            gone = [name for kind, name in sorted(old) if kind == type_url]
            gone = [name for name in gone if (type_url, name) not in new]
            if changed or gone:
                frames += [each.data for each in self.encoder.frames(type_url, changed, gone)]
        return frames

    def commit(self, revision: int, new: Table) -> list[bytes]:
        resource = encode.commit(revision, root_of(new))
        return [each.data for each in self.encoder.frames(COMMIT, [resource])]

    def serve(self, revision: int, new: Table, old: Table | None = None) -> list[Request]:
        """A whole cut, in order; the answers."""
        self.sent = []
        self.send(self.staging(old or {}, new))
        self.settle()
        self.send(self.commit(revision, new))
        self.settle()
        return self.sent

    # --- the kernel ------------------------------------------------------------------------

    def ingress(self, peer: bytes) -> Reason:
        return self.twin.classify(LINK, Direction.INGRESS, peer, 6, 80)

    @property
    def enforced(self) -> tuple[int, bytes]:
        word = self.twin.cut()
        return word.revisions[word.active], word.roots[word.active]

    def usage(self) -> dict[str, int]:
        maps = (MapId.ADDRESSES, MapId.GROUPS, MapId.POLICIES, MapId.ENDPOINTS)
        return {each.value: len(self.twin.dump(each)) for each in maps}


def enforcing(first: Table) -> Rig:
    """A pod's interface, and a first cut in force."""
    rig = Rig()
    rig.core.link_added(Link(LINK, pod="shop/db"), 0.0)
    rig.collect()
    rig.settle()
    rig.connect()
    rig.serve(1, first)
    return rig
