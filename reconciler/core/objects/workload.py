"""From a workload to the pod that it would make."""

from __future__ import annotations

import msgspec

from reconciler.core.objects.types import ObjectMeta, Pod, PodStatus, Workload


def representative(workload: Workload) -> Pod:
    """One pod like those of the workload, named after it, for questions about policy.

    It has no node and no address. Labels are those of the template, with what the controller adds
    and policies may select: a job's name. What makes pods of one workload differ (template hash,
    ordinals) is left out; the label filter hides it anyway.
    """
    meta = workload.metadata
    labels = dict(workload.template.metadata.labels)
    if workload.kind == "Job":
        labels.setdefault("batch.kubernetes.io/job-name", meta.name)
        labels.setdefault("job-name", meta.name)
    spec = workload.template.spec
    if not (spec.service_account_name or spec.service_account):
        spec = msgspec.structs.replace(spec, service_account_name="default")
    return Pod(
        metadata=ObjectMeta(
            name=meta.name,
            namespace=meta.namespace,
            labels=labels,
            annotations=workload.template.metadata.annotations,
        ),
        spec=msgspec.structs.replace(spec, node_name=""),
        status=PodStatus(),
    )
