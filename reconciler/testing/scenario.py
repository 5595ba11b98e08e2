"""Scenarios: a story of a joined cluster as lines of text, one step a line.

    cluster nodes=2 pool=4            # first line: what kind of cluster; all of it has defaults
    namespace a tier=t0               # a namespace is made, or relabelled
    pod a/p0 n1 10.1.0.1 app=x0       # a pod, with its addresses joined by commas
    labels a/p0 app=x1                # a pod is relabelled
    policy a/np0 {"podSelector": {}}  # the spec of a NetworkPolicy, as Kubernetes' JSON
    delete pod a/p0                   # or policy, namespace
    sync n1                           # everything under way at a node happens
    settle                            # everything happens everywhere, and then nothing may be left

Single steps of what lies between, each with an optional count: `connect n1`, `up n1` and `down n1`
(one frame to and from the server), `work n1` (one write to a map or the disk), `journal`,
`wait SECONDS`. Faults: `refuse n1` (the kernel refuses the next write), `journal refused`,
`journal lost`, `break n1` (the stream), `crash n1`, `start n1`, `reboot n1`, and `server` for a
node's name in crash and start. A step that has nothing to do does nothing, so that any line may be
left out and the rest is still a scenario: that is how one is shrunk.

After each line, and each write to a map within one, every rule is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NoReturn

import msgspec

from reconciler.core.objects import NetworkPolicy, NetworkPolicySpec, ObjectKey, ObjectMeta, Pod
from reconciler.errors import ConfigError
from reconciler.testing.joined import Joined
from reconciler.testing.rules import RuleBroken, Rules

SERVER: Final = "server"
MOST: Final = 3000
"""Rounds within which everything under way at a node must have happened."""

KINDS: Final = {"pod": "Pod", "policy": "NetworkPolicy", "namespace": "Namespace"}


class Line(msgspec.Struct, frozen=True):
    """One step. number: of its line in the text; labels: words of the form key=value."""

    number: int
    verb: str
    words: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    body: str = ""

    def __str__(self) -> str:
        pairs = (f"{key}={value}" for key, value in self.labels)
        return " ".join(part for part in (self.verb, *self.words, *pairs, self.body) if part)


class Broken(msgspec.Struct, frozen=True):
    """A rule fell at this line. rule: "R1" to "R7", or "error" for any other exception."""

    line: Line
    rule: str
    text: str

    def __str__(self) -> str:
        return f"line {self.line.number}: {self.line}\n{self.text}"


def parse(text: str, source: str = "scenario") -> tuple[Line, ...]:
    """ConfigError names the source, the line and what is wrong with it."""
    lines = []
    for number, raw in enumerate(text.splitlines(), 1):
        stripped = raw.strip()
        if not stripped or stripped.startswith("#"):
            continue
        try:
            lines.append(_line(number, stripped))
        except ValueError as error:
            raise ConfigError(f"{source}:{number}: {error}") from None
    return tuple(lines)


def text_of(lines: Iterable[Line], *, head: Sequence[str] = ()) -> str:
    """The scenario as a file; head: lines of a comment."""
    return "".join(f"# {line}\n" for line in head) + "".join(f"{line}\n" for line in lines)


def play(lines: Sequence[Line], told: Callable[[Line], None] = lambda line: None) -> Broken | None:
    """Play it on a new cluster. None: every rule held. told: called before each line."""
    player: Player | None = None
    for line in lines:
        told(line)
        try:
            if player is None:
                player = Player(line if line.verb == "cluster" else Line(0, "cluster"))
            if line.verb != "cluster":
                player.take(line)
        except RuleBroken as broken:
            return Broken(line, broken.rule, str(broken))
        except ConfigError:
            raise
        except Exception as error:
            return Broken(line, "error", f"{type(error).__name__}: {error}")
    return None


# ------------------------------------------------------------------------------------- reading


def _line(number: int, text: str) -> Line:
    verb, _, rest = text.partition(" ")
    if verb not in _FORMS:
        raise ValueError(f"{verb!r} is no step; there are {', '.join(sorted(_FORMS))}")
    body = ""
    if verb == "policy":
        name, _, body = rest.partition(" ")
        rest = name
        _spec(body)
    words = [word for word in rest.split() if "=" not in word]
    pairs = [word.partition("=") for word in rest.split() if "=" in word]
    least, most, form = _FORMS[verb]
    if not least <= len(words) <= most:
        raise ValueError(f"as: {form}")
    if verb in _NAMED and "/" not in words[0]:
        raise ValueError(f"{words[0]!r} is not namespace/name")
    labels = tuple((key, value) for key, _, value in pairs)
    return Line(number, verb, tuple(words), labels, body)


def spec_of(line: Line, namespace: str, name: str) -> NetworkPolicy:
    """The policy of a `policy` line."""
    metadata = ObjectMeta(name=name, namespace=namespace)
    return NetworkPolicy(metadata=metadata, spec=_spec(line.body))


def _spec(text: str) -> NetworkPolicySpec:
    try:
        return msgspec.json.decode(text.encode(), type=NetworkPolicySpec)
    except msgspec.DecodeError as error:
        raise ValueError(f"the spec of the policy: {error}") from None


_NAMED: Final = ("pod", "labels", "policy")

_FORMS: Final[dict[str, tuple[int, int, str]]] = {
    "cluster": (0, 0, "cluster [nodes=N] [pool=N] [scope=all|selected] [policies=N]"),
    "namespace": (1, 1, "namespace NAME [key=value ...]"),
    "pod": (3, 3, "pod NAMESPACE/NAME NODE ADDRESS[,ADDRESS] [key=value ...]"),
    "labels": (1, 1, "labels NAMESPACE/NAME"),
    "policy": (1, 1, "policy NAMESPACE/NAME"),
    "delete": (2, 2, "delete pod|policy|namespace NAME"),
    "connect": (1, 1, "connect NODE"),
    "up": (1, 2, "up NODE [COUNT]"),
    "down": (1, 2, "down NODE [COUNT]"),
    "work": (1, 2, "work NODE [COUNT]"),
    "journal": (0, 1, "journal [refused|lost]"),
    "wait": (1, 1, "wait SECONDS"),
    "refuse": (1, 1, "refuse NODE"),
    "break": (1, 1, "break NODE"),
    "crash": (1, 1, "crash NODE|server"),
    "start": (1, 1, "start NODE|server"),
    "reboot": (1, 1, "reboot NODE"),
    "sync": (1, 1, "sync NODE"),
    "settle": (0, 0, "settle"),
}


# ------------------------------------------------------------------------------------- playing


class Player:
    """A cluster that does what lines say. Names of nodes are n1, n2, ..."""

    def __init__(self, head: Line, *, record: bool = False) -> None:
        options = dict(head.labels)
        try:
            nodes = int(options.pop("nodes", "2"))
            pool = int(options.pop("pool", "6"))
            limits = {"policies": int(options.pop("policies", "262144"))}
        except ValueError as error:
            raise ConfigError(f"line {head.number}: cluster: {error}") from None
        scope = options.pop("scope", "all")
        if options or scope not in ("all", "selected"):
            raise ConfigError(f"line {head.number}: as: {_FORMS['cluster'][2]}")
        names = tuple(f"n{number}" for number in range(1, nodes + 1))
        numbers = range(256, 256 + pool)
        self.joined = Joined(names, pool=numbers, limits=limits, scope=scope, record=record)
        self.rules = Rules(self.joined)

    def take(self, line: Line) -> None:
        """One line, checked. RuleBroken names the rule that fell."""
        do: Any = getattr(self, f"_{line.verb}")
        do(line)
        self.rules.check()

    def _node(self, line: Line) -> str:
        name = line.words[0]
        if name not in self.joined.agents:
            self._wrong(line, f"there is no node {name!r}")
        return name

    def _wrong(self, line: Line, reason: str) -> NoReturn:
        raise ConfigError(f"line {line.number}: {line}: {reason}")

    def _count(self, line: Line) -> int:
        if len(line.words) == 1:
            return 1
        if not line.words[1].isdecimal():
            self._wrong(line, f"{line.words[1]!r} is no count")
        return int(line.words[1])

    # Objects

    def _namespace(self, line: Line) -> None:
        self.joined.edit(self.joined.world.namespace(line.words[0], dict(line.labels)))

    def _pod(self, line: Line) -> None:
        name, node, addresses = line.words
        if node not in self.joined.agents:
            self._wrong(line, f"there is no node {node!r}")
        namespace, _, pod = name.partition("/")
        self._unlink(name)
        change = self.joined.world.pod(
            namespace, pod, node, dict(line.labels), addresses.split(",")
        )
        self.joined.edit(change)
        self.joined.link(node, name)

    def _labels(self, line: Line) -> None:
        namespace, _, pod = line.words[0].partition("/")
        self.joined.edit(self.joined.world.relabel_pod(namespace, pod, dict(line.labels)))

    def _policy(self, line: Line) -> None:
        namespace, _, name = line.words[0].partition("/")
        self.joined.edit(self.joined.world.policy(spec_of(line, namespace, name)))

    def _delete(self, line: Line) -> None:
        kind, name = line.words
        if kind not in KINDS:
            self._wrong(line, f"as: {_FORMS['delete'][2]}")
        namespace, _, short = name.rpartition("/")
        if kind == "pod":
            self._unlink(name)
        self.joined.edit(self.joined.world.delete(ObjectKey(KINDS[kind], namespace, short)))

    def _unlink(self, name: str) -> None:
        namespace, _, pod = name.partition("/")
        found = self.joined.world.objects.get(ObjectKey("Pod", namespace, pod))
        if isinstance(found, Pod):
            self.joined.unlink(found.spec.node_name, name)

    # Steps between

    def _connect(self, line: Line) -> None:
        self.joined.connect(self._node(line))

    def _up(self, line: Line) -> None:
        for _ in range(self._count(line)):
            self.joined.deliver_up(self._node(line))

    def _down(self, line: Line) -> None:
        for _ in range(self._count(line)):
            self.joined.deliver_down(self._node(line))

    def _work(self, line: Line) -> None:
        node = self._node(line)
        for _ in range(self._count(line)):
            self.joined.work(node)
            self.rules.node(node)

    def _journal(self, line: Line) -> None:
        match line.words:
            case ():
                self.joined.answer_journal()
            case ("refused",):
                self.joined.answer_journal(refuse=True)
            case ("lost",):
                self.joined.lose_answer()
            case _:
                self._wrong(line, f"as: {_FORMS['journal'][2]}")

    def _wait(self, line: Line) -> None:
        try:
            seconds = float(line.words[0])
        except ValueError:
            self._wrong(line, f"{line.words[0]!r} is no time in seconds")
        self.joined.wait(max(0.0, seconds))

    # Faults

    def _refuse(self, line: Line) -> None:
        self.joined.agents[self._node(line)].fail()

    def _break(self, line: Line) -> None:
        self.joined.break_stream(self._node(line))

    def _crash(self, line: Line) -> None:
        if line.words[0] == SERVER:
            self.joined.crash_server()
        else:
            self.joined.crash_agent(self._node(line))

    def _start(self, line: Line) -> None:
        if line.words[0] == SERVER:
            self.joined.start_server()
        else:
            self.joined.start_agent(self._node(line))

    def _reboot(self, line: Line) -> None:
        node = self._node(line)
        self.joined.crash_agent(node)
        self.joined.agents[node].reboot()
        self.rules.forget(node)

    # Whole exchanges

    def _sync(self, line: Line) -> None:
        sync(self.joined, self.rules, self._node(line))

    def _settle(self, line: Line) -> None:
        settle(self.joined, self.rules)


def sync(joined: Joined, rules: Rules, name: str) -> None:
    """Everything under way at one node happens, checked write by write."""
    joined.wait(1.0)
    for _ in range(MOST):
        moved = [joined.connect(name), joined.deliver_up(name), joined.deliver_down(name)]
        moved.append(joined.answer_journal())
        worked = joined.work(name)
        if worked:
            rules.node(name)
        if not any(moved) and not worked:
            return
    raise RuleBroken("R7", f"{name}: something goes round in circles")


def settle(joined: Joined, rules: Rules) -> None:
    """R7: with a fair network and no more faults every node reaches the newest cut, and numbers
    that nobody has come back."""
    if joined.plane is None:
        joined.start_server()
    for name in joined.agents:
        joined.start_agent(name)
    for _ in range(60):
        for name in joined.agents:
            sync(joined, rules, name)
        rules.check()
        if _settled(joined):
            rules.check(open_all=True)
            return
        joined.wait(15.0)
    raise RuleBroken("R7", "the cluster does not settle")


def _settled(joined: Joined) -> bool:
    plane = joined.plane
    assert plane is not None
    for name, agent in joined.agents.items():
        word = agent.twin.cut()
        if word.roots[word.active] != plane.builder.view(name, plane.revision).root:
            return False
    used, capacity = plane.intake.allocator.usage()
    wanted = len(plane.intake.cluster.label_sets)
    return used == min(wanted, capacity) and not joined.writes
