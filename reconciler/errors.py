"""Every error that this project raises, and the two values that travel instead of one.

    ReconcilerError
    ├── ConfigError            a flag, variable or configuration file is wrong
    ├── ModelError             a models/*.toml is inconsistent
    ├── CapacityError          a limit would be passed: names the object, the need and the limit
    ├── JournalError
    │   ├── JournalConflict    another writer was first; ours did not take effect
    │   ├── JournalLocked      another server holds the journal
    │   └── JournalCorrupt     the journal can't be read; nothing was changed
    ├── CacheError             the agent's disk cache can't be read
    ├── DatapathError          the kernel refused: operation, object, errno
    │   └── MapFull            a map has no room: map, needed, limit
    ├── ProtocolError          the peer broke the protocol: gRPC status name and text
    └── UnavailableError       a server or socket could not be reached

A bad input object is not an error but a value (`Rejected`); it goes through the pipeline beside
the good ones. A resource that a node can't apply is a value too (`Refusal`): the NACK carries it.
"""

from __future__ import annotations

import msgspec


class Rejected(msgspec.Struct, frozen=True, order=True):
    """One problem of one input: where, what and why. `severity` is "error" or "warning".

    source: file (with document number, "shop.yaml#3") or watch that the object came from
    object: "Kind namespace/name", or "" when not even that could be read
    path:   the field, as kubectl writes it: "spec.ingress[0].ports[1].endPort"
    """

    source: str
    object: str
    path: str
    reason: str
    severity: str = "error"

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.source, self.object, self.path) if part)
        return f"{where}: {self.reason}"


class Refusal(msgspec.Struct, frozen=True):
    """Why a node can't apply a resource: the content of a NACK (proto `Rejection`)."""

    type_url: str
    name: str
    reason: str
    needed: int = 0
    limit: int = 0


class ReconcilerError(Exception):
    """Base of all errors of this project; `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigError(ReconcilerError):
    exit_code = 2


class ModelError(ReconcilerError):
    pass


class CapacityError(ReconcilerError):
    def __init__(self, object: str, needed: int, limit: int, what: str) -> None:
        super().__init__(f"{object}: needs {needed} {what}, the limit is {limit}")
        self.object, self.needed, self.limit, self.what = object, needed, limit, what


class JournalError(ReconcilerError):
    pass


class JournalConflict(JournalError):
    pass


class JournalLocked(JournalError):
    pass


class JournalCorrupt(JournalError):
    pass


class CacheError(ReconcilerError):
    pass


class DatapathError(ReconcilerError):
    def __init__(self, operation: str, object: str, errno: int, reason: str) -> None:
        super().__init__(f"{operation} {object}: {reason}")
        self.operation, self.object, self.errno, self.reason = operation, object, errno, reason


class MapFull(DatapathError):
    def __init__(self, map: str, needed: int, limit: int) -> None:
        super().__init__("update", map, 7, f"map is full: needs {needed} entries, holds {limit}")
        self.map, self.needed, self.limit = map, needed, limit


class ProtocolError(ReconcilerError):
    """`status` is a gRPC status name such as INVALID_ARGUMENT."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class UnavailableError(ReconcilerError):
    exit_code = 3
