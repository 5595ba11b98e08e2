"""What stands for a NetworkPolicy that is there and can't be read, and of which no good version is
held, as after a start: one without any rule.

It isolates the pods that the unread one may select, so that nothing is open which that one closes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from reconciler.core.objects.types import (
    LabelSelector,
    NetworkPolicy,
    NetworkPolicySpec,
    ObjectMeta,
)
from reconciler.core.objects.validate import selector_problems
from reconciler.errors import Rejected

BOTH: Final = ("Ingress", "Egress")


def closed(value: Mapping[Any, Any]) -> NetworkPolicy | None:
    """value: the object as JSON has it, without fields that are null.

    None: not even its namespace can be read. A name that can't be read is "".
    """
    meta = value.get("metadata")
    meta = meta if isinstance(meta, Mapping) else {}
    namespace = meta.get("namespace") or "default"
    if not isinstance(namespace, str):
        return None
    generation = meta.get("generation")
    return NetworkPolicy(
        ObjectMeta(
            name=_text(meta, "name"),
            namespace=namespace,
            uid=_text(meta, "uid"),
            resource_version=_text(meta, "resourceVersion"),
            generation=generation if isinstance(generation, int) else 0,
        ),
        _spec(value.get("spec", {})),
    )


def explained(problems: Iterable[Rejected], policy: NetworkPolicy) -> tuple[Rejected, ...]:
    """The errors of an object with what `policy`, which stands for it, does meanwhile."""
    spec, namespace = policy.spec, policy.metadata.namespace
    all_of_it = spec.pod_selector == LabelSelector()
    who = f"all pods of namespace {namespace}" if all_of_it else "the pods that it selects"
    text = f"until it can be read {who} are closed ({', '.join(spec.effective_types)})"
    return tuple(
        msgspec.structs.replace(problem, reason=f"{problem.reason}; {text}")
        if problem.severity == "error"
        else problem
        for problem in problems
    )


def _text(meta: Mapping[Any, Any], field: str) -> str:
    found = meta.get(field)
    return found if isinstance(found, str) else ""


def _spec(spec: Any) -> NetworkPolicySpec:
    if not isinstance(spec, Mapping):
        return NetworkPolicySpec(policy_types=BOTH)
    return NetworkPolicySpec(_subject(spec), policy_types=_directions(spec))


def _subject(spec: Mapping[Any, Any]) -> LabelSelector:
    """Everything, where the selector can't be read."""
    try:
        found = msgspec.convert(spec.get("podSelector", {}), LabelSelector)
    except msgspec.ValidationError:
        return LabelSelector()
    return LabelSelector() if any(selector_problems(found, "")) else found


def _directions(spec: Mapping[Any, Any]) -> tuple[str, ...]:
    """Both, unless `policyTypes` or its default says one; a field that isn't known may be it."""
    types = spec.get("policyTypes") or ()
    if isinstance(types, list | tuple) and types and all(each in BOTH for each in types):
        return tuple(each for each in BOTH if each in types)
    known = {"podSelector", "policyTypes", "ingress", "egress"}
    return BOTH if types or spec.get("egress") or spec.keys() - known else ("Ingress",)
