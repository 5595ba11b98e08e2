"""The library and the loaded programs: return codes become errors, libbpf's log becomes text.

Every call into libbpf goes through the C shim (kernel/ffi), which answers with -errno; `check`
turns that into a DatapathError that names the operation and the object. libbpf's log is dropped
but while an object is loaded: a failed load carries its end, which is the verifier's complaint.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from reconciler.core.dataplane.layout import MapId
from reconciler.errors import DatapathError

try:
    from reconciler.datapath._libbpf import ffi as ffi
    from reconciler.datapath._libbpf import lib as lib
except ImportError as error:  # pragma: no cover - depends on how the package was installed
    raise DatapathError(
        "import", "libbpf extension", errno.ENOENT, f"{error}; build it with `make kernel`"
    ) from error

OBJECT: Final = Path(__file__).with_name("datapath.bpf.o")
ENOTSUPP: Final = 524  # the kernel's own "not supported", unknown to strerror
_LOG_TAIL: Final = 30  # lines of libbpf's log that an error carries

LogSink = Callable[[int, str], None]
_sink: LogSink | None = None


@ffi.def_extern()  # type: ignore[untyped-decorator]
def rk_log(level: int, text: Any) -> None:
    """Called by libbpf, on the thread that called into it."""
    if _sink is not None:
        _sink(level, ffi.string(text).decode(errors="replace").rstrip("\n"))


lib.rk_log_to(lib.rk_log)


@contextmanager
def collected_log() -> Iterator[list[str]]:
    """Lines that libbpf logs inside the block: warnings and information, no debug text."""
    global _sink
    lines: list[str] = []

    def collect(level: int, text: str) -> None:
        if level < 2:
            lines.extend(text.splitlines())

    before, _sink = _sink, collect
    try:
        yield lines
    finally:
        _sink = before


def reason_of(code: int) -> str:
    return "not supported by this kernel" if code == ENOTSUPP else os.strerror(code)


def failure(code: int, operation: str, object: str, detail: str = "") -> DatapathError:
    """The error for a shim's answer `code` (-errno or errno)."""
    number = abs(code)
    text = reason_of(number)
    if number in (errno.EPERM, errno.EACCES):
        text += " (needs CAP_BPF and CAP_NET_ADMIN, or root)"
    return DatapathError(operation, object, number, f"{text}: {detail}" if detail else text)


def check(code: int, operation: str, object: str) -> int:
    """`code` if it is no error, else DatapathError."""
    if code < 0:
        raise failure(code, operation, object)
    return code


def path_bytes(path: Path) -> bytes:
    return os.fsencode(path)


class Programs(msgspec.Struct):
    """Descriptors of two loaded programs; they live as long as the object is open."""

    from_pod: int
    to_pod: int
    handle: Any

    @classmethod
    def load(
        cls, maps: Mapping[MapId, int], path: Path = OBJECT, *, probes: bool = False
    ) -> Programs:
        """Load the object with these map descriptors in place of its own maps: the programs for
        devices, or their variants for PROG_TEST_RUN."""
        wanted, others = ("from_pod", "to_pod"), ("probe_from_pod", "probe_to_pod")
        if probes:
            wanted, others = others, wanted
        with collected_log() as log:
            handle = lib.rk_open(path_bytes(path))
            if handle == ffi.NULL:
                raise failure(lib.rk_errno(), "open", str(path), _tail(log))
            try:
                for name, fd in maps.items():
                    code = lib.rk_use_map(handle, name.encode(), fd)
                    if code < 0:
                        raise failure(code, "use map", name, _tail(log))
                for program in others:
                    check(lib.rk_skip_program(handle, program.encode()), "skip", program)
                code = lib.rk_load(handle)
                if code < 0:
                    raise failure(code, "load", path.name, _tail(log))
                from_pod, to_pod = (
                    check(lib.rk_program_fd(handle, program.encode()), "find program", program)
                    for program in wanted
                )
            except BaseException:
                lib.rk_close_object(handle)
                raise
        return cls(from_pod, to_pod, handle)

    def close(self) -> None:
        if self.handle is not None:
            lib.rk_close_object(self.handle)
            self.handle = None


def _tail(log: list[str]) -> str:
    return "\n".join(log[-_LOG_TAIL:])
