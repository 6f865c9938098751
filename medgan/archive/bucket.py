"""Objects of a store that fsspec reaches: each new or changed one is brought once, and tables know it by its name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from medgan.archive import limits
from medgan.archive import place as places
from medgan.archive.landing import Landing
from medgan.archive.place import Place
from medgan.archive.query import Fetched
from medgan.errors import InvalidRequest, StoreUnavailable

Report = Callable[[int, int], None]

_CHUNK_BYTES: Final = 8 * limits.MIB
_MOST_OBJECTS: Final = 10_000_000
_CHANGING: Final = (
    "size", "ETag", "etag", "md5", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "modify", "created",
)  # fmt: skip


def fetch(place: Place, landing: Landing, *, source: str, report: Report | None = None) -> Fetched:
    """Bring every object below the address that is new, or has another size, time or tag than the one brought.

    Raises:
        InvalidRequest: the store is not known, or refuses us.
        StoreUnavailable: it does not answer; what arrived is kept, run again for the rest.
    """
    places.admit(place)
    store = _open(place, source)
    listed = _listed(store, place)
    handles = {landing.handle(name, *stamp): name for name, stamp in listed}
    missing = [(handle, name) for handle, name in handles.items() if not landing.holds(handle)]
    landing.name({handle: _below(place, name) for handle, name in missing})
    done, own = len(handles) - len(missing), threading.local()

    def bring(one: tuple[str, str]) -> None:
        nonlocal done
        if not hasattr(own, "store"):  # one connection of most protocols serves one thread
            own.store = store if place.scheme == "s3" else _open(place, source)
        landing.add(one[0], _content(own.store, one[1]))
        done += 1
        if report is not None:
            report(done, len(handles))

    with ThreadPoolExecutor(max_workers=place.number("associations", 4, least=1, most=32)) as pool:
        futures = [pool.submit(bring, one) for one in missing]
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    landing.keep_only(handles)
    return Fetched(listed=len(handles), known=len(handles) - len(missing), arrived=len(missing))


def check(place: Place, *, source: str) -> None:
    """List the address: whether the store answers and lets us in."""
    places.admit(place)
    _listed(_open(place, source), place)


def _listed(store: Any, place: Place) -> list[tuple[str, tuple[str, ...]]]:
    """(name, what changes when it does) of every object, in name order."""
    found = _asked(lambda: store.find(_root(place), detail=True))
    if not found:  # what a missing bucket looks like; and an empty answer must not empty the landing
        raise InvalidRequest("the store lists nothing under this address: check the bucket and the prefix")
    if len(found) > _MOST_OBJECTS:
        raise InvalidRequest(f"the store lists more than {_MOST_OBJECTS:,} objects: register it in parts")
    return [(name, _stamp(about)) for name, about in sorted(found.items()) if about.get("type") != "directory"]


def _stamp(about: dict[str, Any]) -> tuple[str, ...]:
    """What the store says of an object that changes when it does; every protocol has its own names for it."""
    return tuple(str(about[name]) for name in _CHANGING if about.get(name) is not None)


def _content(store: Any, name: str) -> Iterator[bytes]:
    file = _asked(lambda: store.open(name, "rb"))
    with file:
        while chunk := _asked(lambda: file.read(_CHUNK_BYTES)):
            yield chunk


def _open(place: Place, source: str) -> Any:
    """The file system that speaks the address's protocol; S3 by botocore, the rest by fsspec."""
    user, password = (places.credential(source, what) for what in ("USER", "PASSWORD"))
    if place.scheme == "s3":
        return _s3(place, user, password)
    options: dict[str, Any] = {"skip_instance_cache": True}
    if places.names_its_host(place):
        options |= {"host": place.host} | ({"port": place.port} if place.port else {})
        options |= ({"username": user} if user else {}) | ({"password": password} if password else {})
    elif place.options.get("endpoint"):
        options["endpoint_url"] = place.options["endpoint"]
    return _asked(lambda: speaker(place.scheme)(**options))


def speaker(scheme: str) -> Any:
    """The class of fsspec that speaks a protocol.

    Raises `InvalidRequest`: there is none, or its library is not installed; it says which to install.
    """
    import fsspec
    from fsspec.registry import known_implementations

    try:
        return fsspec.get_filesystem_class(scheme)
    except ImportError:
        needed = known_implementations.get(scheme, {}).get("err", "install the fsspec package for it")
        raise InvalidRequest(f"this installation does not speak {scheme}: {needed}") from None
    except ValueError:
        raise InvalidRequest(f"fsspec knows no protocol {scheme}") from None


def _s3(place: Place, user: str, password: str) -> Any:
    from medgan.archive.s3 import S3

    return _asked(
        lambda: S3(
            endpoint=place.options.get("endpoint", ""), region=place.options.get("region", ""),
            user=user, password=password, anonymous=place.options.get("anonymous") == "yes",
            most_objects=_MOST_OBJECTS,
        )
    )  # fmt: skip


def _asked(question: Callable[[], Any]) -> Any:
    """An answer of the store; what its library raises is said in our words."""
    try:
        return question()
    except InvalidRequest:
        raise
    except PermissionError:
        raise InvalidRequest("the store does not let us in: set MEDGAN_SOURCE_<NAME>_USER and _PASSWORD") from None
    except FileNotFoundError:
        raise InvalidRequest("the store holds no such bucket or prefix: check the address") from None
    except Exception:  # noqa: BLE001 - every protocol has its own; their texts hold the address
        raise StoreUnavailable("the store stopped answering; what arrived is kept: run again for the rest") from None


def _root(place: Place) -> str:
    if places.names_its_host(place):
        return f"/{place.tail}"
    return f"{place.host}/{place.tail}".rstrip("/")


def _below(place: Place, name: str) -> str:
    """The name below the address: what a table beside it calls it."""
    return name.lstrip("/").removeprefix(_root(place).lstrip("/")).lstrip("/") or name
