"""Which labels make an identity: the label filter, groups and label sets."""

from reconciler.core.labels.filter import DEFAULT_RULES, LabelFilter, Rule, parse_rule
from reconciler.core.labels.group import (
    Grouper,
    GroupKey,
    group_key,
    label_set,
    namespace_labels,
    pod_named_ports,
)
from reconciler.core.labels.label import Label, LabelSet, NamedPort, canonical

__all__ = [
    "DEFAULT_RULES",
    "GroupKey",
    "Grouper",
    "Label",
    "LabelFilter",
    "LabelSet",
    "NamedPort",
    "Rule",
    "canonical",
    "group_key",
    "label_set",
    "namespace_labels",
    "parse_rule",
    "pod_named_ports",
]
