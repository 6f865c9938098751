"""DICOMweb: QIDO-RS down to the instance, then WADO-RS of what is not here, to the one host that was admitted.

No redirect is followed, no proxy or netrc of the environment is used, no answer is larger than a cap.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self
from urllib.parse import urlsplit

import requests
from dicomweb_client.web import DICOMwebClient
from requests.adapters import HTTPAdapter

from medgan.archive import limits, query
from medgan.archive import place as places
from medgan.archive.landing import Landing
from medgan.archive.place import Place
from medgan.archive.query import Fetched, Listed
from medgan.errors import InvalidRequest, StoreUnavailable

Report = Callable[[int, int], None]

# Their log lines quote UIDs, addresses and what a server writes into its Warning header.
for _name in ("dicomweb_client", "urllib3"):
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

_ACCEPT: Final = 'multipart/related; type="application/dicom"; transfer-syntax=*'  # PS3.18 8.7.3: as it is held
_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 900.0
_MOST_JSON_BYTES: Final = 256 * limits.MIB
_CHUNK_BYTES: Final = 1 << 20
_NOT_THIS_ONE: Final = frozenset({400, 404, 406, 409, 410, 415, 422, 500, 501})
"""What says that one instance cannot be had; it waits, and keeps none of the others from coming."""
_PAGE: Final = 5_000


def fetch(place: Place, landing: Landing, *, source: str, report: Report | None = None) -> Fetched:
    """Bring every instance that the address's query lists and the landing lacks.

    Raises:
        InvalidRequest: the server refuses us, our query, or sends us elsewhere.
        StoreUnavailable: it does not answer, or stopped answering; what arrived is kept, run again for the rest.
    """
    connections = place.number("associations", 4, least=1, most=16)
    server = _Server(place, source)
    listed = server.find()
    if listed:
        landing.forget_others({landing.handle(one.instance) for one in listed})
    missing = [one for one in listed if not landing.holds(landing.handle(one.instance))]
    done, lock = len(listed) - len(missing), threading.Lock()

    def bring(one: Listed) -> bool:
        nonlocal done
        came = server.retrieve(one, landing)
        with lock:
            done += came
            if report is not None:
                report(done, len(listed))
        return came

    with ThreadPoolExecutor(max_workers=connections, thread_name_prefix="dicomweb") as pool:
        futures = [pool.submit(bring, one) for one in missing]
        try:
            arrived = sum(future.result() for future in futures)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
    return Fetched(
        listed=len(listed), known=len(listed) - len(missing), arrived=arrived, waiting=len(missing) - arrived
    )


def check(place: Place, *, source: str) -> None:
    """Ask for one study: whether the server answers and lets us in."""
    _Server(place, source).search("search_for_studies", limit=1)


class _Server:
    """One DICOMweb server, with a connection a thread."""

    def __init__(self, place: Place, source: str) -> None:
        places.admit(place)
        self._place, self._source = place, source
        self._port = place.port or (443 if place.scheme.endswith("https") else 80)
        self._base = f"{place.scheme.removeprefix('dicomweb+')}://{_bracketed(place.host)}:{self._port}/{place.tail}"
        self._own = threading.local()

    def find(self) -> list[Listed]:
        """Every instance that the query of the address lists, each once."""
        keys, of_series = query.keys_of(self._place)
        found = []
        for study in sorted({_value(one, "0020000D") for one in self.search("search_for_studies", keys)}):
            if query.is_uid(study):
                found += [
                    Listed(study, _value(one, "0020000E"), _value(one, "00080018"), _value(one, "00080016"))
                    for one in self.search("search_for_instances", of_series, study_instance_uid=study)
                ]
        return sorted({one for one in found if query.is_uid(one.instance) and query.is_uid(one.series)})

    def search(self, what: str, keys: dict[str, str] | None = None, **where: Any) -> list[dict[str, Any]]:
        """Matches of one search, all pages of it."""
        limit = int(where.pop("limit", 0))
        matches: list[dict[str, Any]] = []
        with _explained():
            while True:
                page = getattr(self._client, what)(
                    search_filters=keys or None, limit=limit or _PAGE, offset=len(matches), **where
                )
                if not isinstance(page, list) or len(matches) > limits.MAX_LANDED:
                    raise ValueError
                # A server may give less than it was asked for (PS3.18 8.3.4.4) and have more; another knows no
                # offset and gives the same again.
                if limit or not page or page[-1] in matches[-1:]:
                    return matches + page if limit else matches
                matches += page

    def retrieve(self, one: Listed, landing: Landing) -> bool:
        """Land one instance; whether the server delivered it."""
        url = f"{self._base}/studies/{one.study}/series/{one.series}/instances/{one.instance}"
        with _explained():
            response = self._session.get(url, headers={"Accept": _ACCEPT}, stream=True)
            if response.status_code in _NOT_THIS_ONE:
                response.close()
                return False
            response.raise_for_status()
            if not response.headers.get("Content-Type", "").startswith("multipart/related"):
                landing.add(landing.handle(one.instance), _chunks(response, limits.MAX_INSTANCE_BYTES))
                return True
            capped: Any = _Capped(response)
            parts = [bytes(part) for part in self._client._decode_multipart_message(capped, stream=True)]  # noqa: SLF001 - the public door parses with pydicom before we could look at the bytes
        for part in parts:
            landing.add(landing.handle(one.instance), [part])
        return bool(parts)

    @property
    def _session(self) -> requests.Session:
        if not hasattr(self._own, "session"):
            session = requests.Session()
            session.trust_env = False
            for prefix in ("http://", "https://"):
                session.mount(prefix, _OneHost(self._place.host, self._port))
            token = places.credential(self._source, "TOKEN")
            user = places.credential(self._source, "USER")
            if token:
                session.headers["Authorization"] = f"Bearer {token}"
            elif user:
                session.auth = (user, places.credential(self._source, "PASSWORD"))
            if "ca" in self._place.options:
                session.verify = self._place.options["ca"]
            self._own.session = session
            self._own.client = DICOMwebClient(self._base, session=session, timeout=(_CONNECT_SECONDS, _READ_SECONDS))
            self._own.client.set_http_retry_params(retry=False)
        found: requests.Session = self._own.session
        return found

    @property
    def _client(self) -> DICOMwebClient:
        _ = self._session
        client: DICOMwebClient = self._own.client
        return client


class _OneHost(HTTPAdapter):
    """Speaks to one host and port, follows nothing, and reads no more than it should."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(max_retries=0)
        self._where = (host.lower(), port)

    def send(self, request: Any, stream: bool = False, **options: Any) -> requests.Response:  # type: ignore[override]
        split = urlsplit(str(request.url))
        port = split.port or (443 if split.scheme == "https" else 80)
        if ((split.hostname or "").lower(), port) != self._where:
            raise InvalidRequest("the DICOMweb server points to another host: refused")
        options["timeout"] = (_CONNECT_SECONDS, _READ_SECONDS)
        options["proxies"] = {}
        response = super().send(request, stream=True, **options)
        if response.is_redirect or 300 <= response.status_code < 400:  # noqa: PLR2004 - any of them
            response.close()
            raise InvalidRequest("the DICOMweb server answered with a redirect: refused, register its final address")
        if not stream:
            response._content = b"".join(_chunks(response, _MOST_JSON_BYTES))  # noqa: SLF001 - what `content` would read without a cap
            response._content_consumed = True  # noqa: SLF001
        return response


class _Capped:
    """What the multipart reader needs of a response, within the size of one instance and its deadline."""

    def __init__(self, response: requests.Response) -> None:
        self.headers = response.headers
        self._response = response

    @property
    def content(self) -> bytes:
        return b"".join(_chunks(self._response, limits.MAX_INSTANCE_BYTES))

    def iter_content(self, chunk_size: int) -> Iterator[bytes]:  # noqa: ARG002 - the reader's signature
        return _chunks(self._response, limits.MAX_INSTANCE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()


def _chunks(response: requests.Response, most_bytes: int) -> Iterator[bytes]:
    """The body, piece by piece; `StoreUnavailable` beyond the cap or the deadline."""
    total, deadline = 0, time.monotonic() + _ANSWER_SECONDS
    for chunk in response.iter_content(_CHUNK_BYTES):
        total += len(chunk)
        if total > most_bytes or time.monotonic() > deadline:
            response.close()
            raise StoreUnavailable("the DICOMweb server answered with too much or too slowly: what arrived is kept")
        yield chunk


class _explained:  # noqa: N801 - a context manager, named as a verb
    """Turn what requests raises into our errors: its own text holds the address."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        """Say it in our words."""
        if isinstance(error, requests.HTTPError):
            status = error.response.status_code if error.response is not None else 0
            if status in {401, 403}:
                message = (
                    "the DICOMweb server does not let us in: set MEDGAN_SOURCE_<NAME>_TOKEN, or _USER and _PASSWORD"
                )
                raise InvalidRequest(message) from None
            if 400 <= status < 500:  # noqa: PLR2004 - our fault
                raise InvalidRequest(f"the DICOMweb server refused the query (HTTP {status})") from None
            raise StoreUnavailable(f"the DICOMweb server failed (HTTP {status}): run again") from None
        if isinstance(error, requests.RequestException | OSError | ValueError | KeyError | TypeError | RecursionError):
            raise StoreUnavailable(
                "the DICOMweb server stopped answering, or not as DICOMweb: what arrived is kept, run again"
            ) from None


def _value(match: dict[str, Any], tag: str) -> str:
    """First value of an attribute in the DICOM JSON model (PS3.18 F.2), or empty."""
    attribute = match.get(tag) if isinstance(match, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
