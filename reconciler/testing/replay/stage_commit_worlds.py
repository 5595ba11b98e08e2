"""The worlds of specs/mc/MCStageCommitGraph.tla as real resources and views, and back.

Everything is made from the spec's constants: a key and its version become the resource that says
the same, a world becomes the state that a view is built from, and what code holds or sends is read
back as keys and versions. Nothing here decides anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pyroaring import BitMap

from reconciler.core.policy.ir import Direction, IdentityPolicy, Rule, RuleSet, Verdict
from reconciler.core.policy.naming import rule_set_hash
from reconciler.core.resources import encode
from reconciler.core.resources.build import (
    CLOSED,
    CLOSED_RULES,
    Changed,
    LocalEndpoint,
    NodeView,
    State,
    ViewBuilder,
)
from reconciler.core.resources.parts import Key
from reconciler.core.resources.types import (
    ADDRESS_GROUP,
    BINDINGS,
    COMMIT,
    ENDPOINT,
    PEER_SET,
    POLICY,
    RULE_SET,
    Resource,
)
from reconciler.core.xds.codec import Request, Response, decode_response
from reconciler.formal.values import Record, Value

NODE: Final = "node-1"
NAMESPACE: Final = "shop"
TYPES: Final = {
    PEER_SET: "peers",
    RULE_SET: "rules",
    POLICY: "policies",
    BINDINGS: "bindings",
    ADDRESS_GROUP: "addresses",
    ENDPOINT: "endpoints",
    COMMIT: "commit",
}
FIRST_NUMBER: Final = 256

Content = Record
"""Key of the spec → version, 0 where there is none."""


class Worlds:
    def __init__(self, constants: Mapping[str, Value]) -> None:
        given: Mapping[str, Any] = constants
        self._says = given["Says"]
        self._closed_by = given["ClosedBy"]
        self._content = given["Content"]
        self._flows = given["Flows"]
        self._keys: list[str] = sorted(given["Keys"])
        self.types = given["TypeOf"]
        self.nothing = Record(dict.fromkeys(self._keys, 0))
        self.no_message = message("", "", self.nothing)
        self._rules: dict[str, tuple[str, RuleSet]] = {}  # key → name, rules
        self._of: dict[Key, str] = {}  # real name → key
        self._versions: dict[tuple[str, str], int] = {}  # key, real version → version
        self._builders: dict[str, ViewBuilder] = {}
        self._contents: dict[bytes, Content] = {}  # root → content
        self.nonces: dict[tuple[str, str], Record] = {}  # type URL, nonce → what it stands for
        self._responses: dict[bytes, Record] = {}
        self._allowed: dict[Content, frozenset[Value]] = {}
        for key in self._typed("rules"):
            self._rules[key] = self._rule_set(key)
        for key in self._keys:
            for version in range(1, len(self._says[key]) + 1):
                made = self._resource(key, self._says[key][version - 1])
                self._of[made.type_url, made.name] = key
                # The first of equal ones: versions that say the same are the same.
                self._versions.setdefault((key, made.version), version)

    # ------------------------------------------------------------------------------- views

    def view(self, world: str, revision: int, refused: frozenset[str] = frozenset()) -> NodeView:
        if world not in self._builders:
            self._builders[world] = self._builder(self._content[world])
        view = self._builders[world].view(NODE, revision, refused)
        if view.root not in self._contents:
            self._contents[view.root] = self.content(
                (each.type_url, each.name, each.version) for each in view.resources()
            )
        return view

    def at(self, root: bytes) -> Content:
        """What a root stands for; a root of no view is nothing."""
        return self._contents.get(root, self.nothing)

    # ------------------------------------------------------------------ from code to the spec

    def key(self, type_url: str, name: str) -> str:
        """ "" for what is no resource of the spec (a commit, say)."""
        return self._of.get((type_url, name), "")

    def version(self, key: str, real: str | None) -> int:
        return 0 if real is None else self._versions[key, real]

    def content(self, resources: Iterable[tuple[str, str, str]]) -> Content:
        """resources: (type URL, name, version) of all that there is."""
        found: dict[Value, Value] = {}
        for type_url, name, version in resources:
            key = self._of[type_url, name]
            found[key] = self._versions[key, version]
        return self.nothing.replaced(found)

    def response(self, frame: bytes) -> Record:
        if frame not in self._responses:
            response = decode_response(frame)
            found = self._response(response)
            assert self.nonces.setdefault((response.type_url, response.nonce), found) == found
            self._responses[frame] = found
        return self._responses[frame]

    def _response(self, response: Response) -> Record:
        if response.type_url == COMMIT:
            (got,) = response.resources
            said = encode.parse_commit_version(got.version)
            assert said is not None
            return message("commit", "commit", self.at(said[1]), said[0])
        put: dict[str, int] = {}
        for each in response.resources:
            key = self._of[response.type_url, each.name]
            put[key] = self._versions[key, each.version]
        put.update((self._of[response.type_url, name], 0) for name in response.removed)
        return message("stage", TYPES[response.type_url], Record(put))

    def report(self, requests: Iterable[Request]) -> Record:
        revision, said = 0, []
        for request in requests:
            if request.type_url != COMMIT:
                said += [(request.type_url, *item) for item in request.initial.items()]
            for version in request.initial.values() if request.type_url == COMMIT else ():
                parsed = encode.parse_commit_version(version)
                revision = 0 if parsed is None else parsed[0]
        return message("report", "", self.content(said), revision)

    def allowed(self, content: Content) -> frozenset[Value]:
        """The flows that a content lets through: address, group, identity, policy, rule, peers."""
        if content not in self._allowed:
            self._allowed[content] = self._judge(content)
        return self._allowed[content]

    def _judge(self, content: Content) -> frozenset[Value]:
        names = {key: self._says[key][at - 1] for key in self._keys if (at := _int(content[key]))}
        bound = {each["group"]: each for one in names.values() for each in one["bound"]}
        owners = {
            name: bound.get(one["group"])
            for key, one in names.items()
            if self.types[key] == "addresses"
            for name in one["names"]
        }
        found = set()
        for flow in self._flows:
            peer, subject = owners.get(flow["src"]), owners.get(flow["dst"])
            for key, one in names.items():
                if self.types[key] != "policies" or peer is None or subject is None:
                    continue
                if (one["number"], one["birth"]) != (subject["number"], subject["birth"]):
                    continue
                sets = {
                    each for rule in one["names"] if rule in names for each in names[rule]["names"]
                }
                if any(peer["number"] in names[each]["numbers"] for each in sets if each in names):
                    found.add(flow)
        return frozenset(found)

    # ------------------------------------------------------------------ from the spec to code

    def address(self, name: str) -> bytes:
        return bytes((10, 1, *hashlib.sha256(name.encode()).digest()[:2]))

    def rule_names(self, key: str) -> str:
        return self._rules[key][0]

    def _typed(self, type: str) -> list[str]:
        return [key for key in self._keys if self.types[key] == type]

    def _rule_set(self, key: str) -> tuple[str, RuleSet]:
        direction = Direction.EGRESS if key.startswith("egress:") else Direction.INGRESS
        if self._closed_by[key] == key:
            return CLOSED[direction], CLOSED_RULES[CLOSED[direction]]
        (said,) = self._says[key]
        sets = tuple(sorted(_selector(each) for each in said["names"]))
        made = RuleSet(
            direction,
            True,
            (Rule(Verdict.ALLOW, peer_sets=sets, any_peer=not sets, origins=(key,)),),
        )
        return rule_set_hash(made), made

    def _policy(self, said: Any) -> IdentityPolicy:
        names = {self._rules[each][1].direction: self._rules[each][0] for each in said["names"]}
        number = FIRST_NUMBER + said["number"]
        return IdentityPolicy(
            number, said["birth"], names[Direction.INGRESS], names[Direction.EGRESS]
        )

    def _resource(self, key: str, said: Any) -> Resource:
        made: list[Resource | None]
        match self.types[key]:
            case "peers":
                made = [encode.peer_set(_selector(key), _numbers(said), 0)]
            case "rules":
                made = [encode.rule_set(*self._rules[key])]
            case "policies":
                made = [encode.policy(self._policy(said))]
            case "bindings":
                made = [*encode.bindings(NAMESPACE, _bound(said))]
            case "addresses":
                made = [
                    *encode.address_group(_group(said["group"]), map(self.address, said["names"]))
                ]
            case _:
                pod = self._endpoint(said)
                made = [
                    encode.endpoint(
                        pod.namespace,
                        pod.pod,
                        uid=pod.uid,
                        ipv4=pod.ipv4,
                        ipv6=b"",
                        group=pod.group,
                    )
                ]
        (only,) = made
        assert only is not None
        return only

    def _endpoint(self, said: Any) -> LocalEndpoint:
        (name,) = said["names"]
        return LocalEndpoint(
            NAMESPACE, name, NODE, "u", self.address(name), b"", _group(said["group"])
        )

    def _builder(self, content: Any) -> ViewBuilder:
        there = {key: self._says[key][content[key] - 1] for key in self._keys if content[key]}

        def of(type: str) -> dict[str, Any]:
            return {key: said for key, said in there.items() if self.types[key] == type}

        endpoints = {
            f"{NAMESPACE}/{pod.pod}": pod for pod in map(self._endpoint, of("endpoints").values())
        }
        addresses: dict[str, list[bytes]] = {}
        for said in of("addresses").values():
            addresses[_group(said["group"])] = [self.address(each) for each in said["names"]]
        policies = {each.number: each for each in map(self._policy, of("policies").values())}
        bound = {
            group: pair for said in of("bindings").values() for group, pair in _bound(said).items()
        }
        peer_sets = {_selector(key): _numbers(said) for key, said in of("peers").items()}
        builder = ViewBuilder(
            State(
                bindings=lambda namespace: bound,
                addresses=lambda group: addresses.get(group, ()),
                endpoint=endpoints.get,
                node_addresses=lambda node: (),
                api_server=lambda: (),
                unknown=lambda: (),
                peer_sets=peer_sets,
                rule_sets=dict(self._rules.values()),
                policies=policies,
            )
        )
        builder.update(
            Changed(
                namespaces=frozenset({NAMESPACE}),
                groups=frozenset(addresses),
                endpoints=frozenset(endpoints),
                peer_sets=frozenset((each, 0) for each in peer_sets),
                policies=frozenset(policies),
            )
        )
        return builder


def message(kind: str, type: str, put: Value, rev: int = 0, key: str = "") -> Record:
    return Record(kind=kind, type=type, put=put, rev=rev, key=key)


def _selector(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _group(name: str) -> str:
    return f"{NAMESPACE}/{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _numbers(said: Any) -> BitMap:
    return BitMap(FIRST_NUMBER + number for number in said["numbers"])


def _bound(said: Any) -> dict[str, tuple[int, int]]:
    return {
        _group(each["group"]): (FIRST_NUMBER + each["number"], each["birth"])
        for each in said["bound"]
    }


def _int(value: Any) -> int:
    found: int = value
    return found
