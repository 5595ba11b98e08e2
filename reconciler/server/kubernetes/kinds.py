"""What a watch reads: kinds of objects, pages of lists and events of watches as typed values.

Only the fields of a kind's type are decoded, straight from JSON. An object that doesn't fit is an
`Item` with its problems and without an object, or with what its kind has stand for it; the others
of its page are not touched by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from reconciler.core.objects import Misfit, ObjectKey, ObjectMeta, decode_as, plain
from reconciler.errors import Rejected, UnavailableError
from reconciler.server.kubernetes.client import Status


class Object(Protocol):
    """A frozen msgspec.Struct of the fields that matter, `metadata` among them."""

    @property
    def metadata(self) -> ObjectMeta: ...


T = TypeVar("T", bound=Object)
Check = Callable[[Any, str], tuple[Rejected, ...]]
StandIn = Callable[[Any, tuple[Rejected, ...]], "Instead[T] | None"]

_NO_PARAMS: Final[Mapping[str, str]] = MappingProxyType({})


def _accept(object: Any, source: str) -> tuple[Rejected, ...]:
    return ()


def _nothing(value: Any, problems: tuple[Rejected, ...]) -> None:
    return None


class Instead(msgspec.Struct, Generic[T], frozen=True):
    """What stands for a refused object of which there is no good version, and its problems with
    what that means."""

    object: T
    problems: tuple[Rejected, ...]


class Kind(Generic[T]):
    """One collection of the API.

    name:     of the kind, for keys and problems: "Pod"
    resource: of the collection, for positions: "pods"
    path:     of the collection: "/api/v1/pods"; of one namespace where that is enough
    params:   labelSelector and fieldSelector, for list and watch
    check:    (object, source) → problems; one of severity "error" refuses the object
    stand_in: (plain value of a refused object, problems) → what stands for it where no good
              version is held; None: nothing does
    exact:    every new resourceVersion is a change, for objects that are written under it. Else
              an object whose typed fields stay the same hasn't changed (a node's heartbeat)
    """

    def __init__(
        self,
        name: str,
        resource: str,
        path: str,
        type: type[T],
        *,
        params: Mapping[str, str] = _NO_PARAMS,
        check: Check = _accept,
        stand_in: StandIn[T] = _nothing,
        exact: bool = True,
    ) -> None:
        self.name, self.resource, self.path, self.type = name, resource, path, type
        self.params, self.check, self.exact = dict(params), check, exact
        self._stand_in = stand_in
        self._page: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_Page[type])  # type: ignore[valid-type]

    def page(self, body: bytes) -> Page[T]:
        """UnavailableError: not a list as the API server answers it."""
        try:
            try:
                typed = self._page.decode(body)
            except msgspec.ValidationError:
                raw = msgspec.json.decode(body, type=_RawPage)
                items = tuple(self._read(bytes(item)) for item in raw.items or ())
                return Page(_number(raw.metadata.resource_version), raw.metadata.next, items)
            items = tuple(map(self._item, typed.items))
            return Page(_number(typed.metadata.resource_version), typed.metadata.next, items)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(f"list of {self.resource}: {error}") from error

    def event(self, line: bytes) -> Event[T]:
        """ApiError: the server ends the watch with this. UnavailableError: not an event."""
        try:
            event = msgspec.json.decode(line, type=_Event)
            if event.type == "ERROR":
                raise msgspec.json.decode(event.object, type=Status).error()
            if event.type in ("ADDED", "MODIFIED"):
                return Put(self._read(bytes(event.object)))
            meta = msgspec.json.decode(event.object, type=_Head).metadata
            if event.type == "BOOKMARK":
                return Bookmark(_number(meta.resource_version))
            if event.type == "DELETED":
                return Gone(self._key(meta), _number(meta.resource_version))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(f"watch of {self.resource}: {error}") from error
        raise UnavailableError(f"watch of {self.resource}: an event of type {event.type!r}")

    def same(self, held: T, new: T) -> bool:
        """Whether `new` is no change to who holds `held`; their versions may differ."""
        if self.exact:
            return held == new
        meta: Any = new.metadata
        meta = msgspec.structs.replace(meta, resource_version=held.metadata.resource_version)
        other: Any = new
        return bool(held == msgspec.structs.replace(other, metadata=meta))

    def _read(self, data: bytes) -> Item[T]:
        meta = msgspec.json.decode(data, type=_Head).metadata
        object = decode_as(data, self.type)
        if not isinstance(object, Misfit):
            return self._item(object)
        problem = Rejected(self.resource, str(self._key(meta)), object.path, object.reason)
        instead = self._stand_in(plain(data), (problem,))
        version = _number(meta.resource_version)
        return Item(self._key(meta), meta.uid, version, None, (problem,), instead)

    def _item(self, object: T) -> Item[T]:
        meta = object.metadata
        key, version = self._key(meta), _number(meta.resource_version)
        problems = self.check(object, self.resource)
        if problems and any(problem.severity == "error" for problem in problems):
            instead = self._stand_in(msgspec.to_builtins(object), problems)
            return Item(key, meta.uid, version, None, problems, instead)
        return Item(key, meta.uid, version, object, problems)

    def _key(self, meta: _Meta | ObjectMeta) -> ObjectKey:
        return ObjectKey(self.name, meta.namespace, meta.name)


class Item(msgspec.Struct, Generic[T], frozen=True):
    """An object as it was read. object: None where it is refused; instead: see `Kind`"""

    key: ObjectKey
    uid: str
    version: int
    object: T | None
    problems: tuple[Rejected, ...] = ()
    instead: Instead[T] | None = None


class Page(msgspec.Struct, Generic[T], frozen=True):
    """next: the token of the page after this one, "" for the last."""

    version: int
    next: str
    items: tuple[Item[T], ...]


class Put(msgspec.Struct, Generic[T], frozen=True):
    """The object exists, and reads so."""

    item: Item[T]

    @property
    def version(self) -> int:
        return self.item.version


class Gone(msgspec.Struct, frozen=True):
    key: ObjectKey
    version: int


class Bookmark(msgspec.Struct, frozen=True):
    """Everything up to this version has been told."""

    version: int


Event = Put[T] | Gone | Bookmark


# ------------------------------------------------------------------------------------- on the wire


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    """Of an object that may be malformed elsewhere; the API server itself writes these fields."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Head(msgspec.Struct, frozen=True):
    metadata: _Meta = _Meta()


class _ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    next: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, Generic[T], frozen=True):
    metadata: _ListMeta
    items: list[T]


class _RawPage(msgspec.Struct, frozen=True):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


def _number(version: str) -> int:
    """A resourceVersion. Since Kubernetes 1.35 the API promises a number that only grows (it was
    one before, too); UnavailableError for anything else."""
    if not version.isdecimal():
        raise UnavailableError(f"resourceVersion {version!r} is not a number")
    return int(version)
