"""Object stores (`s3://`, `gs://`, `az://`) read by obstore; part of the install as `pip install 'medgan[s3]'`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any

from medgan.errors import InvalidRequest, StoreUnavailable

SCHEMES = frozenset({"s3", "gs", "az"})
BLOCK_BYTES = 1 << 20
_TRIES = 4
_PATIENCE = timedelta(seconds=30)


def api() -> Any:
    """The module `obstore`; `InvalidRequest` where it is not installed."""
    try:
        return import_module("obstore")
    except ImportError:
        raise InvalidRequest("a registry in an object store needs obstore: pip install 'medgan[s3]'") from None


def api_errors() -> Any:
    """The module `obstore.exceptions`."""
    api()
    return import_module("obstore.exceptions")


def connect(address: str) -> Any:
    """A store whose paths are relative to `address`; credentials and endpoint come from the environment (`AWS_...`)."""
    api()
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") or os.environ.get("AWS_ENDPOINT", "")
    options: dict[str, Any] = {"timeout": _PATIENCE, "connect_timeout": timedelta(seconds=10)}
    if endpoint.startswith("http://"):
        options["allow_http"] = True
    errors = api_errors()
    try:
        return import_module("obstore.store").from_url(
            address,
            client_options=options,
            retry_config={"max_retries": _TRIES, "retry_timeout": 4 * _PATIENCE},
        )
    except (errors.BaseError, ValueError):
        raise InvalidRequest(
            "the object store cannot be addressed: name it s3://bucket/prefix, and set AWS_REGION, the credentials "
            "and, for a store of your own, AWS_ENDPOINT_URL"
        ) from None


@contextmanager
def explained() -> Iterator[None]:
    """Turn obstore's errors into `StoreUnavailable`, whose message holds no address and no credential."""
    errors = api_errors()
    try:
        yield
    except (errors.PermissionDeniedError, errors.UnauthenticatedError):
        raise StoreUnavailable(
            "the object store refused access: check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY; "
            "AWS_SKIP_SIGNATURE=true for a public bucket)"
        ) from None
    except FileNotFoundError:
        raise StoreUnavailable("the object store has no such bucket or object: check its address") from None
    except (errors.BaseError, TimeoutError, ConnectionError):
        raise StoreUnavailable("the object store did not answer as it should: check its address, try again") from None


class ObjectSource:
    """A registry in an object store, as a `medgan.client.registry.Source`; opened again wherever it is sent."""

    def __init__(self, address: str, *, store: Any = None) -> None:
        """Read below `address`; `store` is an obstore store already opened there."""
        self.address: str = address.rstrip("/")
        self.store = connect(self.address) if store is None else store

    def __reduce__(self) -> tuple[type[ObjectSource], tuple[str]]:
        """Travel by address."""
        return (type(self), (self.address,))

    def blocks(self, path: str, *, offset: int = 0) -> Iterator[bytes]:
        """See `Source`."""
        options = {"range": {"offset": offset}} if offset else None
        with explained():
            try:
                found = api().get(self.store, path, options=options)
            except FileNotFoundError:
                raise StoreUnavailable(
                    f"the registry did not give {path.rsplit('/', 1)[-1]}: check its address, and that a version was "
                    "published there"
                ) from None
            for block in found.stream(min_chunk_size=BLOCK_BYTES):
                yield bytes(block)
