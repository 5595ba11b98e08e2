"""The few requests that the allocation journal makes, with the `kubernetes` package's client.

Blocking, for the journal's thread. What may have been carried out although nobody knows (no answer,
a server's error) is told apart from what was not.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from reconciler.core.identity.objects import (
    JOURNAL_API,
    AllocationJournal,
    CiliumIdentity,
    JournalSpec,
)
from reconciler.errors import ConfigError, JournalCorrupt
from reconciler.server.kubernetes.credentials import SERVICE_VARIABLES

GROUP, VERSION = JOURNAL_API.split("/")
PLURAL: Final = "allocationjournals"
IDENTITIES: Final = ("cilium.io", "v2", "ciliumidentities")

CONNECT_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 5.0
LIST_SECONDS: Final = 60.0
PAGE: Final = 500

Connect = Callable[[], Any]
"""Gives a `kubernetes.client.ApiClient`; called again when its credentials are refused."""

_DONE_NOTHING: Final = frozenset({400, 401, 403, 404, 405, 406, 409, 410, 413, 415, 422, 429})


class Refused(Exception):
    """The API server answered with an error.

    sure: certainly nothing was done; gone: the object is not there (its kind is)
    """

    def __init__(self, status: int, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.status, self.gone = status, gone
        self.sure = status in _DONE_NOTHING


class Unanswered(Exception):
    """No answer; whether it was done is not known."""


class Found(msgspec.Struct, frozen=True):
    """The object, and its metadata as they were read: what a write has to keep."""

    journal: AllocationJournal
    metadata: dict[str, Any]


class _List(msgspec.Struct, frozen=True):
    metadata: dict[str, Any]
    items: list[CiliumIdentity]


def connect(kubeconfig: str = "", context: str = "") -> Connect:
    """A pod's own credentials where there are any and nothing is named, else a kubeconfig's."""

    def load() -> Any:
        from kubernetes import client, config

        configuration: Any = client.Configuration()
        in_cluster: Any = config.load_incluster_config
        from_file: Any = config.load_kube_config
        try:
            if not kubeconfig and not context and all(map(os.environ.get, SERVICE_VARIABLES)):
                in_cluster(configuration)
            else:
                from_file(kubeconfig or None, context or None, configuration, False)
        except (config.ConfigException, OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"kubeconfig {kubeconfig or '(default)'}: {error}") from None
        configuration.retries = False  # the journal itself looks what became of a write
        made: Any = client.ApiClient(configuration)
        made.user_agent = "reconciler"
        return made

    return load


class JournalApi:
    """For one journal object, by its name.

    requests: how many by (verb, resource), in RBAC's words, as `ApiClient.requests`
    """

    def __init__(self, connect: Connect, name: str) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self._connect, self.name = connect, name
        self._client: Any = None

    def get(self) -> Found | None:
        """As it is now, not as a cache had it; None: there is none."""
        try:
            body = self._ask("get_cluster_custom_object", GROUP, VERSION, PLURAL, self.name)
        except Refused as error:
            if error.gone:
                return None
            raise
        return _found(body)

    def create(self, spec: JournalSpec) -> Found:
        """409 if there is one."""
        body = self._body(spec, {})
        return _found(self._ask("create_cluster_custom_object", GROUP, VERSION, PLURAL, body))

    def replace(self, read: Found, spec: JournalSpec) -> Found:
        """Only if it is as it was read: 409 if it isn't."""
        body = self._body(spec, read.metadata)
        return _found(
            self._ask("replace_cluster_custom_object", GROUP, VERSION, PLURAL, self.name, body)
        )

    def identities(self) -> Iterator[CiliumIdentity]:
        """All of them, not older than anything that was read before. In pages of one version."""
        while True:
            found: list[CiliumIdentity] = []
            more: dict[str, Any] = {}
            try:
                while True:
                    body = self._ask(
                        "list_cluster_custom_object",
                        *IDENTITIES,
                        limit=PAGE,
                        seconds=LIST_SECONDS,
                        **more,
                    )
                    page = msgspec.json.decode(body, type=_List)
                    found += page.items
                    token = page.metadata.get("continue")
                    if not token:
                        yield from found
                        return
                    more = {"_continue": token}
            except Refused as error:
                if error.status != 410:  # the pages' version is history: from the beginning
                    raise
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Unanswered(f"a list of CiliumIdentities can't be read: {error}") from error

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _body(self, spec: JournalSpec, metadata: dict[str, Any]) -> dict[str, Any]:
        return {
            "apiVersion": JOURNAL_API,
            "kind": "AllocationJournal",
            "metadata": {**metadata, "name": self.name},
            "spec": msgspec.to_builtins(spec),
        }

    def _ask(self, call: str, *args: Any, seconds: float = ANSWER_SECONDS, **options: Any) -> bytes:
        """One request. One whose credentials are refused is made once more with new ones."""
        verb = call.partition("_")[0].replace("replace", "update")
        self.requests[verb, args[2]] += 1
        for again in (True, False):
            try:
                return self._request(call, args, seconds, options)
            except Refused as error:
                if error.status != 401 or not again:
                    raise
                self.close()
        raise AssertionError("not reached")

    def _request(
        self, call: str, args: tuple[Any, ...], seconds: float, options: dict[str, Any]
    ) -> bytes:
        import urllib3
        from kubernetes import client

        if self._client is None:
            self._client = self._connect()
        api = client.CustomObjectsApi(self._client)
        try:
            response = getattr(api, call)(
                *args,
                **options,
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, seconds),
            )
            return bytes(response.data)  # of an error, too, in some versions of the package
        except client.ApiException as error:
            text = _message(error)
            # Where the kind is not served it is the path that is not found.
            gone = error.status == 404 and f'"{self.name}" not found' in text
            raise Refused(error.status or 0, text, gone=gone) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            self.close()  # the next one reads the credentials anew: perhaps they were the reason
            raise Unanswered(f"the API server gives no answer: {error}") from error


def _found(body: bytes) -> Found:
    try:
        journal = msgspec.json.decode(body, type=AllocationJournal)
        raw = json.loads(body)["metadata"]
    except msgspec.ValidationError as error:
        raise JournalCorrupt(str(error)) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise Unanswered(f"the API server's answer can't be read: {error}") from error
    raw.pop("managedFields", None)
    return Found(journal, raw)


def _message(error: Any) -> str:
    """What the answer's Status says, with what to do about it."""
    try:
        said = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        said = str(error.body or error.reason)[:500]
    hints = {
        401: "the credentials are refused: give the server valid ones",
        403: "the role lacks this: install the manifests' ClusterRole",
        404: "the CRDs are missing: run `reconciler install`",
        413: "the object is too large for the API server",
        422: "the CRD is another version's: run `reconciler install` of this one",
    }
    hint = hints.get(error.status or 0)
    text = f"the API server answers {error.status}: {said}"
    return f"{text} ({hint})" if hint else text
