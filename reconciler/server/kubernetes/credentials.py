"""Where the API server is and how to prove who we are, as a kubeconfig or a pod's mount says it.

The `kubernetes` package reads both: clusters and contexts, client certificates, tokens and token
files, exec plugins, the service account's mount. Only what it found is taken over, as an SSL
context and the text of the Authorization header. Reading runs plugins and opens files, so it
belongs in a thread.

Credentials rotate. A token is asked for again once it is a minute old (the package reads a pod's
token file again, and runs a plugin whose token is about to expire); everything, client
certificates and CA included, is read again after the server answered 401 or showed a certificate
that our CA doesn't know.
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from reconciler.errors import ConfigError

TOKEN_SECONDS: Final = 60.0
"""How old a token may be before the loader is asked for it again."""

SERVICE_VARIABLES: Final = ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
DEFAULT_KUBECONFIG: Final = "~/.kube/config"


class Credentials(msgspec.Struct, frozen=True):
    """One reading. host: URL without a slash at its end; authorization: "" where there is none.

    server_name: the name that the server's certificate must have, where it isn't the host's
    token: the loader's current Authorization; may run a plugin
    """

    host: str
    tls: ssl.SSLContext | None
    server_name: str | None
    proxy: str | None
    authorization: str
    token: Callable[[], str]


Load = Callable[[], Credentials]


def loader(kubeconfig: str = "", context: str = "") -> Load:
    """What reads the credentials, each time anew.

    kubeconfig: a path (or several, as in $KUBECONFIG); "" is a pod's own service account where the
    variables of a pod are set and no context is asked for, else $KUBECONFIG or ~/.kube/config.
    """
    if not kubeconfig and not context and all(os.environ.get(v) for v in SERVICE_VARIABLES):
        return in_cluster
    path = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT_KUBECONFIG
    return lambda: from_kubeconfig(path, context)


def from_kubeconfig(path: str, context: str = "") -> Credentials:
    """ConfigError: there is no such file or context, or it can't be used."""
    with tempfile.TemporaryDirectory(prefix="reconciler-kubeconfig-") as scratch:
        # The package writes keys that the file holds inline to files; they last until they are read

        def load(configuration: Any) -> None:
            from kubernetes import config

            read: Any = config.load_kube_config
            read(path, context or None, configuration, False, scratch)

        return _load(f"kubeconfig {path}", load)


def in_cluster(token: str = "", ca: str = "") -> Credentials:
    """The service account's mount; token and ca are files, "" for where a pod has them."""

    def load(configuration: Any) -> None:
        from kubernetes.config import incluster_config

        names: Any = incluster_config
        names.InClusterConfigLoader(
            token or names.SERVICE_TOKEN_FILENAME, ca or names.SERVICE_CERT_FILENAME
        ).load_and_set(configuration)

    return _load("in-cluster configuration", load)


def _load(what: str, load: Callable[[Any], None]) -> Credentials:
    import yaml
    from kubernetes.client import Configuration
    from kubernetes.config.config_exception import ConfigException

    configuration: Any = Configuration()

    def token() -> str:
        return str(configuration.get_api_key_with_prefix("BearerToken") or "")

    try:
        load(configuration)
        host = str(configuration.host).rstrip("/")
        tls = _tls(configuration) if host.startswith("https:") else None
        authorization = token()
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, KeyError) as error:
        # The package indexes what it reads without looking, hence the last two
        raise ConfigError(f"{what}: {error}") from error
    return Credentials(
        host,
        tls,
        configuration.tls_server_name or None,
        _proxy(configuration),
        authorization,
        token,
    )


def _tls(configuration: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    # Python 3.13 asks for an authority key identifier, which clusters' own CAs often lack
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file or None)
    return context


def _proxy(configuration: Any) -> str | None:
    """The kubeconfig's proxy-url or the environment's, unless the host is one of NO_PROXY."""
    host = urlsplit(configuration.host).hostname or ""
    around = [name.strip() for name in (configuration.no_proxy or "").split(",") if name.strip()]
    if not configuration.proxy or any(
        name == "*" or host == name.lstrip(".") or host.endswith("." + name.lstrip("."))
        for name in around
    ):
        return None
    return str(configuration.proxy)
