"""Directories of resources: what is read of them, what is refused and how, whose a resource is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.discovery.types import Node
from reconciler.core.objects.yamlload import load_documents
from reconciler.errors import ConfigError
from reconciler.server.discovery.documents import parse
from reconciler.server.discovery.files import Outcome, Resources, State, watch
from reconciler.server.discovery.match import Condition, Conditions, Overlaps, Value, parse_match
from reconciler.server.discovery.rules import violations
from reconciler.server.discovery.values import Bad
from reconciler.server.watching import Listing

CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
WRAPPER = "type.googleapis.com/envoy.service.discovery.v3.Resource"


def cluster(name: str, timeout: str = "1s") -> str:
    return f'"@type": {CLUSTER}\nname: {name}\nconnect_timeout: {timeout}\n'


def write(root: Path, **files: str) -> None:
    """Names have "__" for "/" and no suffix."""
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def load(root: Path) -> State:
    """Of files that are right."""
    outcome = scanned(Resources(root))
    assert outcome.problems == ()
    assert outcome.state is not None
    return outcome.state


def names(state: State, node: Node) -> list[str]:
    view = state.resources(state.of(node))
    return sorted(name for each in view.values() for name in each)


def refused(text: str, file: str = "a.yaml") -> list[str]:
    return [str(problem) for problem in parse(text.encode(), file).problems]


def scanned(resources: Resources) -> Outcome:
    outcome = resources.scan()
    assert outcome is not None
    return outcome


# ---------------------------------------------------------------------------------- documents


def test_a_resource_is_named_and_versioned_by_its_content() -> None:
    (first,) = parse(cluster("shop").encode(), "a.yaml").found
    (again,) = parse(f'{{"connectTimeout":"1s","name":"shop","@type":"{CLUSTER}"}}'.encode(),
                     "b.json").found  # fmt: skip
    (other,) = parse(cluster("shop", "2s").encode(), "a.yaml").found
    assert (first.type_url, first.name, first.source) == (CLUSTER, "shop", "a.yaml#1")
    assert (first.version, first.body) == (again.version, again.body)
    assert first.version != other.version
    assert cluster_pb2.Cluster.FromString(first.body).connect_timeout.seconds == 1


def test_a_file_holds_documents_lists_and_resources_of_other_types() -> None:
    text = (
        cluster("a")
        + "---\n"
        + f'- {{"@type": {CLUSTER}, name: b}}\n- {{"@type": {ENDPOINTS}, cluster_name: b}}\n'
        + f'---\n---\nresources:\n- {{"@type": {CLUSTER}, name: c}}\n'
    )
    found = parse(text.encode(), "x.yaml").found
    assert [(each.title, each.source) for each in found] == [
        ("Cluster a", "x.yaml#1"),
        ("Cluster b", "x.yaml#2"),
        ("ClusterLoadAssignment b", "x.yaml#2"),
        ("Cluster c", "x.yaml#4"),
    ]


def test_a_wrapper_asks_for_a_time_to_live() -> None:
    text = f'"@type": {WRAPPER}\nttl: 1.5s\nresource: {{"@type": {CLUSTER}, name: a}}\n'
    (found,) = parse(text.encode(), "a.yaml").found
    (plain,) = parse(f'{{"@type": {CLUSTER}, name: a}}'.encode(), "a.yaml").found
    assert (found.type_url, found.name, found.ttl) == (CLUSTER, "a", 1.5)
    assert found.body == plain.body
    assert found.version != plain.version  # who holds it without an end must be told


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "a.yaml: line "),
        ("- 3", "a.yaml#1: [0]: a resource is a mapping with @type"),
        ("name: a", "a.yaml#1: a: @type: is missing, or no type URL (type.googleapis.com/...)"),
        (
            '"@type": type.googleapis.com/envoy.config.cluster.v3.Clutter\nname: a',
            "a.yaml#1: Clutter a: @type: envoy.config.cluster.v3.Clutter: there is no such type",
        ),
        (cluster("a", "5x"), "a.yaml#1: Cluster a: connect_timeout: Duration must end with"),
        (cluster("a") + "tpye: EDS", 'a.yaml#1: Cluster a: Message type "envoy.config.cluster.'),
        (cluster("a") + "type: FOO", "a.yaml#1: Cluster a: type: Invalid enum value FOO"),
        (cluster("''"), "a.yaml#1: Cluster: name: is required: it is the resource's name"),
        (cluster("'*'"), "a.yaml#1: Cluster *: name: '*' means all resources"),
        (cluster("a", "0s"), "a.yaml#1: Cluster a: connect_timeout: must be more than 0s"),
        (
            f'resources: [{{"@type": {ENDPOINTS}, cluster_name: a, endpoints: [{{}}, '
            "{priority: 129}]}]",
            "a.yaml#1: ClusterLoadAssignment a: resources[0].endpoints[1].priority: must be at "
            "most 128",
        ),
        (
            f'"@type": {ENDPOINTS}\ncluster_name: a\nendpoints: [{{lb_endpoint: []}}]',
            'a.yaml#1: ClusterLoadAssignment a: endpoints[0]: Message type "envoy.config.endpoint',
        ),
        (
            cluster("a") + "typed_extension_protocol_options: {x: {'@type': "
            "type.googleapis.com/no.Such}}",
            "a.yaml#1: Cluster a: typed_extension_protocol_options.x.@type: no.Such: there is no",
        ),
        (
            cluster("a") + "transport_socket: {name: tls, typed_config: {'@type': type.googleapis"
            ".com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: "
            f"{'x' * 256}}}}}",
            "a.yaml#1: Cluster a: transport_socket.typed_config.sni: must have at most 255 bytes",
        ),
        (cluster("a") + "x: .inf", "a.yaml#1: x: .inf: is no number in JSON"),
        (cluster("on"), 'a.yaml#1: name: on is a boolean (true) in YAML: write "on" in quotes'),
        (
            f'"@type": {WRAPPER}\nttl: soon\nresource: {{"@type": {CLUSTER}, name: a}}',
            "a.yaml#1: ttl: 'soon' is no duration, such as \"30s\"",
        ),
        (
            f'"@type": {WRAPPER}\nname: b\nresource: {{"@type": {CLUSTER}, name: a}}',
            "a.yaml#1: Cluster a: resource.name: is 'a', and the wrapper's name is 'b'",
        ),
        (f'"@type": {WRAPPER}\nversion: a', "a.yaml#1: version: only name, ttl and resource"),
        (
            f'"@type": {WRAPPER}\nresource: {{"@type": {WRAPPER}, name: a}}',
            "a.yaml#1: Resource a: resource.@type: a wrapper has no other one in it",
        ),
        (
            f'"@type": {WRAPPER}\nname: "*"\nresource: {{"@type": type.googleapis.com/google.'
            "protobuf.Struct, value: {}}",
            "a.yaml#1: Struct *: resource: '*' means all resources of a type",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text: str, problem: str) -> None:
    (found,) = refused(text)
    assert found.startswith(problem)


def test_what_is_as_before_is_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parse((cluster("a") + "---\n" + cluster("b")).encode(), "a.yaml")
    checked: list[str] = []

    def count(message: Any) -> Any:
        checked.append(message.name)
        return violations(message)

    monkeypatch.setattr("reconciler.server.discovery.documents.violations", count)
    text = cluster("b") + "---\n" + cluster("a", "2s") + "---\n" + cluster("b", "0s")
    after = parse(text.encode(), "a.yaml", before.known)
    assert checked == ["a", "b"]  # not the first b
    assert [(each.title, each.source) for each in after.found] == [
        ("Cluster b", "a.yaml#1"),
        ("Cluster a", "a.yaml#2"),
    ]
    assert after.found[0].version == before.found[1].version
    assert after.found[1].version != before.found[0].version
    assert [problem.path for problem in after.problems] == ["connect_timeout"]


def test_one_bad_resource_hides_no_other_problem() -> None:
    text = cluster("a", "5x") + "---\n" + cluster("b") + "---\n" + cluster("c", "0s")
    parsed = parse(text.encode(), "a.yaml")
    assert [each.name for each in parsed.found] == ["b"]
    assert [problem.source for problem in parsed.problems] == ["a.yaml#1", "a.yaml#3"]


# ---------------------------------------------------------------------------------- directories


def test_a_node_gets_what_is_for_all_and_what_is_for_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        all=cluster("all"),
        shop__more=cluster("more"),
        nodes__n1__own=cluster("own"),
        nodes__n2__own=cluster("own", "2s"),
        clusters__edge__deep__c=cluster("of-edge"),
        match__new__match="cluster: [edge, core]\nmetadata: {stage: canary, zone: {id: [1, 2]}}\n",
        match__new__c=cluster("canary"),
    )
    state = load(tmp_path)
    assert names(state, Node("n9")) == ["all", "more"]
    assert names(state, Node("n1")) == ["all", "more", "own"]
    assert names(state, Node("n2", "edge")) == ["all", "more", "of-edge", "own"]
    canary = {"stage": "canary", "zone": {"id": 2.0}, "other": None}
    assert names(state, Node("n9", "core", canary)) == ["all", "canary", "more"]
    assert names(state, Node("n9", "core", {**canary, "zone": {"id": 3.0}})) == ["all", "more"]
    assert names(state, Node("n9", "core", {"stage": "canary"})) == ["all", "more"]
    assert state.of(Node("n9", "core", canary)) == ("", "match/new")
    view = state.resources(state.of(Node("n2")))
    assert view[CLUSTER]["own"].source == "nodes/n2/own.yaml#1"
    assert names(state, Node("n1")) == ["all", "more", "own"]  # what others have changed nothing
    assert state.resources(("",)) is state.directories[0].by_type
    assert state.resources(("gone", "")) is state.directories[0].by_type
    assert state.resources(("gone",)) == {}


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ("all", "more__x", True),
        ("all", "nodes__n1__x", True),
        ("nodes__n1__x", "nodes__n1__y", True),
        ("nodes__n1__x", "nodes__n2__x", False),
        ("nodes__n1__x", "clusters__c__x", True),
        ("clusters__c__x", "clusters__d__x", False),
        ("match__a__x", "match__b__x", False),
        ("match__a__x", "match__c__x", True),
        ("match__d__x", "clusters__c__x", False),
        ("match__d__x", "clusters__d__x", True),
    ],
)
def test_a_name_may_come_twice_where_no_node_gets_both(
    tmp_path: Path, first: str, second: str, both: bool
) -> None:
    matches = {
        "a": "metadata: {stage: [x, y]}",
        "b": "metadata: {stage: z}",
        "c": "metadata: {zone: z}",
        "d": "cluster: d",
    }
    for letter, text in matches.items():
        write(tmp_path, **{f"match__{letter}__match": text})
    write(tmp_path, **{first: cluster("same"), second: cluster("same")})
    outcome = scanned(Resources(tmp_path))
    if not both:
        assert outcome.problems == ()
        return
    (problem,) = outcome.problems
    assert problem.object == "Cluster same"
    assert problem.reason.endswith("yaml#1 too, and a node could get both")
    assert outcome.state is None


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"nodes__x": cluster("a")}, "nodes/x.yaml: is in no directory of nodes/"),
        ({"match__m__x": cluster("a")}, "match/m: has no match.yaml"),
        ({"match__m__match": "zone: a"}, "match/m/match.yaml: zone: only id, cluster and metadata"),
        ({"match__m__match": ""}, "match/m/match.yaml: one document is expected"),
        ({"match__m__match": "id: [1]"}, "match/m/match.yaml: id: a text is expected"),
        ({"match__m__match": "metadata: {a: {}}"}, "match/m/match.yaml: metadata.a: names nothing"),
        (
            {"match__m__match": "metadata: {a: on}"},
            "match/m/match.yaml: metadata.a: on is a boolea",
        ),
        ({"match__m__match": "metadata: {a: .nan}"}, "match/m/match.yaml: metadata.a: .nan: is no"),
    ],
)
def test_a_directory_that_is_no_nodes_is_named(
    tmp_path: Path, files: dict[str, str], problem: str
) -> None:
    write(tmp_path, **files)
    (found,) = scanned(Resources(tmp_path)).problems
    assert str(found).startswith(problem)


def test_true_is_not_one(tmp_path: Path) -> None:
    write(tmp_path, match__m__match="metadata: {a: true}", match__m__x=cluster("a"))
    state = load(tmp_path)
    assert names(state, Node(metadata={"a": True})) == ["a"]
    assert names(state, Node(metadata={"a": 1.0})) == []


def test_a_whole_number_is_the_double_that_a_node_can_say() -> None:
    wanted = parse_match({"metadata": {"n": 2**53 + 1}})
    assert wanted.holds(Node(metadata={"n": float(2**53 + 1)}))
    with pytest.raises(Bad, match="too large"):
        parse_match({"metadata": {"n": 10**400}})


def test_numbers_of_metadata_are_doubles(tmp_path: Path) -> None:
    write(tmp_path, match__m__match="metadata: {a: [0.5, 1e3, -2]}", match__m__x=cluster("a"))
    state = load(tmp_path)
    for value, here in ((0.5, True), (1000.0, True), (-2.0, True), (0.25, False), ("0.5", False)):
        assert names(state, Node(metadata={"a": value})) == (["a"] if here else [])


def test_a_name_of_many_nodes_and_one_node_of_many_are_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 50
    for number in range(count):
        write(tmp_path, **{f"nodes__n{number}__own": cluster("own")})
    write(tmp_path, match__m__match="id: [n3, n5]", match__m__x=cluster("more"))
    compared: list[Condition] = []
    for name in ("holds", "excludes"):
        method = getattr(Condition, name)

        def counted(self: Condition, other: Any, method: Any = method) -> bool:
            compared.append(self)
            return bool(method(self, other))

        monkeypatch.setattr(Condition, name, counted)
    state = load(tmp_path)
    assert compared == []  # none of them can hold where another does
    assert state.of(Node("n3")) == ("match/m", "nodes/n3")
    assert len(compared) == 2
    monkeypatch.undo()
    write(tmp_path, nodes__n5__more=cluster("more"))
    (problem,) = scanned(Resources(tmp_path)).problems
    assert str(problem).startswith("nodes/n5/more.yaml#1: Cluster more: is in match/m/x.yaml#1 too")


THINGS = (("id",), ("cluster",), ("metadata", "a"), ("metadata", "b", "c"))
VALUES: tuple[Value, ...] = ("x", "y", 1, 1.0, True, 2.5)
conditions = st.builds(
    Condition,
    st.dictionaries(
        st.sampled_from(THINGS),
        st.lists(st.sampled_from(VALUES), min_size=1, max_size=3).map(tuple),
    ),
)


@given(st.lists(conditions, max_size=12))
def test_the_first_overlap_is_that_of_comparing_with_all(given_: list[Condition]) -> None:
    overlaps = Overlaps()
    for number, condition in enumerate(given_):
        earlier = (at for at in range(number) if not given_[at].excludes(condition))
        assert overlaps.add(condition) == next(earlier, None)


@given(
    st.lists(conditions, max_size=12),
    st.sampled_from(("x", "y")),
    st.sampled_from((*VALUES, ["x"], None)),
    st.sampled_from((*VALUES, {"c": 1.0}, {"c": "y"})),
)
def test_conditions_that_hold_are_those_of_asking_each(
    given_: list[Condition], text: str, first: Any, second: Any
) -> None:
    node = Node(text, "x", {"a": first, "b": second})
    expected = [at for at, condition in enumerate(given_) if condition.holds(node)]
    assert Conditions(given_).of(node) == expected


# ---------------------------------------------------------------------------------- changes


def test_a_problem_anywhere_leaves_everything_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, a=cluster("a"), b=cluster("b"))
    resources = Resources(tmp_path)
    assert scanned(resources).state is not None
    assert resources.scan() is None
    write(tmp_path, a=cluster("a", "3s"), b=cluster("b", "5x"))
    outcome = scanned(resources)
    assert outcome.state is None
    assert [problem.source for problem in outcome.problems] == ["b.yaml#1"]
    assert resources.scan() is None  # said once
    write(tmp_path, b=cluster("b", "5s"))
    state = scanned(resources).state
    assert state is not None
    bodies = [each.body for each in state.directories[0].found]
    timeouts = [cluster_pb2.Cluster.FromString(body).connect_timeout.seconds for body in bodies]
    assert timeouts == [3, 5]
    os.unlink(tmp_path / "a.yaml")
    state = scanned(resources).state
    assert state is not None
    assert names(state, Node()) == ["b"]


def test_a_directory_that_is_gone_removes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "resources"
    write(root, a=cluster("a"))
    resources = Resources(root)
    assert scanned(resources).state is not None
    root.rename(tmp_path / "away")
    assert scanned(resources).state is None


async def test_all_problems_are_said_at_once(tmp_path: Path) -> None:
    write(tmp_path, a=cluster("a", "5x"), b="[")
    first, second = map(str, scanned(Resources(tmp_path)).problems)
    assert first.startswith("a.yaml#1: Cluster a: connect_timeout: ")
    assert second.startswith("b.yaml: line ")
    with pytest.raises(ConfigError, match="is not a directory"):
        await anext(watch(tmp_path / "none", asyncio.Event()))


DEEP = ("[", "]"), ('{"a": ', "}")
DEPTHS = (260, 600, 950, 20_000)
"""Beyond the reader of values, beyond Python's stack, beyond both parsers."""


@pytest.mark.parametrize("file", ["a.yaml", "a.json"])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(("opened", "closed"), DEEP)
def test_what_is_nested_too_deeply_is_a_problem_of_its_file(
    file: str, depth: int, opened: str, closed: str
) -> None:
    deep = opened * depth + "1" + closed * depth
    text = f'{{"@type": "{CLUSTER}", "name": "a", "metadata": {{"filter_metadata": {deep}}}}}'
    (problem,) = refused(text, file)
    assert problem.startswith((f"{file}: ", f"{file}#1: "))
    assert "nest" in problem


def test_as_deep_as_a_message_may_be_is_read() -> None:
    deep = '{"a": ' * 40 + "1" + "}" * 40
    text = (
        f'{{"@type": "{CLUSTER}", "name": "a", "metadata": {{"filter_metadata": {{"x": {deep}}}}}}}'
    )
    assert refused(text) == []


def test_an_anchor_within_itself_is_a_problem_of_its_file() -> None:
    assert refused("&a [*a]") == ["a.yaml: line 1, column 1: an alias stands for what it is in"]


def test_a_match_that_is_nested_too_deeply_is_a_problem(tmp_path: Path) -> None:
    deep = "{a: " * 600 + "1" + "}" * 600
    write(tmp_path, match__m__match=f"metadata: {deep}", match__m__x=cluster("a"))
    assert [str(each) for each in scanned(Resources(tmp_path)).problems] == [
        "match/m/match.yaml: nested too deeply"
    ]


async def test_a_watch_tells_of_changes(tmp_path: Path) -> None:
    write(tmp_path, a=cluster("a"))
    stop = asyncio.Event()
    seen: list[list[str]] = []
    async with asyncio.timeout(20):
        async for outcome in watch(tmp_path, stop, rescan_seconds=0.2):
            assert outcome.state is not None
            seen.append(names(outcome.state, Node()))
            if len(seen) == 1:
                write(tmp_path, b=cluster("b"))
            else:
                stop.set()
    assert seen == [["a"], ["a", "b"]]


async def test_a_watch_that_fails_says_so_and_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in a task beside others that `stop` would end without a word."""
    stop = asyncio.Event()

    def fail(_: Path) -> Listing:
        raise ZeroDivisionError

    async with asyncio.timeout(20), contextlib.aclosing(watch(tmp_path, stop)) as outcomes:
        assert (await anext(outcomes)).problems == ()
        monkeypatch.setattr("reconciler.server.discovery.files.list_files", fail)
        write(tmp_path, a=cluster("a"))
        with pytest.raises(ZeroDivisionError):
            await anext(outcomes)
    assert not stop.is_set()


def test_what_the_documentation_shows_is_read() -> None:
    """Its resources are resources, its `match.yaml` is a condition."""
    text = (Path(__file__).parents[2] / "docs" / "xds.md").read_text()
    blocks = [textwrap.dedent(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    matches = [block for block in blocks if "match.yaml" in block]
    assert len(matches) == 1
    assert parse_match(*load_documents(matches[0].encode())).wants
    titles = []
    for block in blocks:
        if block not in matches:
            parsed = parse(block.encode(), "docs.yaml")
            assert parsed.problems == ()
            titles += [each.title for each in parsed.found]
    assert titles == ["Cluster shop", "ClusterLoadAssignment shop", "Runtime rtds"]
