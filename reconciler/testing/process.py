"""A child process that ends with its parent, however the parent ends.

The kernel kills it (PR_SET_PDEATHSIG) when the thread that started it ends, so one thread that
lives as long as this process starts them all. Its output goes to a file, for the error that says
why it ended.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGCONT, SIGTERM, Signals
from typing import Final

from reconciler.errors import UnavailableError

END_SECONDS: Final = 10.0

_starter: Final = ThreadPoolExecutor(1, thread_name_prefix="starter")

_UNLESS_ORPHANED: Final = '[ "$PPID" = "$0" ] && exec "$@"'


def bound(command: Sequence[str]) -> list[str]:
    """The command as a child of this process that the kernel kills when the thread that starts it
    ends. It is not run at all when this process has ended before the kernel was told so.

    setpriv(1) and sh(1) become the command one after the other, so its process id is theirs. Not a
    `preexec_fn`: that runs Python in a fork of a process with threads.
    """
    alone = ["sh", "-c", _UNLESS_ORPHANED, str(os.getpid())]
    return ["setpriv", "--pdeathsig", "KILL", *alone, *command]


class Process:
    """One run of `command`; everything that it prints is appended to `log`.

    environment: beside this process's own
    """

    def __init__(
        self, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name, self.log = Path(command[0]).name, log
        with open(log, "ab") as output:
            self._popen = _starter.submit(
                subprocess.Popen,
                bound(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # a Ctrl-C is for the test, which then ends this in order
            ).result()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def check(self) -> None:
        """UnavailableError, with the end of its log, when it runs no more."""
        code = self._popen.poll()
        if code is not None:
            raise UnavailableError(f"{self.name} ended with {code}:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        text = self.log.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def signal(self, number: Signals) -> None:
        self._popen.send_signal(number)

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes: VmRSS is resident now, VmHWM the most that was; 0 of one that has ended."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) << 10
        return 0

    def end(self, number: Signals = SIGTERM, seconds: float = END_SECONDS) -> int:
        """Ask it to end and wait; kill it when it takes too long. One that has ended is fine.

        Gives its exit code; of one that a signal ended, the negative number of that.
        """
        if self._popen.poll() is None:
            self._popen.send_signal(number)
            self._popen.send_signal(SIGCONT)  # a stopped one takes no other signal
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait(END_SECONDS)
