"""What each agent's stream was sent and what came of it, in the terms of any xDS client (CSDS).

Of the types of a cut, "acked" means staged; what is enforced is what the resource of type Commit
says that is acked. While a cut is refused, what it has more is "waiting", and what was refused is
"nacked". Of a stream that has not reported nothing is known.

Read-only, and made when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from reconciler.core.discovery.types import ClientState, ResourceState, TypeState, Variant
from reconciler.core.discovery.types import Node as ClientNode
from reconciler.core.plane import AgentStream, ControlPlane
from reconciler.core.resources.build import NodeView
from reconciler.core.resources.encode import commit_version
from reconciler.core.resources.types import COMMIT, CUT_NAME, IDENTITY, Resource
from reconciler.core.xds.rollout import Enforced, Rollout
from reconciler.core.xds.served import ABSENT, Served

Versions = Mapping[str, str]
"""Of one type: name → version."""


def clients(plane: ControlPlane) -> Iterator[ClientState]:
    """By stream. `view` is the node's name."""
    for stream, of in list(plane.streams.items()):  # the caller may do other things in between
        node = plane.nodes.get(of.node)
        if node is not None and node.stream == stream:
            yield _client(stream, of, node.rollout)


def content(plane: ControlPlane, view: str, type_url: str, name: str) -> Resource | None:
    """A resource as a node has it, or is being brought it."""
    node = plane.nodes.get(view)
    if node is None:
        return None
    acked = node.rollout.acked
    for held in (node.rollout.target, None if acked is None else acked.view):
        found = None if held is None else held.get(type_url, name)
        if found is not None:
            return found
    return None


def _client(stream: int, of: AgentStream, rollout: Rollout) -> ClientState:
    held = _held(rollout.acked)
    view = _wanted(rollout)
    wanted = held if view is None else _versions(view)
    types = []
    for type_url, kind in sorted(of.core.types.items()):
        if type_url == IDENTITY:
            resources = () if of.identities is None else _named(of.identities)
        elif not rollout.reported:
            resources = ()
        elif type_url == COMMIT:
            resources = (_commit(rollout),)
        else:
            resources = tuple(
                _staged(rollout, type_url, held.get(type_url, {}), wanted.get(type_url, {}))
            )
        names = kind.subscription.names
        wildcard = kind.subscription.wildcard
        types.append(TypeState(type_url, kind.state, wildcard, names, "", resources))
    return ClientState(
        stream=stream,
        variant=Variant.DELTA,
        service=None,
        node=ClientNode(of.node, "", {"instance": of.core.instance}, frozenset()),
        proven=None,  # its id is the name that counts, claimed or proven
        view=of.node,
        opened_at=of.opened_at,
        types=tuple(types),
    )


def _named(served: Served) -> tuple[ResourceState, ...]:
    unanswered = served.unanswered
    found = []
    for name, version in sorted(served.known.items()):
        refused, reason = served.refused.get(name, ("", ""))
        if name in unanswered:
            status = "sent"
        elif name in served.refused:
            status = "nacked"
        else:
            status = "absent" if version == ABSENT else "acked"
        found.append(ResourceState(name, status, version, reason=reason, refused_version=refused))
    return tuple(found)


def _staged(
    rollout: Rollout, type_url: str, held: Versions, wanted: Versions
) -> Iterator[ResourceState]:
    part = rollout.sent.get(type_url)
    sent = frozenset(each.name for each in part.put) if part is not None else frozenset()
    refused = _refused(rollout, type_url)
    for name in sorted(wanted.keys() | refused.keys()):  # closed, it is none of the view
        version, wants = held.get(name, ""), wanted.get(name, "")
        if name in sent:
            version = wants
            status = "sent" if type_url in rollout.waiting else "acked"
        elif refused.get(name, version) != version:
            why, which = rollout.nack, refused[name]
            yield ResourceState(name, "nacked", version, reason=why, refused_version=which)
            continue
        else:
            status = "acked" if version == wants else "waiting"
        yield ResourceState(name, status, version)


def _commit(rollout: Rollout) -> ResourceState:
    """A refusal of it is none of the cut: the stream is ended for it."""
    acked, target = rollout.acked, rollout.target
    version = "" if acked is None or not acked.revision else _version_of(acked)
    if target is not None and COMMIT in rollout.waiting:
        return ResourceState(CUT_NAME, "sent", _version_of(target))
    lacks = target is not None or not version
    status = "waiting" if lacks else "acked"
    return ResourceState(CUT_NAME, status, version, updated_at=rollout.committed_at)


def _wanted(rollout: Rollout) -> NodeView | None:
    """The view that the node is being brought to, or kept from; None: it has all there is."""
    if rollout.target is not None:
        return rollout.target
    if rollout.state == "held":
        return rollout.view_of(rollout.refused)
    return None if rollout.acked is None else rollout.acked.view


def _refused(rollout: Rollout, type_url: str) -> dict[str, str]:
    """Name → version of what the node refuses."""
    found = {key: version for key, (version, _) in rollout.causes.items()}
    if rollout.refusal is not None:
        key, version = rollout.refusal
        found[key] = version
    return {name: version for (of, name), version in found.items() if of == type_url}


def _versions(view: NodeView) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for each in view.resources():
        found.setdefault(each.type_url, {})[each.name] = each.version
    return found


def _held(enforced: Enforced | None) -> Mapping[str, Versions]:
    if enforced is None:
        return {}
    return enforced.reported if enforced.view is None else _versions(enforced.view)


def _version_of(cut: Enforced | NodeView) -> str:
    return commit_version(cut.revision, cut.root, "" if cut.position is None else str(cut.position))
