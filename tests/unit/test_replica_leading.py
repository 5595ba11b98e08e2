"""A replica that opened the journal and is told to lead: whether it still may."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
import structlog

from reconciler.config import ServerConfig
from reconciler.core.identity import JournalState
from reconciler.core.identity.objects import AllocationJournal, Writer, encode
from reconciler.core.identity.objects_mirror import EMPTY
from reconciler.core.intake import IntakeConfig
from reconciler.core.labels import LabelFilter
from reconciler.core.objects import ObjectMeta
from reconciler.core.plane import ControlPlane, PlaneConfig
from reconciler.server.kubernetes.replica import UNREAD, Replica

OPENED = JournalState(3, 10, 256)


def replica(driver: Mock) -> Replica:
    """One that has opened the journal, and to which the Lease says to lead."""
    config = PlaneConfig(intake=IntakeConfig(filter=LabelFilter.default()))
    plane = ControlPlane(config, UNREAD, 0.0, leading=False)
    log: Any = structlog.get_logger()
    shell: Any = Mock()
    made = Replica(ServerConfig(), shell, plane, driver, shell, log, name="r1", events=shell)
    journal: Any = Mock(touched=set, room=lambda: (0, 0), held_at_open=frozenset())
    made._journal, made._opened = journal, OPENED
    made.elector.core.state = "leader"
    return made


@pytest.mark.parametrize(("read", "leads"), [(2, True), (3, True), (4, False)])
async def test_a_journal_that_another_one_opened_since_is_not_led(read: int, leads: bool) -> None:
    """After a pause that was longer than the Lease: the plane may have followed that one."""
    driver = Mock()
    made = replica(driver)
    ledger = msgspec.structs.replace(EMPTY, epoch=read, revision=8 + read)
    spec = encode(ledger, Writer("somebody", 1))
    made._mirror.journal_changed(AllocationJournal(ObjectMeta("default"), spec))
    made._lead()
    for task in made._tasks:
        task.cancel()
    assert driver.lead.called == leads
    assert made.elector.core.state == ("leader" if leads else "fenced")
