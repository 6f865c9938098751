"""Where the repositories of the collections lie, and whether that place can be written to safely.

By default below the pseudonymised zone. `MEDGAN_COLLECTION_STORE=s3://bucket/prefix?endpoint=https://host&region=...`
puts them into an object store; staging, audit and lock stay in the zone. A commit replaces one small object on the
condition that nobody else did (PUT with If-Match and If-None-Match): a store that takes such a PUT anyway would lose
commits without a word, so it is probed before the first write of a process and refused.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from medgan.archive import place as places
from medgan.archive.place import Place
from medgan.collection import durable
from medgan.errors import InvalidRequest, StoreUnavailable

VARIABLE: Final = "MEDGAN_COLLECTION_STORE"
_REFUSED: Final = (412, 409)
_UNSAFE: Final = (
    "the store of the collections does not keep conditional writes: two writers would lose each other's commits. "
    "Use one that does, for example S3, MinIO, Ceph from 19 on, or a local file system"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A place in an S3 store. Its keys are `MEDGAN_COLLECTION_STORE_USER` and `_PASSWORD`, or the environment's own."""

    name: str
    prefix: str
    endpoint: str = ""
    region: str = ""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def bucket() -> Bucket | None:
    """The store that the environment names, or None: then collections lie in their zone.

    Raises:
        InvalidRequest: its address is no S3 address, or its host is not listed (`MEDGAN_SOURCE_HOSTS`).
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    place: Place = places.parse(text)
    if place.scheme != "s3":
        raise InvalidRequest(f"{VARIABLE} is s3://bucket/prefix?endpoint=https://host&region=...")
    places.admit(place)
    return Bucket(
        name=place.host,
        prefix=place.tail,
        endpoint=place.options.get("endpoint", "").rstrip("/"),
        region=place.options.get("region", ""),
        user=os.environ.get(f"{VARIABLE}_USER", ""),
        password=os.environ.get(f"{VARIABLE}_PASSWORD", ""),
    )


@lru_cache(maxsize=16)
def probe_bucket(where: Bucket) -> None:
    """Refuse a store that overwrites what it was asked not to; once a process.

    Raises:
        InvalidRequest: the store ignores a condition, or refuses us.
        StoreUnavailable: it does not answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    client = _client(where)
    name = {"Bucket": where.name, "Key": f"{where.prefix}/.probe-{secrets.token_hex(8)}".lstrip("/")}
    try:
        tag = client.put_object(**name, Body=b"1", IfNoneMatch="*")["ETag"]
        client.put_object(**name, Body=b"2", IfMatch=tag)
        kept = all(_refuses(client, name, condition) for condition in ({"IfNoneMatch": "*"}, {"IfMatch": tag}))
        client.delete_object(**name)
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in {403, 404}:
            raise InvalidRequest(f"the store of the collections does not let us write: check {VARIABLE}") from None
        raise InvalidRequest(_UNSAFE) from None
    except BotoCoreError:
        raise StoreUnavailable("the store of the collections does not answer: check it, then run again") from None
    if not kept:
        raise InvalidRequest(_UNSAFE)


def holds(where: Bucket, *folders: str) -> bool:
    """Whether an object lies in one of `folders` below the prefix; `StoreUnavailable` when the store does not say."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = _client(where)
    below = [f"{where.prefix}/{folder}/".lstrip("/") for folder in folders]
    try:
        return any(client.list_objects_v2(Bucket=where.name, Prefix=one, MaxKeys=1)["KeyCount"] for one in below)
    except (BotoCoreError, ClientError):
        raise StoreUnavailable("the store of the collections does not answer: check it, then run again") from None


@lru_cache(maxsize=16)
def probe_folder(folder: Path) -> None:
    """Refuse a file system that gives one lock, or one new file, to two; once a process (some network mounts do)."""
    with durable.scratch(folder / ".probe") as probe:
        with probe.open("xb") as first, probe.open("rb") as second:
            fcntl.flock(first, fcntl.LOCK_EX)
            try:
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                locked = True
            else:
                locked = False
        try:
            probe.open("xb").close()
        except FileExistsError:
            exclusive = True
        else:
            exclusive = False
    if not locked or not exclusive:
        raise InvalidRequest(_UNSAFE)


def _client(where: Bucket) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3", endpoint_url=where.endpoint or None, region_name=where.region or None,
        aws_access_key_id=where.user or None, aws_secret_access_key=where.password or None,
        config=Config(connect_timeout=10, read_timeout=30, retries={"max_attempts": 2}),
    )  # fmt: skip


def _refuses(client: Any, name: dict[str, str], condition: dict[str, str]) -> bool:
    """Whether a PUT under a condition that does not hold is refused."""
    from botocore.exceptions import ClientError

    try:
        client.put_object(**name, Body=b"3", **condition)
    except ClientError as error:
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in _REFUSED
    return False
