"""Encoding and decoding are each other's inverse, and everything else is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from pyroaring import BitMap

from reconciler.core.policy.ir import (
    CidrBlock,
    Direction,
    IdentityPolicy,
    PortRange,
    Prefix,
    Rule,
    RuleSet,
    Verdict,
)
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import encode
from reconciler.core.resources.decode import decode
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    BINDINGS,
    COMMIT,
    ENDPOINT,
    IDENTITY,
    PEER_SET,
    POLICY,
    RULE_SET,
    Resource,
)
from reconciler.core.resources.values import (
    Addresses,
    Bindings,
    Commit,
    IdentityLabels,
    LocalPod,
    Members,
    Value,
)
from reconciler.errors import Refusal
from reconciler.wire import resources_pb2 as pb

HASH = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
GROUP = f"shop/{HASH}"
RULES = RuleSet(
    Direction.INGRESS,
    True,
    (
        Rule(
            Verdict.ALLOW,
            ports=(PortRange(6, 80, 80), PortRange(6, 443, 443)),
            peer_sets=(HASH, OTHER),
            cidrs=(
                CidrBlock(Prefix(bytes(16), 0)),
                CidrBlock(Prefix(b"\x0a\0\0\0", 8), (Prefix(b"\x0a\1\0\0", 16),)),
            ),
            reserved=(1, 6),
            origins=("NetworkPolicy shop/allow-web#spec.ingress[0]",),
        ),
        Rule(Verdict.DENY, any_peer=True),
    ),
)


def read(resource: Resource) -> Value | Refusal:
    return decode(resource.type_url, resource.name, resource.version, resource.body)


def only(resources: list[Resource]) -> Resource:
    (resource,) = resources
    return resource


def made(resource: Resource | None) -> Resource:
    assert resource is not None
    return resource


GOOD: list[tuple[Resource, Value]] = [
    (made(encode.peer_set(HASH, BitMap([256, 300]), 0)), Members(HASH, frozenset({256, 300}))),
    (
        made(encode.peer_set(HASH, BitMap(range(1024, 2048)), 1)),
        Members(HASH, frozenset(range(1024, 2048))),
    ),
    (made(encode.peer_set(HASH, BitMap([65535]), 63)), Members(HASH, frozenset({65535}))),
    (encode.rule_set(rule_set_hash(RULES), RULES), RULES),
    (encode.policy(IdentityPolicy(300, 7, HASH, OTHER)), IdentityPolicy(300, 7, HASH, OTHER)),
    (
        only(encode.bindings("shop", {GROUP: (300, 7), f"shop/{OTHER}": (2, 0)})),
        Bindings(((GROUP, 300, 7), (f"shop/{OTHER}", 2, 0))),
    ),
    (
        only(encode.address_group(GROUP, [bytes(16), b"\x0a\0\0\2", b"\x0a\0\0\1"])),
        Addresses("pods", GROUP, (b"\x0a\0\0\1", b"\x0a\0\0\2", bytes(16))),
    ),
    (
        only(encode.node_group("n1.example", [b"\xc0\0\2\1"])),
        Addresses("node", "n1.example", (b"\xc0\0\2\1",)),
    ),
    (only(encode.api_server([b"\xc0\0\2\1"])), Addresses("kube-apiserver", "", (b"\xc0\0\2\1",))),
    (
        only(encode.unknown([Prefix(b"\x0a\0\0\0", 8)])),
        Addresses("unknown", "", (), (Prefix(b"\x0a\0\0\0", 8),)),
    ),
    (
        encode.endpoint("shop", "a", uid="u", ipv4=b"\x0a\0\0\1", ipv6=b"", group=GROUP),
        LocalPod("shop/a", "u", b"\x0a\0\0\1", b"", GROUP),
    ),
    (encode.commit(5 << 32 | 1, bytes(range(32))), Commit(5 << 32 | 1, bytes(range(32)))),
    (encode.identity(300, 7, ["k8s:app=web"]), IdentityLabels(300, 7, ("k8s:app=web",))),
]


@pytest.mark.parametrize(("resource", "value"), GOOD, ids=lambda each: getattr(each, "name", ""))
def test_what_is_encoded_is_decoded(resource: Resource, value: Value) -> None:
    assert read(resource) == value


@pytest.mark.parametrize("resource", [each for each, _ in GOOD], ids=lambda each: each.name)
def test_a_damaged_or_renamed_resource_is_refused(resource: Resource) -> None:
    """Each resource cut short, grown, with another's version, or under another's name."""
    type_url, name, version, body = (
        resource.type_url, resource.name, resource.version, resource.body
    )  # fmt: skip
    unknown_field = body + b"\xa2\x06\x01x"
    assert isinstance(decode(type_url, name, version, body[:-1]), Refusal)
    assert isinstance(decode(type_url, name, version, body + b"\0"), Refusal)
    assert isinstance(decode(type_url, name, version + "x", body), Refusal)
    assert isinstance(
        decode(type_url, name, encode.version_of(unknown_field), unknown_field), Refusal
    )
    for other in ("", "x", name + "1", "y" + name, name.replace("/", "")):
        if other != name:
            assert isinstance(decode(type_url, other, version, body), Refusal), other


def v4(*addresses: str) -> bytes:
    return b"".join(bytes(map(int, each.split("."))) for each in addresses)


def rule(**fields: Any) -> pb.RuleSet:
    base: dict[str, Any] = {"verdict": pb.ALLOW, "any_peer": True}
    return pb.RuleSet(direction=pb.INGRESS, enforced=True, rules=[pb.Rule(**(base | fields))])


def block(address: bytes, length: int, *excepts: pb.Prefix) -> pb.CidrBlock:
    return pb.CidrBlock(prefix=pb.Prefix(address=address, length=length), excepts=excepts)


BAD: list[tuple[str, str, Message, str]] = [
    (PEER_SET, f"{HASH}/1", pb.PeerSet(base=0, bitmap=bytes(128)), "range"),
    (PEER_SET, f"{HASH}/64", pb.PeerSet(base=65536, bitmap=b"\1" * 128), "no such shard"),
    (PEER_SET, f"{HASH}/01", pb.PeerSet(base=1024, bitmap=b"\1" * 128), "shard"),
    (PEER_SET, f"{HASH}/1", pb.PeerSet(base=1024, bitmap=b"\1"), "128"),
    (PEER_SET, f"{HASH}/1", pb.PeerSet(base=1024, bitmap=bytes(128)), "no members"),
    (PEER_SET, f"{HASH}/1", pb.PeerSet(base=1024), "no members"),
    (PEER_SET, f"{HASH}/1", pb.PeerSet(base=1024, numbers=pb.NumberList(offsets=[2, 1])), "asc"),
    (PEER_SET, f"{HASH}/1", pb.PeerSet(base=1024, numbers=pb.NumberList(offsets=[1, 1])), "asc"),
    (PEER_SET, f"{HASH}/1", pb.PeerSet(base=1024, numbers=pb.NumberList(offsets=[1024])), "range"),
    (PEER_SET, f"{HASH}/0", pb.PeerSet(base=0, numbers=pb.NumberList(offsets=[255])), "reserved"),
    (PEER_SET, f"{HASH[1:]}/0", pb.PeerSet(numbers=pb.NumberList(offsets=[300])), "hash"),
    (RULE_SET, HASH, pb.RuleSet(direction=pb.INGRESS, enforced=True), "name"),
    (RULE_SET, HASH, pb.RuleSet(enforced=True), "direction"),
    (RULE_SET, HASH, pb.RuleSet(direction=3), "direction"),  # type: ignore[arg-type]
    (RULE_SET, HASH, rule(verdict=pb.VERDICT_UNSPECIFIED), "verdict"),
    (RULE_SET, HASH, rule(verdict=7), "verdict"),
    (RULE_SET, HASH, rule(ports=[pb.PortRange(protocol=0, first=1, last=2)]), "protocol"),
    (RULE_SET, HASH, rule(ports=[pb.PortRange(protocol=256, first=1, last=2)]), "protocol"),
    (RULE_SET, HASH, rule(ports=[pb.PortRange(protocol=6, first=2, last=1)]), "ports"),
    (RULE_SET, HASH, rule(ports=[pb.PortRange(protocol=6, first=2, last=65536)]), "ports"),
    (RULE_SET, HASH, rule(peer_sets=["x"]), "selector hash"),
    (RULE_SET, HASH, rule(peer_sets=[OTHER, HASH]), "ascending"),
    (RULE_SET, HASH, rule(reserved=[256]), "reserved number"),
    (RULE_SET, HASH, rule(reserved=[6, 1]), "ascending"),
    (RULE_SET, HASH, rule(cidrs=[block(b"abc", 8)]), "bytes"),
    (RULE_SET, HASH, rule(cidrs=[block(bytes(4), 33)]), "length"),
    (RULE_SET, HASH, rule(cidrs=[block(v4("10.0.0.1"), 24)]), "host bits"),
    (
        RULE_SET,
        HASH,
        rule(cidrs=[block(v4("10.0.0.0"), 8, pb.Prefix(address=v4("11.0.0.0"), length=16))]),
        "inside",
    ),
    (POLICY, "301", pb.Policy(number=300, birth=1, ingress=HASH, egress=HASH), "name"),
    (POLICY, "300", pb.Policy(number=300, ingress=HASH, egress=HASH), "birth"),
    (POLICY, "2", pb.Policy(number=2, birth=1, ingress=HASH, egress=HASH), "birth"),
    (POLICY, "65536", pb.Policy(number=65536, birth=1, ingress=HASH, egress=HASH), "identity"),
    (POLICY, "300", pb.Policy(number=300, birth=1, ingress="", egress=HASH), "rule set"),
    (BINDINGS, "shop/0", pb.Bindings(namespace="shop"), "bindings"),
    (
        BINDINGS,
        "shop/0",
        pb.Bindings(namespace="shop", bindings=[pb.Binding(group=b"x", number=300, birth=1)]),
        "16 bytes",
    ),
    (
        BINDINGS,
        "shop/0",
        pb.Bindings(
            namespace="shop", bindings=[pb.Binding(group=bytes(16), number=300, birth=1)] * 2
        ),
        "ascending",
    ),
    (
        BINDINGS,
        "shop/0",
        pb.Bindings(
            namespace="shop",
            bindings=[
                pb.Binding(group=bytes([each]) * 16, number=300, birth=1) for each in range(129)
            ],
        ),
        "128",
    ),
    (
        BINDINGS,
        "shop/0",
        pb.Bindings(namespace="shop", bindings=[pb.Binding(group=bytes(16), number=300)]),
        "birth",
    ),
    (
        BINDINGS,
        "shop/0",
        pb.Bindings(namespace="s", bindings=[pb.Binding(group=bytes(16), number=1)]),
        "namespace",
    ),
    (ADDRESS_GROUP, f"{GROUP}/0", pb.AddressGroup(namespace="shop", ipv4=b"abcd"), "reserved"),
    (
        ADDRESS_GROUP,
        f"{GROUP}/0",
        pb.AddressGroup(namespace="shop", group=bytes.fromhex(HASH), ipv4=b"abc"),
        "4 bytes",
    ),
    (
        ADDRESS_GROUP,
        f"{GROUP}/0",
        pb.AddressGroup(namespace="shop", group=bytes.fromhex(HASH), ipv6=b"abc"),
        "16 bytes",
    ),
    (
        ADDRESS_GROUP,
        f"{GROUP}/0",
        pb.AddressGroup(
            namespace="shop", group=bytes.fromhex(HASH), ipv4=v4("1.2.3.4", "1.2.3.3")
        ),
        "ascending",
    ),
    (
        ADDRESS_GROUP,
        f"{GROUP}/0",
        pb.AddressGroup(namespace="shop", group=bytes.fromhex(HASH)),
        "addresses",
    ),
    (
        ADDRESS_GROUP,
        f"{GROUP}/0",
        pb.AddressGroup(
            namespace="shop",
            group=bytes.fromhex(HASH),
            ipv4=b"".join(bytes([10, 0, 0, each]) for each in range(17)),
        ),
        "at most 16",
    ),
    (
        ADDRESS_GROUP,
        "reserved/ingress/0",
        pb.AddressGroup(namespace="reserved", reserved="ingress", ipv4=v4("1.2.3.4")),
        "does not know|knows",
    ),
    (
        ADDRESS_GROUP,
        "reserved/node./0",
        pb.AddressGroup(namespace="reserved", reserved="node", ipv4=v4("1.2.3.4")),
        "node",
    ),
    (
        ADDRESS_GROUP,
        "reserved/unknown/0",
        pb.AddressGroup(namespace="reserved", reserved="unknown", ipv4=v4("1.2.3.4")),
        "prefixes",
    ),
    (ENDPOINT, "shop/a", pb.Endpoint(namespace="shop", pod="a", group=bytes(16)), "no address"),
    (
        ENDPOINT,
        "shop/a",
        pb.Endpoint(namespace="shop", pod="a", group=bytes(16), ipv4=b"abc"),
        "4 bytes",
    ),
    (
        ENDPOINT,
        "shop/a",
        pb.Endpoint(namespace="shop", pod="a", group=bytes(15), ipv4=b"abcd"),
        "16 bytes",
    ),
    (COMMIT, "cut", pb.Commit(revision=0, root=bytes(32)), "above 0"),
    (COMMIT, "cut", pb.Commit(revision=1, root=bytes(31)), "32"),
    (IDENTITY, "300", pb.Identity(number=301, birth=1), "name"),
]  # fmt: skip


@pytest.mark.parametrize(("type_url", "name", "message", "reason"), BAD)
def test_malformed_content_is_refused_with_type_name_and_reason(
    type_url: str, name: str, message: Message, reason: str
) -> None:
    body = message.SerializeToString(deterministic=True)
    found = decode(type_url, name, encode.version_of(body), body)
    assert isinstance(found, Refusal)
    assert (found.type_url, found.name) == (type_url, name)
    assert any(part in found.reason for part in reason.split("|")), found.reason


def test_a_field_of_a_rule_that_is_not_known_is_refused_not_left_out() -> None:
    """A later server's rule may say less than what is left of it without the field."""
    nested = pb.Rule(verdict=pb.ALLOW, any_peer=True).SerializeToString() + b"\xa2\x06\x01x"
    body = b"\x08\x01\x10\x01\x1a" + bytes([len(nested)]) + nested
    found = decode(RULE_SET, HASH, encode.version_of(body), body)
    assert isinstance(found, Refusal)
    assert "does not know" in found.reason


def test_an_unknown_type_is_refused() -> None:
    assert decode("type.googleapis.com/x.Y", "a", "", b"") == Refusal(
        "type.googleapis.com/x.Y", "a", "a type that this agent does not know"
    )
