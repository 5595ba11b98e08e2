"""Metrics of what is served from files or pushes, whichever process serves it.

Apart from `status`, so that a server without such files imports nothing of what serves them.
"""

from __future__ import annotations

from typing import Final

from reconciler.metrics import Family

FILES: Final = (
    Family("xds_resources", "gauge", "Resources that are served, in all directories.", ("type",)),
    Family("xds_views", "gauge", "Sets of resources that nodes are served."),
    Family("xds_reloads", "counter", "States that were read or handed over: a `good` one is in "
           "force at once, after a `bad` one the last good one stays.", ("result",)),
    Family("xds_problems", "gauge", "Problems of the files, or of what was handed over last; "
           "while there are any, the last good state is served."),
    Family("xds_streams_broken", "counter", "Streams that were ended for what they sent."),
    Family("xds_polls", "counter", "Requests without a stream that were answered, by method of "
           "gRPC or path of HTTP.", ("method",)),
)  # fmt: skip
