"""Files and API answers → objects, with every problem said and nothing lost beside it.

JSON goes straight into typed values (20,000 pods in about 0.1 s); YAML, and JSON that doesn't fit,
goes through plain values, where a problem can name the field as kubectl does. One bad object
doesn't hide the good ones; a text that can't be read as a whole is one problem and no object.

With `fill` (files), what the API server fills in is filled in: namespace "default", a pod's service
account "default" (not for mirror pods), the label kubernetes.io/metadata.name of namespaces.
"""

from __future__ import annotations

import re
from typing import Any, Final, TypeVar

import msgspec

from reconciler.core.objects.closed import closed
from reconciler.core.objects.types import (
    KubeObject,
    Namespace,
    NetworkPolicy,
    Node,
    ObjectMeta,
    Pod,
    PodTemplate,
    Workload,
    key_of,
)
from reconciler.core.objects.validate import validate
from reconciler.core.objects.yamlload import Plain, YamlError, load_documents
from reconciler.errors import Rejected

_T = TypeVar("_T")


class Misfit(msgspec.Struct, frozen=True):
    """Why one JSON object is not of a type: the field as kubectl writes it, and the reason."""

    path: str
    reason: str


class Closed(msgspec.Struct, frozen=True):
    """`problem` is the refused object's name in its problems. One whose name can't be read is
    `named` by its source."""

    source: str
    problem: str
    policy: NetworkPolicy
    named: bool


class Decoded(msgspec.Struct, frozen=True):
    """What one text held. Sources are "<source>#<document>", counted from 1.

    closed:  what stands for NetworkPolicies that are refused, see `closed`
    ignored: "apiVersion Kind" of objects that don't matter here, sorted, each once
    """

    objects: tuple[tuple[str, KubeObject], ...] = ()
    workloads: tuple[tuple[str, Workload], ...] = ()
    closed: tuple[Closed, ...] = ()
    problems: tuple[Rejected, ...] = ()
    ignored: tuple[str, ...] = ()


class _WorkloadSpec(msgspec.Struct, frozen=True, rename="camel"):
    template: PodTemplate


class _Workload(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta
    spec: _WorkloadSpec


class _JobTemplate(msgspec.Struct, frozen=True, rename="camel"):
    spec: _WorkloadSpec


class _CronJobSpec(msgspec.Struct, frozen=True, rename="camel"):
    job_template: _JobTemplate


class _CronJob(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta
    spec: _CronJobSpec


class _PodList(msgspec.Struct, frozen=True, rename="camel"):
    items: tuple[Pod, ...]


class _Envelope(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    items: msgspec.Raw = msgspec.Raw(b"null")


_TYPES: Final[dict[tuple[str, str], Any]] = {
    ("v1", "Namespace"): Namespace,
    ("v1", "Node"): Node,
    ("v1", "Pod"): Pod,
    ("networking.k8s.io/v1", "NetworkPolicy"): NetworkPolicy,
    **dict.fromkeys(
        [
            ("apps/v1", "Deployment"),
            ("apps/v1", "StatefulSet"),
            ("apps/v1", "DaemonSet"),
            ("apps/v1", "ReplicaSet"),
            ("batch/v1", "Job"),
        ],
        _Workload,
    ),
    ("batch/v1", "CronJob"): _CronJob,
}
_VERSIONS: Final = {kind: version for version, kind in _TYPES}

_GROUPS: Final = ("", "apps", "batch", "extensions", "networking.k8s.io", "policy")
"""Groups in which a known kind of another version is a mistake, not somebody else's kind."""

_CLUSTER_SCOPED: Final = ("Namespace", "Node")
_TEXT_MAPS: Final = ("labels", "annotations", "matchLabels")
_MIRROR: Final = "kubernetes.io/config.mirror"
_AT: Final = re.compile(r"(?: - at (?:`key` in )?`\$(?P<path>.*)`)?$")
_SEGMENT: Final = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>[0-9]+)\]|(?P<any>\[\.\.\.\])")


def decode(data: bytes, source: str, *, fill: bool = True) -> Decoded:
    """One text: JSON or YAML, any number of documents, lists as kubectl writes them."""
    decoder = _Decoder(source, fill)
    decoder.read(data)
    return decoder.result()


def decode_as(data: bytes, wanted: type[_T]) -> _T | Misfit:
    """One JSON object as a type of any kind; fields that are null count as missing.

    msgspec.DecodeError: it isn't JSON.
    """
    try:
        return msgspec.json.decode(data, type=wanted)
    except msgspec.ValidationError:
        pass
    value = plain(data)
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        return Misfit(*_explain(str(error), value))


def plain(data: bytes) -> Any:
    """One JSON object as plain values, without fields that are null. msgspec.DecodeError."""
    return _prune(msgspec.json.decode(data), {})


class _Decoder:
    def __init__(self, source: str, fill: bool) -> None:
        self.source = source
        self.where = f"{source}#1"
        self.fill = fill
        self.objects: list[tuple[str, KubeObject]] = []
        self.workloads: list[tuple[str, Workload]] = []
        self.closed: list[Closed] = []
        self.problems: list[Rejected] = []
        self.ignored: set[str] = set()

    def result(self) -> Decoded:
        return Decoded(
            tuple(self.objects),
            tuple(self.workloads),
            tuple(self.closed),
            tuple(self.problems),
            tuple(sorted(self.ignored)),
        )

    def read(self, data: bytes) -> None:
        if data.lstrip()[:1] == b"{":
            try:
                if self._json(data):
                    return
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                self.objects.clear()
                self.workloads.clear()
                self.closed.clear()
                self.problems = [Rejected(self.source, "", "", f"can't be read: {error}")]
                return
        try:
            documents = list(load_documents(data))
        except YamlError as error:
            self.problems.append(Rejected(self.source, "", "", f"can't be read: {error}"))
            return
        for i, value in enumerate(documents, start=1):
            self.where = f"{self.source}#{i}"
            if value is None:
                continue
            try:
                self._plain(value, "", "")
            except RecursionError:
                self._problem("", "", "nested too deeply")

    # ------------------------------------------------------------------------------------ JSON

    def _json(self, data: bytes) -> bool:
        """False when this isn't one JSON object (it may still be YAML)."""
        try:
            envelope = msgspec.json.decode(data, type=_Envelope)
        except msgspec.ValidationError:
            self._plain(msgspec.json.decode(data), "", "")
            return True
        except msgspec.DecodeError:
            return False
        version, kind = envelope.api_version, envelope.kind
        if (version, kind) == ("v1", "PodList"):
            try:
                pods = msgspec.json.decode(data, type=_PodList).items
            except msgspec.ValidationError:
                pass  # read one by one below, to name the bad ones
            else:
                for pod in pods:
                    self._accept(pod)
                return True
        if kind.endswith("List") and bytes(envelope.items) != b"null":
            typed = kind.removesuffix("List")
            try:
                items = msgspec.json.decode(envelope.items, type=list[msgspec.Raw])
            except msgspec.ValidationError:
                self._plain(msgspec.json.decode(data), "", "")
                return True
            for item in items:
                self._json_object(bytes(item), version if typed else "", typed)
            return True
        self._json_object(data, "", "")
        return True

    def _json_object(self, data: bytes, version: str, kind: str) -> None:
        """version, kind: what an item of a typed list is, since it doesn't say so itself."""
        try:
            head = msgspec.json.decode(data, type=_Envelope)
            version, kind = head.api_version or version, head.kind or kind
            wanted = _TYPES.get((version, kind))
            if wanted is not None:
                self._typed(kind, msgspec.json.decode(data, type=wanted))
                return
        except msgspec.ValidationError:
            pass  # the plain way below says what is wrong
        self._plain(msgspec.json.decode(data), version, kind)

    # ---------------------------------------------------------------------------- plain values

    def _plain(self, value: Any, version: str, kind: str) -> None:
        if not isinstance(value, dict):
            self._problem("", "", f"expected an object, got {_name(value)}")
            return
        version, kind = value.get("apiVersion") or version, value.get("kind") or kind
        for field, text in (("apiVersion", version), ("kind", kind)):
            if not isinstance(text, str) or not text:
                self._problem("", field, "missing" if not text else "expected text")
                if kind == "NetworkPolicy":
                    self._close("", _prune(value, {}))
                return
        items = value.get("items")
        if kind.endswith("List") and isinstance(items, list):
            typed = kind.removesuffix("List")
            for item in items:
                self._plain(item, version if typed else "", typed)
            return
        wanted = _TYPES.get((version, kind))
        if wanted is None:
            self._unknown(value, version, kind)
            return
        pruned = _prune(value, {})
        try:
            self._typed(kind, msgspec.convert(pruned, wanted))
        except msgspec.ValidationError as error:
            path, reason = _explain(str(error), pruned)
            self._problem(_title(value, kind), path, reason)
            if kind == "NetworkPolicy":
                self._close(_title(value, kind), pruned)

    def _unknown(self, value: dict[Any, Any], version: str, kind: str) -> None:
        group = version.rpartition("/")[0]
        if kind in _VERSIONS and group in _GROUPS:
            reason = f"{version} is not read: {kind} is of {_VERSIONS[kind]}"
            self._problem(_title(value, kind), "apiVersion", reason)
            if kind == "NetworkPolicy":
                self._close(_title(value, kind), _prune(value, {}))
        else:
            self.ignored.add(f"{version} {kind}")

    # ------------------------------------------------------------------------------ typed values

    def _typed(self, kind: str, value: Any) -> None:
        if isinstance(value, _CronJob):
            template = value.spec.job_template.spec.template
            self._accept(Workload(kind, value.metadata, template))
        elif isinstance(value, _Workload):
            self._accept(Workload(kind, value.metadata, value.spec.template))
        else:
            self._accept(value)

    def _accept(self, object: KubeObject | Workload) -> None:
        object = _fill(object) if self.fill else object
        name = str(key_of(object))
        if not object.metadata.name:
            name = name.strip()
            problems: tuple[Rejected, ...] = (
                Rejected(self.where, name, "metadata.name", "missing"),
            )
        else:
            problems = validate(object, self.where)
        self.problems.extend(problems)
        if any(problem.severity == "error" for problem in problems):
            if isinstance(object, NetworkPolicy):
                self._close(name, msgspec.to_builtins(object))
            return
        if isinstance(object, Workload):
            self.workloads.append((self.where, object))
        else:
            self.objects.append((self.where, object))

    def _problem(self, object: str, path: str, reason: str) -> None:
        self.problems.append(Rejected(self.where, object, path, reason))

    def _close(self, problem: str, value: dict[Any, Any]) -> None:
        policy = closed(value)
        if policy is None:
            return
        meta, named = policy.metadata, bool(policy.metadata.name)
        if not named:
            name = f"({self.where}, {len(self.closed) + 1})"
            policy = msgspec.structs.replace(policy, metadata=ObjectMeta(name, meta.namespace))
        self.closed.append(Closed(self.where, problem, policy, named))


def _fill(object: KubeObject | Workload) -> KubeObject | Workload:
    """What the API server fills in when an object is created."""
    meta = object.metadata
    namespace = "" if object.kind in _CLUSTER_SCOPED else meta.namespace or "default"
    labels = meta.labels
    if isinstance(object, Namespace) and meta.name:
        labels = {**labels, "kubernetes.io/metadata.name": meta.name}
    if namespace != meta.namespace or labels != meta.labels:
        meta = msgspec.structs.replace(meta, namespace=namespace, labels=labels)
        object = msgspec.structs.replace(object, metadata=meta)
    if isinstance(object, Pod) and not object.account and _MIRROR not in meta.annotations:
        spec = msgspec.structs.replace(object.spec, service_account_name="default")
        object = msgspec.structs.replace(object, spec=spec)
    return object


# -------------------------------------------------------------------------------- plain values


def _prune(value: Any, done: dict[int, Any]) -> Any:
    """Without fields that are null, which the API takes for missing.

    Kept, and refused later: null in a list (the API would read `- ` as `{}`: everybody) and null as
    the value of a label. `done` keeps shared parts (YAML aliases) shared.
    """
    if isinstance(value, dict):
        if id(value) not in done:
            done[id(value)] = {
                key: dict(item)
                if key in _TEXT_MAPS and isinstance(item, dict)
                else _prune(item, done)
                for key, item in value.items()
                if item is not None
            }
        return done[id(value)]
    if isinstance(value, list):
        if id(value) not in done:
            done[id(value)] = [_prune(item, done) for item in value]
        return done[id(value)]
    return value


def _title(value: dict[Any, Any], kind: str) -> str:
    """ "Kind namespace/name" as far as it can be read."""
    meta = value.get("metadata")
    meta = meta if isinstance(meta, dict) else {}
    name, namespace = meta.get("name"), meta.get("namespace") or "default"
    if not isinstance(name, str) or not isinstance(namespace, str):
        return kind
    return f"{kind} {name}" if kind in _CLUSTER_SCOPED else f"{kind} {namespace}/{name}"


def _explain(message: str, value: Any) -> tuple[str, str]:
    """msgspec's error → the path as kubectl writes it, and a reason.

    "Expected `str`, got `int` - at `$.metadata.labels[...]`" → ("metadata.labels[version]", ...)
    """
    match = _AT.search(message)
    text = message[: match.start()] if match else message
    of_key = " - at `key` in " in message
    path, bad = _walk(match["path"] or "" if match else "", value, of_key)
    for start, reason in (
        ("Object missing required field ", "missing"),
        ("Object contains unknown field ", "unknown field"),
    ):
        if text.startswith(start):
            field = text.removeprefix(start).strip("`")
            return f"{path}.{field}".lstrip("."), reason
    if isinstance(bad, Plain):
        if "str" in text and "int" not in text:
            return path, bad.advice
        return path, f"{bad.text} is {bad.meaning} in YAML, {_wanted(text)}"
    if text.startswith("Expected `str`, got ") and isinstance(bad, int):
        shown = str(bad).lower()
        return path, f'expected text, got {_name(bad)}: write "{shown}" in quotes'
    if bad is None:
        return path, "is empty (null): leave it out, or write what is meant"
    return path, f"{_wanted(text)}, got {_name(bad)}" if "got" in text else text.replace("`", "")


def _wanted(text: str) -> str:
    """What msgspec's "Expected `int | str | null`, got `bool`" expects, in words."""
    wanted = text.split("`")[1] if "`" in text else "something else"
    names = {"str": "text", "int": "a whole number", "bool": "true or false"}
    names |= {"object": "an object", "array": "a list"}
    parts = [names.get(part, part) for part in wanted.split(" | ") if part != "null"]
    return "expected " + " or ".join(parts)


def _walk(path: str, value: Any, of_key: bool) -> tuple[str, Any]:
    """Follows msgspec's path through the value; it doesn't name keys of maps, so look for them."""
    shown = ""
    for segment in _SEGMENT.finditer(path):
        if segment["field"]:
            shown = f"{shown}.{segment['field']}" if shown else segment["field"]
            value = value.get(segment["field"]) if isinstance(value, dict) else None
        elif segment["index"]:
            shown += f"[{segment['index']}]"
            value = value[int(segment["index"])]
        else:
            key, value = next(
                ((k, v) for k, v in value.items() if not isinstance(v, str)), ("...", None)
            )
            shown += f"[{_key_text(key)}]"
    if of_key and isinstance(value, dict):
        value = next((key for key in value if not isinstance(key, str)), None)
        shown += f"[{_key_text(value)}]"
    return shown, value


def _key_text(key: Any) -> str:
    return key.text if isinstance(key, Plain) else str(key)


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, Plain):
        return value.meaning
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return "text" if isinstance(value, str) else "something else"
