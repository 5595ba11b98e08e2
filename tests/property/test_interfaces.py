"""Interfaces that come, go, come back under their index and lose their programs, while writes and
attachments fail and the agent is killed: each that is there ends up attached, and none is ever
judged as the pod that had its index before.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.dataplane.effects import Apply, Attach
from reconciler.core.dataplane.endpoints import Link
from reconciler.core.dataplane.layout import ENDPOINT_KEY, ENDPOINT_VALUE, MapId, Reason
from reconciler.core.policy.ir import Direction
from reconciler.errors import DatapathError
from tests.unit.agent_rig import DB_ADDRESS, WEB_ADDRESS, Rig, cut

FAULT = DatapathError("update", "endpoints", 5, "no")
INDICES = (7, 8)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                "add",
                "remove",
                "replace",
                "rename",
                "work",
                "work",
                "fail",
                "restart",
                "strip",
                "wait",
            )
        ),
        st.sampled_from(INDICES),
        st.sampled_from(("shop/db", "shop/other")),
    ),
    max_size=30,
)


class Node:
    """Devices by index, and the pods behind them. Only the first index is ever the pod's that a
    cut has."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.rig.connect()
        self.rig.serve(1, cut())
        self.pods: dict[int, str] = {}

    def take(self, what: str, index: int, pod: str) -> None:
        match what:
            case "add":
                self.add(index, pod)
            case "remove":
                self.remove(index)
            case "replace":
                self.remove(index)
                self.add(index, pod)
            case "rename" if index in self.pods:
                self.rig.core.link_added(Link(index, "renamed"), self.rig.now)
            case "work" | "fail":
                self.work(fails=what == "fail")
            case "restart":
                self.restart()
            case "strip":
                self.rig.twin.detach(index)
                self.restart()
            case "wait":
                self.rig.now += 2.0
                self.rig.core.tick(self.rig.now)
        self.rig.collect()
        self.check()

    def add(self, index: int, pod: str) -> None:
        if index not in self.pods:
            self.pods[index] = pod if index == INDICES[0] else "shop/other"
            self.rig.core.link_added(Link(index, "veth", pod=self.pods[index]), self.rig.now)

    def remove(self, index: int) -> None:
        if self.pods.pop(index, None) is not None:
            self.rig.twin.detach(index)  # they go with the device
            self.rig.core.link_removed(index, self.rig.now)

    def restart(self) -> None:
        """What the CNI said is forgotten, where the map says it too."""
        self.rig.open = False
        self.rig.start()
        self.rig.core.links_listed(
            [
                Link(index, "veth", pod="" if self.is_open(index) else pod)
                for index, pod in self.pods.items()
            ],
            self.rig.now,
        )

    def is_open(self, index: int) -> bool:
        value = self.rig.twin.dump(MapId.ENDPOINTS).get(ENDPOINT_KEY.pack(index))
        if value is None or index not in self.rig.twin.attached():
            return False
        return bool(ENDPOINT_VALUE.unpack(value)[3 + 3 * self.rig.twin.cut().active] == DB_ADDRESS)

    def work(self, *, fails: bool = False) -> None:
        rig = self.rig
        if not rig.work:
            return
        effect = rig.work[0]
        if isinstance(effect, Attach) and (fails or effect.ifindex not in self.pods):
            rig.work.popleft()
            rig.core.attach_failed(effect.ifindex, "no", rig.now)
        elif isinstance(effect, Apply) and fails:
            rig.work.popleft()
            rig.core.apply_failed(effect.token, FAULT, rig.now)
        else:
            rig.step()

    def allows(self, index: int) -> bool:
        reason = self.rig.twin.classify(index, Direction.INGRESS, WEB_ADDRESS, 6, 80)
        return index in self.rig.twin.attached() and reason is Reason.ALLOWED

    def check(self) -> None:
        for index, pod in self.pods.items():
            assert pod == "shop/db" or not self.allows(index)

    def settle(self) -> None:
        """All that is asked for is done; at last a server says everything, as it does to an agent
        whose adoption failed."""
        for _ in range(4):
            while self.rig.work:
                self.work()
                self.rig.collect()
                self.check()
            self.take("wait", 0, "")
        if not self.rig.open:
            self.rig.connect()
        self.rig.serve(2, cut())


@given(STEPS)
def test_every_interface_is_attached_as_its_own_pod(steps: list[tuple[str, int, str]]) -> None:
    node = Node()
    for what, index, pod in steps:
        node.take(what, index, pod)
    node.settle()
    assert node.rig.twin.attached() == node.pods.keys()
    entries = node.rig.twin.dump(MapId.ENDPOINTS)
    assert entries.keys() == {ENDPOINT_KEY.pack(index) for index in node.pods}
    assert {index for index in node.pods if node.allows(index)} == {
        index for index, pod in node.pods.items() if pod == "shop/db"
    }
