"""Where the processes of one cluster have their sockets and keys: all in one directory."""

from __future__ import annotations

from pathlib import Path


class Places:
    """directory: has ca.crt, and .crt and .key of each stem"""

    directory: Path

    def tls(self, stem: str) -> tuple[str, ...]:
        """Options of a server or an agent."""
        at = self.directory
        return ("--tls-cert", f"{at}/{stem}.crt", "--tls-key", f"{at}/{stem}.key",
                "--tls-ca", f"{at}/ca.crt")  # fmt: skip

    def xds(self, name: str) -> str:
        return f"unix:{self.directory}/{name}.xds"

    def status(self, name: str) -> str:
        return f"unix:{self.directory}/{name}.status"
