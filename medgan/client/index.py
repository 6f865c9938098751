"""The signed table of contents: read, believed or refused, and asked for a version."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from pydantic import ValidationError

from medgan.client import trust as trusts
from medgan.client.registry import Source, read_all
from medgan.client.trust import Trust
from medgan.errors import IntegrityError, InvalidRequest
from medgan.records import Index, IndexDataset, IndexVersion, ReleaseStatus

FILE = "index.json"
ENVELOPE = "index.json.dsse"
LATEST = "latest"
"""The channel that follows every publication; people move all others."""

_SPEC = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]{0,62})(?:@(?P<version>[a-z][a-z-]{0,30}|\d+(?:\.\d+){0,2}))?")


def fetch(source: Source, trust: Trust, *, now: datetime | None = None) -> Index:
    """The index of a registry, signed by the pinned pipeline key, fresh, and not older than one seen before.

    The envelope carries the index itself, so one atomic file decides; `index.json` beside it is for people.
    `now` (UTC) is the clock unless a test gives another.
    """
    body = trusts.open_envelope(
        read_all(source, ENVELOPE), kind=trusts.INDEX_TYPE, keys=trust.keys[:1], what="the registry's index"
    )
    try:
        index = Index.model_validate_json(body)
    except ValidationError:
        raise IntegrityError("the registry's index is malformed: ask the publisher, or update medgan") from None
    if index.counter < trust.counter:
        raise IntegrityError(
            f"the registry shows index {index.counter}, but {trust.counter} was seen before: an old state is being "
            "served (rollback); it is not believed"
        )
    if (now or datetime.now(UTC)) > moment(index.expires):
        raise IntegrityError(
            f"the registry's index expired on {index.expires}: a newer one may be held back (freeze); "
            "ask the publisher to publish or to renew it, or set this machine's clock"
        )
    trusts.remember(Trust(registry=trust.registry, keys=trust.keys, counter=index.counter))
    return index


def moment(text: str) -> datetime:
    """A UTC time of a record (ISO 8601); one without a zone is read as UTC."""
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def parse_spec(spec: str) -> tuple[str, str | None]:
    """`NAME[@VERSION]` in two; VERSION is 1, 1.2, 1.2.3, or a channel: latest, stable, ..."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise InvalidRequest("a data set is named NAME or NAME@VERSION, VERSION being 1, 1.2, 1.2.3 or a channel")
    return match["name"], match["version"]


def is_number(name: str) -> bool:
    """Whether a folder's name is a version's number; beside versions people leave copies and notes."""
    return re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){2}", name) is not None


def is_channel(version: str) -> bool:
    """Whether the VERSION of a spec names a channel, not a number."""
    return not version[0].isdigit()


def dataset(index: Index, name: str) -> IndexDataset:
    """The entry of one data set; `InvalidRequest` names what there is instead."""
    for entry in index.datasets:
        if entry.name == name:
            return entry
    known = ", ".join(sorted(entry.name for entry in index.datasets)) or "none"
    raise InvalidRequest(f"the registry has no data set of that name; it has: {known}")


def choose(index: Index, spec: str, *, allow_withdrawn: bool = False) -> tuple[IndexDataset, IndexVersion]:
    """The version that `spec` means: exact, the highest of a prefix, or what a channel names.

    A withdrawn version is refused with its reason unless `allow_withdrawn`, and never chosen by prefix. A channel that
    people promoted it to still names it: what they chose does not change by itself.
    """
    name, wanted = parse_spec(spec)
    entry = dataset(index, name)
    if wanted is None or is_channel(wanted):
        channel = wanted or LATEST
        wanted = entry.channels.get(channel)
        if wanted is None:
            known = ", ".join(sorted(entry.channels)) or "none"
            raise InvalidRequest(f"{name} has no version in channel {channel}; channels: {known}. Or name a version")
    exact = wanted.count(".") == 2  # noqa: PLR2004 - major.minor.patch
    found = [
        version
        for version in entry.versions
        if (version.version == wanted if exact else f"{version.version}.".startswith(f"{wanted}."))
        and (exact or version.status not in {ReleaseStatus.WITHDRAWN, ReleaseStatus.PENDING})
    ]
    if not found:
        raise InvalidRequest(f"{name} has no version {wanted}: it has {', '.join(v.version for v in entry.versions)}")
    version = max(found, key=lambda v: tuple(map(int, v.version.split("."))))
    if version.status is ReleaseStatus.WITHDRAWN and not allow_withdrawn:
        raise IntegrityError(f"{name}@{version.version} was withdrawn: {version.reason}; take another version")
    if version.status is ReleaseStatus.PENDING:
        raise IntegrityError(f"{name}@{version.version} waits for its approver's signature: take another version")
    return entry, version
