"""A refusal names the policies that a person wrote, whatever compiled resource the node refused."""

from __future__ import annotations

import pytest

from reconciler.core.resources.types import COMMIT, PEER_SET, POLICY, RULE_SET, STAGED
from reconciler.core.xds.client import Client, Report
from reconciler.core.xds.codec import Response, decode_response
from reconciler.core.xds.effects import Send
from reconciler.errors import Refusal
from tests.unit.test_plane import plane_with, shop


def refuse(type_url: str) -> str:
    """The reason that stands after a node refused the first resource of this type."""
    plane, _, _ = plane_with(shop(), capacity=1000)
    client = Client("n1", 0.0)
    client.tick(0.0)
    plane.stream_opened(1, "n1", 0.0)
    for frame in client.opened(Report(), 0.0):
        plane.received(1, frame, 0.0)
    sent = [decode_response(each.frame) for each in plane.effects() if isinstance(each, Send)]
    response = next(each for each in sent if each.type_url == type_url)
    refusal = Refusal(type_url, _named(response), "no room", 9, 5)
    plane.received(1, client.nack(type_url, response.nonce, "no room", refusal), 0.0)
    node = plane.nodes.get("n1")
    assert node is not None
    return node.rollout.nack


def _named(response: Response) -> str:
    """Of two rule sets one is the default: the other one."""
    return max(response.resources, key=lambda resource: len(resource.body)).name


@pytest.mark.parametrize("type_url", [RULE_SET, PEER_SET, POLICY])
def test_the_policy_stands_before_the_reason(type_url: str) -> None:
    assert refuse(type_url) == "NetworkPolicy shop/many: no room"


@pytest.mark.parametrize("type_url", sorted(set(STAGED) - {RULE_SET, PEER_SET, POLICY}))
def test_what_no_policy_leads_to_keeps_its_own_reason(type_url: str) -> None:
    assert refuse(type_url) == "no room"
    assert type_url != COMMIT
