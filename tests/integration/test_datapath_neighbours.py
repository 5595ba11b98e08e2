"""How far a pod's neighbour messages go past its policy: on every datapath.

On the link they are free: without them nobody is reached. An address may be beyond it, and a
message could carry anything there: such a one passes only as what resolution needs, to whom the
cluster knows; anything else is judged as ordinary ICMPv6.
"""

from __future__ import annotations

from typing import Final

import pytest

from reconciler.core.dataplane.layout import Reason
from reconciler.testing import neighbours
from reconciler.testing.packets import ICMPV6, address, ethernet, icmpv6, ip
from tests.integration.datapath_pod import ANY, OUT, Make
from tests.integration.kernel_world import POD_A, POD_B, policy_entry

A6, B6 = POD_A.ipv6, POD_B.ipv6
OUTSIDE: Final = "2001:db8::1"


def loaded(type: int, destination: str, target: str) -> bytes:
    """A message that carries more than neighbours need."""
    message = icmpv6(A6, destination, type, payload=address(target) + bytes(16))
    return ethernet(ip(A6, destination, ICMPV6, message, hops=255))


SENT: Final[dict[str, tuple[bytes, bool]]] = {
    "reachability probe of another pod": (
        ethernet(neighbours.neighbour_solicitation(A6, B6, destination=B6)),
        True,
    ),
    "answer to another pod": (
        ethernet(neighbours.neighbour_advertisement(A6, A6, destination=B6)),
        True,
    ),
    "solicitation to one who is not its target": (
        ethernet(neighbours.neighbour_solicitation(A6, A6, destination=B6)),
        False,
    ),
    "solicitation that ends before its target": (
        ethernet(ip(A6, B6, ICMPV6, icmpv6(A6, B6, 135, payload=bytes(15)), hops=255)),
        False,
    ),
    "solicitation with a load": (loaded(135, B6, B6), False),
    "answer with a load": (loaded(136, B6, A6), False),
    "solicitation with a load on the link": (loaded(135, "ff02::1", B6), True),
    "solicitation to the world": (
        ethernet(neighbours.neighbour_solicitation(A6, OUTSIDE, destination=OUTSIDE)),
        False,
    ),
    "answer to the world": (
        ethernet(neighbours.neighbour_advertisement(A6, A6, destination=OUTSIDE)),
        False,
    ),
    "router solicitation to a pod": (
        ethernet(ip(A6, B6, ICMPV6, icmpv6(A6, B6, 133), hops=255)),
        False,
    ),
    "solicitation to a group beyond the link": (loaded(135, "ff05::1", B6), False),
}


@pytest.mark.parametrize("name", SENT)
@pytest.mark.parametrize("policy", [True, False], ids=["allowed", "isolated"])
def test_what_is_for_neighbours_passes_and_the_rest_is_for_policy(
    make: Make, name: str, policy: bool
) -> None:
    frame, neighbour = SENT[name]
    pod = make(*([policy_entry(POD_A.egress, ANY, OUT)] if policy else ()))
    expected = Reason.ALLOWED if policy else Reason.NO_RULE
    if neighbour:
        expected = Reason.NEIGHBOUR
    assert pod.datapath.probe(frame, ifindex=POD_A.ifindex, direction=OUT) is expected
    assert pod.sends(frame) is expected
