"""Where a source lies: a path, or an address that is judged before anything connects to it.

    /archive, archive.zip                         files as they lie
    drop:/incoming?settle=60                      a folder others copy into: only what is finished is read
    s3://bucket/prefix?endpoint=https://host      objects, by any protocol in `protocols()`
    dicomweb+https://host/dicom-web?days=7        QIDO-RS and WADO-RS
    dicom://CALLED@host:port?calling=MEDGAN&...   C-FIND, then C-GET or C-MOVE (`dicoms` with TLS)
    receive://TITLE@host:port?from=CT1,CT2        a C-STORE receiver for these AE titles

A host must be listed in `MEDGAN_SOURCE_HOSTS`; link-local addresses (cloud metadata) are refused even then. Further
protocols of fsspec are spoken where `MEDGAN_SOURCE_PROTOCOLS` lists them.
Passwords are no part of an address: `credential` takes them from the environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from medgan.errors import InvalidRequest, StoreUnavailable

Kind = Literal["files", "drop", "bucket", "dicomweb", "pacs", "receiver"]

HOSTS_VARIABLE: Final = "MEDGAN_SOURCE_HOSTS"
PROTOCOLS_VARIABLE: Final = "MEDGAN_SOURCE_PROTOCOLS"
_BUCKETS: Final = {
    "s3": "s3.amazonaws.com",
    "gs": "storage.googleapis.com",
    "az": "blob.core.windows.net",
    "abfs": "blob.core.windows.net",
    "sftp": "",
    "smb": "",
    "hdfs": "",
}
"""Protocol -> the host it speaks to where the address names a bucket instead; empty: the address names the host."""
_SCHEMES: Final[dict[str, Kind]] = {
    "drop": "drop",
    "receive": "receiver",
    "dicom": "pacs",
    "dicoms": "pacs",
    "dicomweb+https": "dicomweb",
    "dicomweb+http": "dicomweb",
}
_NEVER_LISTED: Final = frozenset(("http", "https", "webhdfs", "file", "local", "data", "generic", "reference"))
"""Protocols of fsspec whose libraries follow redirects, or that lead to where no host can be judged."""
_OPTIONS: Final[dict[Kind, frozenset[str]]] = {
    "files": frozenset(),
    "drop": frozenset(("settle",)),
    "bucket": frozenset(("endpoint", "region", "anonymous", "associations")),
    "dicomweb": frozenset(("days", "associations", "ca")),
    "pacs": frozenset(("calling", "retrieve", "port", "bind", "days", "associations", "timeout", "ca", "cert", "key")),
    "receiver": frozenset(("from", "cert", "key", "ca")),
}
"""What an address of each kind may say in small letters; DICOM keywords begin with a capital."""
_TITLE: Final = re.compile(r"[A-Za-z0-9_.-][A-Za-z0-9_. -]{0,15}")  # PS3.5 6.2, AE: 16 characters; ours are plainer
_METADATA: Final = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
"""Metadata services of clouds that are not link-local."""
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{1,31}:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A judged place. `options` are the query of its address, names in lower case but DICOM keywords as they are."""

    kind: Kind
    text: str = field(repr=False)
    scheme: str = ""
    path: Path = field(default=Path(), repr=False)
    title: str = ""
    host: str = field(default="", repr=False)
    port: int = 0
    tail: str = field(default="", repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_remote(self) -> bool:
        """Whether its files have to be brought here before they are scanned."""
        return self.kind not in {"files", "drop"}

    def number(self, name: str, default: int, *, least: int, most: int) -> int:
        """An option that is a whole number within its range; `InvalidRequest` otherwise."""
        value = self.options.get(name, str(default))
        if not value.isdecimal() or not least <= int(value) <= most:
            raise InvalidRequest(f"{name} in the address is a whole number from {least} to {most}")
        return int(value)


def parse(text: str) -> Place:
    """Judge a path or an address by its form; nothing is looked up. `InvalidRequest` says what is wrong with it."""
    if not _SCHEME.match(text) or (len(text) > 1 and text[1] == ":"):
        resolved = Path(text).expanduser().resolve()
        return Place(kind="files", text=str(resolved), path=resolved)
    split = _split(text)
    spoken = protocols()
    kind = _SCHEMES.get(split.scheme) or ("bucket" if split.scheme in spoken else None)
    if kind is None or "::" in text:
        known = ", ".join(sorted({*_SCHEMES, *spoken}))
        raise InvalidRequest(f"a source is a path or one of these addresses: {known}")
    if split.password is not None or split.fragment:
        raise InvalidRequest(
            "an address holds no password and no #: give passwords by the environment (docs/ingest.md)"
        )
    options = dict(parse_qsl(split.query, keep_blank_values=True))
    unknown = sorted(name for name in options if name.islower() and name not in _OPTIONS[kind])
    if unknown:
        raise InvalidRequest(f"this kind of address has the options {', '.join(sorted(_OPTIONS[kind]))}, and no other")
    if kind == "drop":
        resolved = Path(unquote(split.path)).resolve()
        return Place(kind=kind, text=text, scheme=split.scheme, path=resolved, options=options)
    port = _port(split)
    title = unquote(split.username or "")
    if kind in {"pacs", "receiver"}:
        _check_titles(title, options)
        if not port:
            raise InvalidRequest("the address of a DICOM node names its port, for example dicom://PACS@host:104")
    if not split.hostname:
        raise InvalidRequest("the address names no host")
    return Place(
        kind=kind, text=text, scheme=split.scheme, title=title, host=split.hostname, port=port,
        tail=unquote(split.path).strip("/"), options=options,
    )  # fmt: skip


def protocols() -> dict[str, str]:
    """Protocols of stores: name -> the host it speaks to where an address names a bucket, or empty: it names the host.

    `MEDGAN_SOURCE_PROTOCOLS=ftp,oss=oss.example.com` adds fsspec's others; those that follow redirects are refused.
    """
    listed = (entry.strip().lower() for entry in os.environ.get(PROTOCOLS_VARIABLE, "").split(","))
    added = {name: host for name, _, host in (entry.partition("=") for entry in listed if entry)}
    if not _NEVER_LISTED.isdisjoint(added):
        refused = ", ".join(sorted(_NEVER_LISTED))
        raise InvalidRequest(f"{PROTOCOLS_VARIABLE} cannot list {refused}: they follow redirects or name no host")
    return added | _BUCKETS


def names_its_host(place: Place) -> bool:
    """Whether the address of a store names its host, and not a bucket of a service."""
    return not protocols()[place.scheme]


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:  # its text may quote the address
        raise InvalidRequest("the address cannot be read: is a bracket of its host missing?") from None


def _port(split: SplitResult) -> int:
    try:
        return split.port or 0
    except ValueError:
        raise InvalidRequest("the port in the address is no port") from None


def admit(place: Place) -> None:
    """Refuse a place that this site does not speak to; called again before every connection.

    Raises:
        InvalidRequest: the host is not listed, or is a link-local, multicast or unspecified address.
        StoreUnavailable: its name cannot be resolved.
    """
    if place.kind == "receiver" or not place.is_remote:
        return
    host, port = endpoint(place)
    admit_host(host, port)


def endpoint(place: Place) -> tuple[str, int]:
    """Host and port that a remote place is reached at."""
    if place.kind != "bucket":
        return place.host, place.port
    given = place.options.get("endpoint", "")
    if given:
        split = _split(given)
        if split.scheme not in {"http", "https"} or not split.hostname or split.username:
            raise InvalidRequest("endpoint in the address is http(s)://host[:port]")
        return split.hostname, _port(split)
    return (protocols()[place.scheme] or place.host), place.port


def admit_host(host: str, port: int = 0) -> None:
    """`admit` for one host; entries of the list are names, addresses, `*.domain`, each with or without `:port`."""
    listed = [entry.strip().lower() for entry in os.environ.get(HOSTS_VARIABLE, "").split(",") if entry.strip()]
    name = host.lower()
    if not any(fnmatchcase(name, entry) or fnmatchcase(f"{name}:{port}", entry) for entry in listed):
        raise InvalidRequest(
            f"this site does not list the host of the source: add it to {HOSTS_VARIABLE} (names, commas between them)"
        )
    try:
        found = socket.getaddrinfo(host, port or None, type=socket.SOCK_STREAM)
    except OSError:
        raise StoreUnavailable("the host of the source is not known to the network: check its name") from None
    for *_, address in found:
        # A name on the list may point anywhere; the metadata service of a cloud is never an archive.
        ip = ipaddress.ip_address(str(address[0]).partition("%")[0])
        plain = getattr(ip, "ipv4_mapped", None) or ip
        reserved = plain.is_reserved and not plain.is_loopback  # ::1 counts as both
        if plain.is_link_local or plain.is_multicast or plain.is_unspecified or reserved or plain in _METADATA:
            raise InvalidRequest("the host of the source is a link-local, multicast or reserved address: refused")


def credential(source: str, what: Literal["USER", "PASSWORD", "TOKEN"]) -> str:
    """`MEDGAN_SOURCE_<NAME>_<WHAT>` of the environment, the source's name in capitals and `-` as `_`; or empty."""
    return os.environ.get(f"MEDGAN_SOURCE_{source.upper().replace('-', '_')}_{what}", "")


def _check_titles(title: str, options: dict[str, str]) -> None:
    titles = [title, *(options[name] for name in ("calling",) if name in options)]
    titles += [one.strip() for one in options.get("from", "").split(",") if one.strip()]
    if not all(_TITLE.fullmatch(one) for one in titles):
        raise InvalidRequest("an AE title has 1 to 16 letters, digits and _.- and stands before the @ of the address")
