"""How commands that are clients of any xDS server come to it: their TLS and token options, once."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import msgspec
import typer

from reconciler.errors import ConfigError

if TYPE_CHECKING:
    from reconciler.address import Address
    from reconciler.probe.client import Client
    from reconciler.tls import KeyPair

_Content = TypeVar("_Content")


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Its fields are the options; none set: without TLS."""

    tls: Annotated[
        bool, typer.Option("--tls", help="TLS with the CAs that this machine trusts.")
    ] = False
    tls_cert: Annotated[str, typer.Option("--tls-cert", help="Client certificate, PEM.")] = ""
    tls_key: Annotated[str, typer.Option("--tls-key", help="Its key, PEM.")] = ""
    tls_ca: Annotated[
        str, typer.Option("--tls-ca", help="CA that the server's certificate is of, PEM.")
    ] = ""
    server_name: Annotated[
        str, typer.Option("--server-name", help="Name in the server's certificate, if another.")
    ] = ""
    token_file: Annotated[
        str, typer.Option("--token-file", help="File with a bearer token, sent over TLS.")
    ] = ""

    def clients(self, server: Address) -> Callable[[], Client]:
        """What makes a connection to the server. ConfigError: these options can't serve."""
        from reconciler.probe.client import Client

        keys, token = self._keys(), self._token()
        if token and keys is None and not server.local:
            raise ConfigError("--token-file: a token goes over TLS only; see --tls and --tls-ca")
        return lambda: Client(server, keys, server_name=self.server_name, token=token)

    def _keys(self) -> KeyPair | None:
        from reconciler import tls

        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("--tls-cert and --tls-key go together")
        if not (self.tls or self.tls_ca or self.tls_cert):
            return None
        given = {"--tls-cert": self.tls_cert, "--tls-key": self.tls_key, "--tls-ca": self.tls_ca}
        keys = tls.KeyPair(
            *(_read(option, path, tls.load_pem) or b"" for option, path in given.items())
        )
        tls.check(keys, [f"{option}: {path}" for option, path in given.items()], time.time())
        return keys

    def _token(self) -> str:
        from reconciler.tls import load_token

        return _read("--token-file", self.token_file, load_token) or ""


def _read(option: str, path: str, load: Callable[[str], _Content]) -> _Content | None:
    """A file; None where the option is not set."""
    try:
        return load(path) if path else None
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None


def with_structs(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are structs stand for options, which are their fields."""

    def command(**values: Any) -> None:
        for name, struct in structs.items():
            fields = struct.__struct_fields__
            values[name] = struct(**{field: values.pop(field) for field in fields})
        function(**values)

    structs: dict[str, type[msgspec.Struct]] = {}
    parameters: list[inspect.Parameter] = []
    for each in inspect.signature(function, eval_str=True).parameters.values():
        if isinstance(each.annotation, type) and issubclass(each.annotation, msgspec.Struct):
            structs[each.name] = each.annotation
            parameters += _fields(each.annotation)
        else:
            parameters.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _fields(struct: type[msgspec.Struct]) -> list[inspect.Parameter]:
    hints = get_type_hints(struct, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in msgspec.structs.fields(struct)
    ]
