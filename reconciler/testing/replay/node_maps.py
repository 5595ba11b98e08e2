"""specs/NodeMaps.tla on the code: real `Tables` and `Cut` over the maps of a real twin.

The adapter is what stands around them in an agent: it carries out the writes that they ask for, one
by one and as late as it is told to, hands them the resources of the next cut, keeps their records,
and starts them again on what it finds. A packet makes the twin's look-ups, one at a step.

What the spec does not have is done at once and unseen: writes that change nothing, and those of
other reserved groups and of IPv6. The order of the code among maps is required, unless the bounds
say that any may be tried; the order within a map is free, as the kernel leaves it.
"""

from __future__ import annotations

import copy
import pickle
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from reconciler.core.dataplane.adopt import Adopted, recognise_cut
from reconciler.core.dataplane.cut import (
    Committing,
    Cut,
    Enforced,
    Refused,
    Save,
    Staging,
    Write,
)
from reconciler.core.dataplane.layout import (
    ENDPOINT_CLOSED,
    ENDPOINT_VALUE,
    GROUP_VALUE,
    MapId,
    Reason,
)
from reconciler.core.dataplane.ops import Flip, Grace
from reconciler.core.dataplane.records import CachedCut, replay
from reconciler.core.dataplane.tables import Tables
from reconciler.core.policy.ir import Direction
from reconciler.datapath.twin_policy import address_key
from reconciler.errors import Refusal
from reconciler.formal.replay import Disabled
from reconciler.formal.values import Record, Value
from reconciler.testing.replay.node_maps_names import LINK, Names
from reconciler.testing.replay.node_maps_world import (
    Entry,
    Single,
    World,
    as_op,
    change,
    differing,
    effects,
    singles,
)

NODE: Final = "n1"
TCP: Final = 6
SHOWN: Final = (MapId.ADDRESSES, MapId.ENDPOINTS, MapId.GROUPS, MapId.POLICIES)
WRITES: Final = {
    "WriteAddress": MapId.ADDRESSES,
    "WriteGroup": MapId.GROUPS,
    "WritePolicy": MapId.POLICIES,
    "WriteEndpoint": MapId.ENDPOINTS,
}
LOOKS: Final = {
    "Arrive": "none",
    "ReadEndpoint": "endpoint",
    "ReadOwn": "own",
    "ReadAddress": "address",
    "ReadPeer": "peer",
    "ReadPolicy": "policy",
    "Leave": "judged",
}
NO_PACKET: Final = Record(
    at="none", address=0, half=0, cut=0, own=0, rule=0, group=0, peer=0, passed=False, waited=False
)


class Adapter:
    """See the module. `step` raises Disabled with the code's reason."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._shared = False
        self._names: Names | None = None
        self._packet = NO_PACKET

    # --- the protocol ----------------------------------------------------------------------

    def start(self, constants: Mapping[str, Value], state: Mapping[str, Value]) -> None:
        self._names = Names(constants)
        world = self._world = World(self._names)
        self._shared = False
        tables = Tables(NODE, world.limits)
        world.cut = Cut(NODE, tables)
        tables.endpoints.add(LINK)
        tables.endpoints.answered(LINK.ifindex, "attached")
        world.twin.apply(tables.links_changed())
        first = constants["First"]
        if first:
            assert isinstance(first, int)
            self._stage(world, first)
            self._finish(world)
            for _ in range(2):  # twice: the spec begins with the first half in force
                self._commit(world)
                self._finish(world)
        world.responses = 0

    def fork(self) -> Adapter:
        other = copy.copy(self)
        self._shared = other._shared = True
        return other

    def step(self, action: str, args: tuple[Value, ...]) -> None:
        before = self._world, self._shared, self._packet
        try:
            if action in WRITES:
                self._write(WRITES[action], args)
            elif action in LOOKS:
                self._look(action, args)
            else:
                getattr(self, f"_do_{action.lower()}")(*args)
        except Disabled:
            self._world, self._shared, self._packet = before
            raise

    def observe(self) -> Mapping[str, Value]:
        names, world = self._given()
        twin = world.twin
        word = twin.cut()
        enforced = names.of_root[word.roots[word.active]]
        seen: dict[str, Value] = {
            **names.maps({map_id: twin.dump(map_id) for map_id in SHOWN}),
            "active": word.active + 1,
            "enforced": enforced,
            "target": enforced,
            "responses": world.responses,
            "phase": self._phase(),
            "grace": bool(world.batch) and isinstance(world.batch[0], Grace),
            "packet": self._packet,
            "faults": world.faults,
        }
        cut = world.cut
        if cut is not None:
            if cut.state in ("staging", "staged"):
                seen["target"] = names.of_root[cut.held_root]
            seen["now"] = names.tables(cut.tables)
        return seen

    # --- the agent -------------------------------------------------------------------------

    def _do_stage(self, n: int) -> None:
        names, world = self._given()
        cut = self._process()
        if "prepare" not in effects(cut, "stage"):
            raise Disabled(f"the response waits: the cut is {cut.state}")
        if world.batch:
            raise Disabled("its writes wait for those of the response before")
        if world.own and cut.state in ("staging", "staged"):
            raise Disabled("no server is asked while the agent's own cut is under way")
        if cut.tables.begun and not differing(cut, names.cuts[n]):
            raise Disabled("nothing differs from what is held")
        self._within(world.responses, names.max_responses)
        world = self._mine(always=True)
        self._stage(world, n)
        world.own = False
        world.responses += 1

    def _do_grace(self) -> None:
        _, world = self._given()
        if not (world.batch and isinstance(world.batch[0], Grace)):
            raise Disabled("no grace is asked for")
        if self._packet["waited"]:
            raise Disabled("the kernel waits for the packet")
        world = self._mine()
        world.twin.apply([Grace()])
        world.batch.popleft()
        self._drain(world)

    def _write(self, map_id: MapId, args: tuple[Value, ...]) -> None:
        names, world = self._given()
        self._process()
        at = None
        for number, single in enumerate(world.batch):
            if not isinstance(single, tuple):
                break
            if single[0] is not map_id:
                if names.any_order:
                    continue
                break
            if names.arguments(map_id, single[1]) == args:
                at = number
        if at is None:
            raise Disabled("no such write is next")
        world = self._mine()
        single = world.batch[at]
        del world.batch[at]
        world.twin.apply([as_op(single)])
        self._drain(world)

    def _do_flip(self) -> None:
        _, world = self._given()
        cut = self._process()
        if "flip" not in effects(cut, "commit"):
            raise Disabled(f"the commit waits: the cut is {cut.state}")
        world = self._mine(always=True)
        self._commit(world)
        if not isinstance(world.batch[0], Flip):
            raise Disabled("something has to be staged before the flip")
        self._carry_out(world)

    def _do_settle(self) -> None:
        cut = self._process()
        if cut.state != "flipping":
            raise Disabled("no flip is under way")
        world = self._mine()
        assert world.cut is not None
        world.cut.done(world.token, 0.0)
        self._taken(world)

    def _do_break(self) -> None:
        names, world = self._given()
        cut = self._process()
        if "roll_back" not in effects(cut, "discard"):
            raise Disabled("nothing is staged")
        if world.own:
            raise Disabled("a cut of the agent's own needs no stream")
        self._within(world.faults, names.max_faults)
        world = self._mine()
        assert world.cut is not None
        world.batch.clear()
        world.cut.discard(0.0)
        self._taken(world)
        world.faults += 1
        world.responses = 0

    def _do_fail(self) -> None:
        names, world = self._given()
        cut = self._process()
        if not world.batch or not isinstance(world.batch[0], tuple):
            raise Disabled("no write is next")
        self._within(world.faults, names.max_faults)
        world = self._mine()
        cut = self._process()
        world.batch.clear()
        staging = world.kind == "prepare"
        cut.failed(world.token, Refusal("", "a map", "input/output error"), 0.0)
        if cut.retry_at is not None:
            cut.tick(cut.retry_at)
        self._taken(world)
        world.faults += 1
        if staging:
            world.responses = 0

    def _do_crash(self) -> None:
        names, world = self._given()
        self._process()
        self._within(world.faults, names.max_faults)
        world = self._mine()
        world.cut, world.own, world.kind = None, False, ""
        world.batch.clear()
        world.faults += 1
        world.responses = 0
        self._packet = self._packet.replaced(waited=False)

    def _do_adopt(self) -> None:
        kernel, cached = self._found()
        if cached is None:
            raise Disabled("no record has the root of the maps")
        world = self._mine()
        found = cached.resources
        changes = [change(r.type_url, r.name, r.version, r.body) for r in found]
        held = tuple(((each.type_url, each.name), each) for each in found)
        tables = self._load(world, kernel)
        recognise_cut(tables, kernel, changes)
        world.own = True
        assert world.cut is not None
        world.cut.offer(Staging(None, tuple(changes), held), 0.0)
        tables.endpoints.add(LINK)
        self._taken(world)
        world.responses = 1

    def _do_load(self) -> None:
        kernel, _ = self._found()
        world = self._mine()
        tables = self._load(world, kernel)
        tables.endpoints.add(LINK)
        world.batch.extend(singles(tables.links_changed()))
        self._drain(world)

    # --- its parts -------------------------------------------------------------------------

    def _given(self) -> tuple[Names, World]:
        assert self._names is not None
        assert self._world is not None
        return self._names, self._world

    def _mine(self, *, always: bool = False) -> World:
        """The world, to be changed: a fork gets its own only now. always: it may be given up.

        Copied by pickle, which is several times as fast as `deepcopy`.
        """
        assert self._world is not None
        if self._shared or always:
            self._world = pickle.loads(pickle.dumps(self._world, -1))
            self._shared = False
        return self._world

    def _process(self) -> Cut:
        _, world = self._given()
        if world.cut is None:
            raise Disabled("no process runs")
        return world.cut

    def _within(self, count: int, most: int) -> None:
        if count >= most:
            raise Disabled("the bounds of the search allow no more")

    def _phase(self) -> str:
        _, world = self._given()
        if world.cut is None:
            return "down"
        state = world.cut.state
        if state in ("staging", "staged"):
            return "adopting" if world.own else "staging"
        if state == "flipping":
            return "flipped"
        return "undone" if world.kind == "undo" else "settled"

    def _stage(self, world: World, n: int) -> None:
        assert world.cut is not None
        assert self._names is not None
        wanted = self._names.cuts[n]
        changes = differing(world.cut, wanted)
        held = tuple(((c.type_url, c.name), wanted.get((c.type_url, c.name))) for c in changes)
        world.cut.offer(Staging(("any", "1"), tuple(changes), held), 0.0)
        if world.cut.refusal is not None and world.cut.state == "rolled-back":
            raise Disabled(world.cut.refusal.reason)
        self._taken(world)

    def _commit(self, world: World) -> None:
        cut = world.cut
        assert cut is not None
        answer = None if world.own else ("commit", "1")
        revision = cut.revision if world.own else cut.revision + 1
        cut.offer(Committing(answer, revision, cut.held_root), 0.0)
        self._taken(world)

    def _taken(self, world: World) -> None:
        """Take what the cut asks for."""
        cut = world.cut
        assert cut is not None
        for output in cut.take():
            if isinstance(output, Save):
                world.disk = [output.record] if world.own else [*world.disk, output.record]
            elif isinstance(output, Enforced | Refused):
                world.own = False
            elif isinstance(output, Write):
                world.token, world.kind = output.token, cut.under_way[output.token]
                world.batch = deque(singles(output.ops))
                if world.batch and isinstance(world.batch[0], Grace):
                    here = self._packet["at"] != "none"
                    self._packet = self._packet.replaced(waited=here)
                elif world.kind == "undo":
                    self._packet = self._packet.replaced(waited=False)
        self._drain(world)

    def _drain(self, world: World) -> None:
        """Carry out what the spec does not have or see; tell the cut when all is done."""
        left: deque[Single] = deque()
        while world.batch and isinstance(world.batch[0], tuple):
            entry = world.batch.popleft()
            assert isinstance(entry, tuple)
            if self._seen(world, entry):
                left.append(entry)
            else:
                world.twin.apply([as_op(entry)])
        world.batch.extendleft(reversed(left))
        cut = world.cut
        done = not world.batch and world.kind in ("prepare", "clean", "undo")
        if done and cut is not None and world.token in cut.under_way:
            cut.done(world.token, 0.0)
            self._taken(world)

    def _seen(self, world: World, entry: Entry) -> bool:
        assert self._names is not None
        map_id, key, value = entry
        there = world.twin.dump(map_id).get(key)
        if map_id is MapId.GROUPS:
            there, value = there or bytes(GROUP_VALUE.size), value or bytes(GROUP_VALUE.size)
        return there != value and self._names.arguments(map_id, key) is not None

    def _carry_out(self, world: World) -> None:
        single = world.batch.popleft()
        world.twin.apply([as_op(single)])
        if isinstance(single, Flip):
            world.responses = 0

    def _finish(self, world: World) -> None:
        """Everything that is due is done."""
        while world.batch:
            flips = isinstance(world.batch[0], Flip)
            self._carry_out(world)
            if flips:
                assert world.cut is not None
                world.cut.done(world.token, 0.0)
                self._taken(world)
            else:
                self._drain(world)

    def _found(self) -> tuple[Adopted, CachedCut | None]:
        _, world = self._given()
        if world.cut is not None:
            raise Disabled("the process lives")
        word = world.twin.cut()
        endpoints = world.twin.dump(MapId.ENDPOINTS)
        kernel = Adopted(
            active=word.active,
            revision=word.revisions[word.active],
            root=word.roots[word.active],
            maps={map_id: world.twin.dump(map_id) for map_id in SHOWN},
            attached=frozenset({LINK.ifindex}),
            ids=frozenset(ENDPOINT_VALUE.unpack(value)[0] for value in endpoints.values()),
        )
        return kernel, replay(world.disk, NODE, kernel.root)

    def _load(self, world: World, kernel: Adopted) -> Tables:
        tables = Tables(NODE, world.limits)
        tables.load(kernel.active, kernel.maps, kernel.attached)
        world.cut = Cut(NODE, tables)
        world.cut.revision, world.cut.root = kernel.revision, kernel.root
        return tables

    # --- the packet ------------------------------------------------------------------------

    def _look(self, action: str, args: tuple[Value, ...]) -> None:
        names, world = self._given()
        policy = world.twin.policy
        packet: Any = self._packet
        if packet["at"] != LOOKS[action]:
            raise Disabled(f"the packet is elsewhere: {packet['at']}")
        half = packet["half"] - 1
        if action == "Arrive":
            word = world.twin.cut()
            self._packet = NO_PACKET.replaced(
                at="endpoint",
                address=args[0],
                half=policy.half() + 1,
                cut=names.of_root[word.roots[word.active]],
            )
        elif action == "ReadEndpoint":
            found = policy.endpoint(LINK.ifindex, half)
            if found is None or found.flags & ENDPOINT_CLOSED:
                self._judged(False)
            else:
                self._packet = packet.replaced(at="own", own=names.group_index(found.group))
        elif action == "ReadOwn":
            row = policy.group(names.group_code(packet["own"]), half)
            if row is None or not row[1]:
                self._judged(False)
            else:
                number = names.rule_number(row[1])
                self._packet = packet.replaced(at="address", rule=number, own=0)
        elif action == "ReadAddress":
            address, family = address_key(names.address(packet["address"]))
            group = names.group_index(policy.owner(address, family, half))
            self._packet = packet.replaced(at="peer", group=group)
        elif action == "ReadPeer":
            identity = policy.identity(names.group_code(packet["group"]), half)
            peer = names.peer_index(identity)
            self._packet = packet.replaced(at="policy", peer=peer, group=0)
        elif action == "ReadPolicy":
            number = names.rule_code(packet["rule"])
            identity = names.peer_code(packet["peer"])
            ruling = policy.verdict(number, identity, Direction.INGRESS, TCP, 80)
            self._judged(ruling.reason is Reason.ALLOWED)
        else:
            self._packet = NO_PACKET

    def _judged(self, passed: bool) -> None:
        self._packet = self._packet.replaced(
            at="judged", passed=passed, own=0, rule=0, group=0, peer=0
        )
