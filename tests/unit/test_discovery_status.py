"""Metrics of the discovery server that are added up."""

from __future__ import annotations

import structlog

from reconciler.core.discovery.types import CDS
from reconciler.probe.services import TYPE_PREFIX
from reconciler.server.discovery.documents import Found
from reconciler.server.discovery.driver import Driver
from reconciler.server.discovery.files import Directory, State
from reconciler.server.discovery.match import EVERY
from reconciler.server.discovery.status import Files, of_files

OTHER = TYPE_PREFIX + "envoy.extensions.clusters.v3.Cluster"


async def test_types_of_one_name_are_counted_together() -> None:
    driver = Driver(structlog.get_logger())
    found = tuple(
        Found(type_url, name, "1", b"") for type_url in (CDS, OTHER) for name in ("a", "b")
    )
    driver.changed(State((Directory("", EVERY, found),)))
    assert of_files(driver, Files(), {})["xds_resources"] == {("Cluster",): 4}
    driver.stop()
