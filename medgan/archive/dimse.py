"""Query and retrieve over DIMSE: C-FIND down to the instance, then C-GET or C-MOVE of what is not here.

Several associations work side by side, each on a part of a series. What has arrived stays: a PACS that dies in the
middle costs the instances that were on their way, and the next visit asks for those only.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    MRImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from medgan.archive import place as places
from medgan.archive import query, receiver, wire
from medgan.archive.landing import Landing
from medgan.archive.place import Place
from medgan.archive.query import Fetched, Listed
from medgan.errors import InvalidRequest, StoreUnavailable

Report = Callable[[int, int], None]

_SYNTAXES: Final = tuple(
    str(one) for one in AllTransferSyntaxes if not any(word in one.name for word in ("MPEG", "HEVC", "SMPTE", "JPIP"))
)
"""One context each, so that the PACS sends every instance as it holds it; what it holds otherwise it unpacks."""
_MOST_CONTEXTS: Final = 127  # PS3.8 9.3.2.2: odd numbers 1-255, one of them for the retrieval itself
_AT_ONCE: Final = 64
_PENDING: Final = (0xFF00, 0xFF01)
_SUCCESS: Final = 0x0000
_PARTLY: Final = 0xB000  # sub-operations complete, some failed: the rest is asked for again
_COMMON: Final = (CTImageStorage, MRImageStorage, DigitalXRayImageStorageForPresentation)


def fetch(place: Place, landing: Landing, *, report: Report | None = None) -> Fetched:
    """Bring every instance that the address's query lists and the landing lacks.

    Raises:
        InvalidRequest: the PACS refuses us or our query.
        StoreUnavailable: it does not answer, or stopped answering; what arrived is kept, run again for the rest.
    """
    associations = place.number("associations", 4, least=1, most=16)
    method = place.options.get("retrieve", "get")
    if method not in {"get", "move"}:
        raise InvalidRequest("retrieve in the address is get or move")
    if method == "move" and place.scheme == "dicoms" and "cert" not in place.options:
        raise InvalidRequest("over dicoms a C-MOVE needs cert and key in the address: the PACS connects to us by TLS")
    listed = find(place, associations)
    if listed:
        landing.forget_others({landing.handle(one.instance) for one in listed})
    known = sum(landing.holds(landing.handle(one.instance)) for one in listed)
    tell = _Progress(landing, len(listed), report)
    with _mover(place, landing, tell) if method == "move" else contextlib.nullcontext():
        retrieve = _move if method == "move" else _get
        for at_once in (_AT_ONCE, 1):  # one instance that the PACS cannot deliver may fail the list it stands in
            missing = [one for one in listed if not landing.holds(landing.handle(one.instance))]
            most = max(1, min(_AT_ONCE, -(-len(missing) // associations)))  # one long series is shared, too
            jobs = [(part, at_once) for some in query.by_series_and_class(missing) for part in _parts(some, most)]
            _side_by_side(associations, jobs, lambda job: retrieve(place, landing, tell, *job))
    waiting = sum(not landing.holds(landing.handle(one.instance)) for one in listed)
    return Fetched(listed=len(listed), known=known, arrived=len(listed) - known - waiting, waiting=waiting)


def find(place: Place, associations: int = 1) -> list[Listed]:
    """Every instance that the query of the address lists, each once."""
    keys, of_series = query.keys_of(place)
    with _association(place, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as ours:
        studies = {str(one.get("StudyInstanceUID", "")) for one in _matches(ours, "STUDY", _asked("Study") | keys)}
    found: list[Listed] = []

    def look(study: str) -> None:
        with _association(place, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as mine:
            within = {"StudyInstanceUID": study, **_asked("Series"), **of_series}
            for series in {str(one.get("SeriesInstanceUID", "")) for one in _matches(mine, "SERIES", within)}:
                below = {
                    "StudyInstanceUID": study,
                    "SeriesInstanceUID": series,
                    "SOPInstanceUID": "",
                    "SOPClassUID": "",
                }
                found.extend(
                    Listed(study, series, str(one.get("SOPInstanceUID", "")), str(one.get("SOPClassUID", "")))
                    for one in (_matches(mine, "IMAGE", below) if query.is_uid(series) else ())
                )

    _side_by_side(associations, sorted(filter(query.is_uid, studies)), look)
    return sorted({one for one in found if query.is_uid(one.instance)})


def check(place: Place) -> None:
    """C-ECHO: whether the PACS answers and takes us for who we say we are."""
    with _association(place, [build_context(Verification)]) as ours:
        status = ours.send_c_echo()
        if getattr(status, "Status", None) != _SUCCESS:
            raise StoreUnavailable("the PACS did not answer an echo: check it, then run again")


class _Progress:
    """Tells how many of the listed instances are here."""

    def __init__(self, landing: Landing, total: int, report: Report | None) -> None:
        self._landing, self._total, self._report, self._lock = landing, total, report, threading.Lock()
        self._here = 0

    def one_more(self) -> None:
        with self._lock:
            self._here += 1
            if self._report is not None:
                self._report(min(self._here, self._total), self._total)


def _get(place: Place, landing: Landing, tell: _Progress, wanted: Sequence[Listed], at_once: int) -> None:
    classes = [wanted[0].sop_class] if query.is_uid(wanted[0].sop_class) else list(map(str, _COMMON))
    storage = [build_context(name, syntax) for name in classes for syntax in _SYNTAXES][: _MOST_CONTEXTS - 1]
    roles = [build_role(name, scp_role=True) for name in classes]

    def store(event: evt.Event) -> int:
        status = receiver.land(event, landing)
        budget.give_back(id(event.assoc))
        tell.one_more()
        return status

    budget = wire.Budget()
    model = build_context(StudyRootQueryRetrieveInformationModelGet)
    with _association(place, [model, *storage], roles, [(evt.EVT_C_STORE, store)], budget) as ours:
        for identifier in _identifiers(wanted, at_once):
            answers = ours.send_c_get(identifier, StudyRootQueryRetrieveInformationModelGet)
            _finish(ours, answers)


def _move(place: Place, _landing: Landing, _tell: _Progress, wanted: Sequence[Listed], at_once: int) -> None:
    with _association(place, [build_context(StudyRootQueryRetrieveInformationModelMove)]) as ours:
        for identifier in _identifiers(wanted, at_once):
            answers = ours.send_c_move(identifier, _own_title(place), StudyRootQueryRetrieveInformationModelMove)
            _finish(ours, answers)


@contextlib.contextmanager
def _mover(place: Place, landing: Landing, tell: _Progress) -> Iterator[None]:
    """The receiver that a C-MOVE sends to; only the PACS that was asked is served, by TLS where we ask it by TLS."""
    port = place.number("port", 11112, least=0, most=65535)
    host = place.options.get("bind", "0.0.0.0")  # noqa: S104 - the PACS connects to us; `bind` narrows it
    with receiver.Receiver(
        landing, title=_own_title(place), host=host, port=port, senders=[place.title], on_arrival=tell.one_more,
        tls=_tls_for_move(place) if place.scheme == "dicoms" else None,
    ):  # fmt: skip
        yield


def _tls_for_move(place: Place) -> ssl.SSLContext:
    """The PACS proves itself with a certificate of the same authority that we trust when we ask it."""
    context = receiver.tls_of(place)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _identifiers(wanted: Sequence[Listed], at_once: int) -> Iterator[Dataset]:
    """What to ask for: instance by instance UID, in lists that fit a PDU (PS3.4 C.4.2.2.1)."""
    for some in _parts(wanted, at_once):
        identifier = Dataset()
        identifier.QueryRetrieveLevel = "IMAGE"
        identifier.StudyInstanceUID, identifier.SeriesInstanceUID = some[0].study, some[0].series
        identifier.SOPInstanceUID = [one.instance for one in some]
        yield identifier


def _parts(wanted: Sequence[Listed], most: int) -> list[Sequence[Listed]]:
    return [wanted[first : first + most] for first in range(0, len(wanted), most)]


def _finish(ours: Association, answers: Any) -> None:
    """Follow a retrieval to its end. A few failed sub-operations are no error here: the landing knows what came."""
    last = None
    for status, _ in answers:
        last = getattr(status, "Status", None)
    if last is None or not ours.is_established:
        raise StoreUnavailable("the PACS stopped answering; what arrived is kept: run again to fetch the rest")
    if last not in {_SUCCESS, _PARTLY, *_PENDING} and not 0xA700 <= last <= 0xA7FF and last != 0xC000:  # noqa: PLR2004 - PS3.4 C.4.3
        raise InvalidRequest(f"the PACS refused the retrieval (status {last:04X}): does it know our title and address?")


def _matches(ours: Association, level: str, keys: dict[str, str]) -> Iterator[Dataset]:
    """Identifiers that match at one level."""
    wanted = Dataset()
    wanted.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(wanted, name, value)
    last = None
    for status, match in ours.send_c_find(wanted, StudyRootQueryRetrieveInformationModelFind):
        last = getattr(status, "Status", None)
        if last in _PENDING and match is not None:
            yield match
    if last is None:
        raise StoreUnavailable("the PACS stopped answering a query: run again")
    if last != _SUCCESS:
        raise InvalidRequest(
            f"the PACS refused the query (status {last:04X}): ask it for less, or for other attributes"
        )


def _asked(level: str) -> dict[str, str]:
    return {f"{level}InstanceUID": ""}


@contextlib.contextmanager
def _association(
    place: Place,
    contexts: Sequence[Any],
    roles: Sequence[Any] = (),
    handlers: Sequence[Any] = (),
    budget: wire.Budget | None = None,
) -> Iterator[Association]:
    """An association with the PACS; whoever leaves the block by an error aborts it."""
    places.admit(place)
    ours = wire.entity(_own_title(place), seconds=place.number("timeout", 60, least=5, most=3600))
    tls = (_tls(place), place.host) if place.scheme == "dicoms" else None
    association = ours.associate(
        place.host, place.port, contexts=list(contexts), ae_title=place.title, ext_neg=list(roles) or None,
        evt_handlers=[*wire.guards(budget or wire.Budget()), *handlers], tls_args=tls,
    )  # fmt: skip
    if association.is_rejected:
        raise InvalidRequest("the PACS rejected us: it must know our AE title (`calling` in the address) and its own")
    if not association.is_established:
        raise StoreUnavailable("the PACS does not answer at this address: check that it runs and may be reached")
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    association.release()


def _tls(place: Place) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=place.options.get("ca"))
        if "cert" in place.options:
            context.load_cert_chain(place.options["cert"], place.options.get("key"))
    except OSError:
        raise InvalidRequest("ca, cert or key in the address is no file of certificates that can be read") from None
    return context


def _own_title(place: Place) -> str:
    return place.options.get("calling", "MEDGAN")


def _side_by_side(count: int, jobs: Sequence[Any], work: Callable[[Any], None]) -> None:
    """Do the jobs on `count` threads; the first error is raised when all have ended, the rest is not begun."""
    if not jobs:
        return
    stop = threading.Event()

    def guarded(job: Any) -> None:
        if stop.is_set():
            return
        try:
            work(job)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max_workers=min(count, len(jobs)), thread_name_prefix="pacs") as pool:
        for future in [pool.submit(guarded, job) for job in jobs]:
            future.result()
