"""S3 as the bucket room needs it: list below a prefix, open an object. Nothing is followed, no proxy is used.

By botocore, which hands redirects back to its caller; Arrow's S3 client, which is here as well, follows them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from medgan.errors import InvalidRequest

# Their log lines quote the names of objects.
for _name in ("botocore", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_CONNECT_SECONDS: Final = 10
_READ_SECONDS: Final = 60
_DENIED: Final = (401, 403)
_MISSING: Final = 404


class S3:
    """Objects of one endpoint, named `bucket/key` as fsspec names them."""

    def __init__(
        self, *, endpoint: str, region: str, user: str, password: str, anonymous: bool, most_objects: int
    ) -> None:
        """Speak to `endpoint` (AWS where it is empty) as `user`, as nobody, or as the environment says."""
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        config = Config(
            connect_timeout=_CONNECT_SECONDS, read_timeout=_READ_SECONDS, retries={"max_attempts": 3}, proxies={},
            max_pool_connections=32, **({"signature_version": UNSIGNED} if anonymous else {}),
        )  # fmt: skip
        self._most = most_objects
        self._client: Any = boto3.client(
            "s3", endpoint_url=endpoint or None, region_name=region or None, config=config,
            aws_access_key_id=user or None, aws_secret_access_key=password or None,
        )  # fmt: skip

    def find(self, root: str, *, detail: bool) -> dict[str, dict[str, Any]]:
        """Name -> size, ETag and LastModified of every object below `bucket/prefix`."""
        bucket, _, prefix = root.partition("/")
        found: dict[str, dict[str, Any]] = {}
        below = f"{prefix}/" if prefix else ""
        with _plainly():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=below):
                for one in page.get("Contents", []):
                    if not one["Key"].endswith("/"):
                        about = {name: one[name] for name in ("ETag", "LastModified")} | {"size": one["Size"]}
                        found[f"{bucket}/{one['Key']}"] = about if detail else {}
                if len(found) > self._most:
                    raise InvalidRequest(f"the store lists more than {self._most:,} objects: register it in parts")
        if not found:  # the address may name one object
            with _plainly():
                one = self._client.head_object(Bucket=bucket, Key=prefix) if prefix else {}
            if one:
                found[root] = {"ETag": one["ETag"], "LastModified": one["LastModified"], "size": one["ContentLength"]}
        return found

    def open(self, name: str, _mode: str) -> Any:
        """A stream of the object's bytes."""
        bucket, _, key = name.partition("/")
        with _plainly():
            return self._client.get_object(Bucket=bucket, Key=key)["Body"]


@contextmanager
def _plainly() -> Iterator[None]:
    """Say with the errors of files what a store refuses."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if status in _DENIED:
            raise PermissionError from None
        if status == _MISSING:
            raise FileNotFoundError from None
        raise OSError from None
