"""All that was ever written to the journal and to the identities' objects, as watches told it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from reconciler.core.identity import Entry
from reconciler.core.identity.objects import (
    AllocationJournal,
    CiliumIdentity,
    decode,
    is_nobody,
    says,
)
from reconciler.core.identity.objects_mirror import Mirror
from reconciler.server.kubernetes.client import ApiClient
from tests.kubernetes.identities import IDENTITIES, JOURNALS


class History:
    """journals: every version of the one with this name, in the order of the writes.

    given: label set → (number, birth) of every object that there ever was
    """

    def __init__(self, client: ApiClient, cluster: str) -> None:
        self._client, self._cluster = client, cluster
        self.journals: list[AllocationJournal] = []
        self.given: dict[str, set[tuple[int, int]]] = defaultdict(set)
        self.seen = 0  # versions up to which both watches have told, at least

    async def watch(self, path: str, version: str) -> None:
        params = {"resourceVersion": version, "allowWatchBookmarks": "true"}
        async with self._client.stream(path, params) as lines:
            async for line in lines:
                told = json.loads(line)
                assert told["type"] != "ERROR", told
                if told["type"] != "BOOKMARK":
                    self._take(path, told["type"], told["object"])
        raise AssertionError("the watch has ended")

    def _take(self, path: str, kind: str, object: Any) -> None:
        if path == IDENTITIES:
            identity = msgspec.convert(object, CiliumIdentity)
            number = identity.number
            assert number is not None
            self.given[identity.label_set].add((number, identity.birth))
        elif object["metadata"]["name"] == self._cluster:
            assert kind != "DELETED", "the journal was deleted"
            self.journals.append(msgspec.convert(object, AllocationJournal))

    @property
    def version(self) -> int:
        """Of the newest write of the journal that was told."""
        return int(self.journals[-1].metadata.resource_version) if self.journals else 0

    def check(self) -> None:
        """Each epoch is one server's, and nobody writes in an epoch that is over."""
        holders: dict[int, str] = {}
        epoch = revision = 0
        for each in self.journals:
            spec = each.spec
            assert spec.epoch >= epoch, f"epoch {spec.epoch} wrote after epoch {epoch}"
            assert spec.revision >= revision, "the journal went back"
            holder = holders.setdefault(spec.epoch, spec.writer.holder)
            assert holder == spec.writer.holder, f"two servers wrote in epoch {spec.epoch}"
            epoch, revision = spec.epoch, spec.revision
        holders.pop(0, None)  # who made the journal, and leads in the next
        assert len(set(holders.values())) == len(holders), "a leadership went on after another"


@contextlib.asynccontextmanager
async def history(client: ApiClient, cluster: str) -> AsyncIterator[History]:
    """From now on."""
    found = History(client, cluster)
    async with asyncio.TaskGroup() as tasks:
        watches = []
        for path in (JOURNALS, IDENTITIES):
            listed = json.loads((await client.request("GET", path)).body)
            version = listed["metadata"]["resourceVersion"]
            watches.append(tasks.create_task(found.watch(path, version), name=f"watch {path}"))
        yield found
        for watch in watches:
            watch.cancel()


class Agreement(msgspec.Struct, frozen=True):
    """What the journal holds, and how the objects differ from it; "": they don't."""

    cursor: int
    entries: tuple[Entry, ...]
    difference: str
    version: int


async def agreement(client: ApiClient, cluster: str) -> Agreement:
    """Of the journal and of the objects as they are now."""
    listed = json.loads((await client.request("GET", IDENTITIES)).body)["items"]
    read = json.loads((await client.request("GET", f"{JOURNALS}/{cluster}")).body)
    journal = msgspec.convert(read, AllocationJournal)
    mirror = Mirror()
    for each in listed:
        mirror.identity_changed(each["metadata"]["name"], msgspec.convert(each, CiliumIdentity))
    mirror.journal_changed(journal)
    ledger = decode(journal.spec)
    wrong = [f"{number} is not there" for number in sorted(mirror.unresolved)]
    wrong += [f"{number} is nobody's" for number in mirror.objects.keys() - ledger.digests.keys()]
    for number, entry in mirror.entries.items():
        held = mirror.objects.get(number)
        if entry.phase == "active" and (held is None or not says(held, entry)):
            wrong.append(f"{number} says {held and held.label_set}, not {entry.label_set}")
        if is_nobody(entry.label_set):
            wrong.append(f"{number} was nobody's")
    return Agreement(
        ledger.cursor,
        tuple(mirror.entries.values()),
        "; ".join(wrong),
        int(journal.metadata.resource_version),
    )
