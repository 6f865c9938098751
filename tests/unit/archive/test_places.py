"""Addresses are judged before anything connects; a server that points elsewhere is not followed."""

from __future__ import annotations

import http.server
import json
import logging
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from urllib.parse import parse_qsl

import fsspec
import pytest
from pynetdicom.dsutils import decode

from medgan.archive import bucket, dicomweb, dimse, place, receiver, s3, scan, sources, wire
from medgan.archive.landing import Landing
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.settings import Zones
from tests.unit.archive.builders import KEYRING, sound


@pytest.fixture
def zones(tmp_path) -> Zones:
    return Zones.under(tmp_path / "workspace")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("relative/folder", "files"),
        ("/archive: of 2026/ct.zip", "files"),
        ("drop:/incoming?settle=5", "drop"),
        ("s3://bucket/some/prefix?endpoint=https://minio:9000", "bucket"),
        ("dicomweb+https://pacs.example/dicom-web?days=7", "dicomweb"),
        ("dicom://PACS@pacs.example:104?calling=US", "pacs"),
        ("receive://MEDGAN@127.0.0.1:11112?from=CT1,CT2", "receiver"),
    ],
)
def test_a_place_is_known_by_its_form(text, kind):
    assert place.parse(text).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd", "http://pacs.example/", "simplecache::s3://bucket", "gopher://x", "dicom://PACS@pacs.example",
        "dicom://pacs.example:104", "dicom://A_TITLE_THAT_IS_TOO_LONG@pacs:104", "dicom://me:secret@pacs:104",
        "dicom://PACS@[secret", "dicom://PACS@[passwd]:104", "dicom://PACS@pacs:99999999",
        "dicomweb+https:///no-host", "dicom://PACS@pacs:104?asociations=4", "drop:/incoming?sette=5", "receive://MEDGAN@127.0.0.1:11112?from=CT*",
    ],
)  # fmt: skip
def test_an_address_of_another_form_is_refused_and_not_repeated(text):
    with pytest.raises(InvalidRequest) as refused:
        place.parse(text)
    assert "secret" not in str(refused.value)
    assert "passwd" not in str(refused.value)


@pytest.mark.parametrize(
    ("listed", "host"),
    [
        ("", "127.0.0.1"),
        ("pacs.example", "127.0.0.1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("*", "169.254.169.254"),
        ("*", "[fe80::1]"),
        ("*", "[::ffff:169.254.169.254]"),
        ("*", "0.0.0.0"),  # noqa: S104
        ("*", "224.0.0.1"),
        ("*", "[fd00:ec2::254]"),
        ("*", "100.100.100.200"),
        ("*", "2852039166"),  # 169.254.169.254 as one number
    ],
)
def test_a_host_that_is_not_listed_or_is_link_local_is_refused(listed, host, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, listed)
    for address in (
        f"dicomweb+http://{host}:8042/",
        f"dicom://PACS@{host}:104",
        f"s3://b/p?endpoint=http://{host}:9000",
    ):
        with pytest.raises(InvalidRequest):
            place.admit(place.parse(address))


@pytest.mark.parametrize("endpoint", ["http://[secret", "http://minio:99999999", "file:///secret"])
def test_an_endpoint_that_cannot_be_read_is_refused_and_not_repeated(endpoint, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "*")
    with pytest.raises(InvalidRequest) as refused:
        place.admit(place.parse(f"s3://b/p?endpoint={endpoint}"))
    assert "secret" not in str(refused.value)


def test_this_machine_may_be_listed_by_either_address(monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1,::1")
    place.admit_host("127.0.0.1", 104)
    place.admit_host("::1", 104)


@pytest.mark.parametrize("listed", ["127.0.0.1", "pacs.example, 127.0.0.*", "127.0.0.1:8042"])
def test_a_listed_host_is_admitted(listed, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, listed)
    place.admit(place.parse("dicomweb+http://127.0.0.1:8042/"))


@pytest.mark.parametrize(("scheme", "package"), [("smb", "smbprotocol"), ("gs", "gcsfs"), ("az", "adlfs")])
def test_a_protocol_whose_library_is_missing_says_what_to_install(scheme, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(InvalidRequest, match=package):
        sources.preflight(place.parse(f"{scheme}://secret/in"))


@pytest.mark.parametrize("listed", ["http", "ftp,file", "generic=x"])
def test_a_protocol_that_follows_redirects_or_has_no_host_cannot_be_listed(listed, monkeypatch):
    monkeypatch.setenv(place.PROTOCOLS_VARIABLE, listed)
    with pytest.raises(InvalidRequest, match="cannot list"):
        place.parse("ftp://127.0.0.1/in")


def test_objects_in_a_store_of_fsspec_itself_are_brought_once_and_mirrored(zones, monkeypatch):
    monkeypatch.setenv(place.PROTOCOLS_VARIABLE, "memory=127.0.0.1")
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    store = fsspec.filesystem("memory")
    store.pipe({f"/ward/in/{number}.dcm": sound(patient=number) for number in range(3)})
    ref = sources.register(place.parse("memory://ward/in"), zones=zones, keyring=KEYRING, name="store")
    try:
        assert scan.scan(ref, zones=zones, keyring=KEYRING).instances == 3
        store.pipe({"/ward/in/1.dcm": sound(patient=9)})
        store.rm("/ward/in/2.dcm")
        landing = Landing("store", zones=zones, keyring=KEYRING)
        visit = bucket.fetch(place.parse("memory://ward/in"), landing, source="store")
        assert (visit.known, visit.arrived, len(landing)) == (1, 1, 2)
    finally:
        store.rm("/ward", recursive=True)


def test_registering_an_address_seals_it_and_the_list_shows_no_place(zones, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    address = "dicom://PACS@127.0.0.1:104?calling=US&PatientID=SECRET-1"
    ref = sources.register(place.parse(address), zones=zones, keyring=KEYRING, name="pacs")
    assert sources.register(place.parse(address), zones=zones, keyring=KEYRING, name="pacs") == ref
    assert sources.registered(zones) == ["pacs"]
    assert sources.place_of("pacs", zones=zones, keyring=KEYRING) == place.parse(address)
    stored = b"".join(path.read_bytes() for path in zones.identified.rglob("*") if path.is_file())
    assert b"SECRET-1" not in stored
    assert "SECRET-1" not in repr(place.parse(address))


Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def web_server(answer: Answer) -> Iterator[tuple[int, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer(self)

        do_HEAD = do_GET  # noqa: N815 - the base class looks for these names
        do_POST = do_GET  # noqa: N815 - likewise

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_address[1], asked
        server.shutdown()


def web(port: int) -> place.Place:
    return place.parse(f"dicomweb+http://127.0.0.1:{port}/dicom-web")


def reply(handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_a_dicomweb_server_is_not_followed(status, zones, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    elsewhere: list[str] = []
    with web_server(lambda handler: elsewhere.append(handler.path)) as (other, _):

        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            reply(handler, status, Location=f"http://127.0.0.1:{other}/latest/meta-data")

        with web_server(answer) as (port, asked), pytest.raises(InvalidRequest, match="redirect"):
            dicomweb.fetch(web(port), Landing("web", zones=zones, keyring=KEYRING), source="web")
    assert asked
    assert not elsewhere


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, b"", InvalidRequest),
        (500, b"", StoreUnavailable),
        (200, b"<html>", StoreUnavailable),
        (200, json.dumps([{"0020000D": {"Value": ["../../x"]}}]).encode(), None),
        (200, json.dumps([{"0020000D": {}}, {}]).encode(), None),
        (200, json.dumps([{"0020000D": ["x"]}, 3, {"0020000D": {"Value": [{}]}}]).encode(), None),
        (200, b"7", StoreUnavailable),
        (200, b"[" * 100_000, StoreUnavailable),
    ],
)
def test_a_server_that_answers_nonsense_is_an_error_of_ours_or_lists_nothing(status, body, error, zones, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    landing = Landing("web", zones=zones, keyring=KEYRING)
    with web_server(lambda handler: reply(handler, status, body, Content_Type="application/dicom+json")) as (port, _):
        if error is None:
            assert dicomweb.fetch(web(port), landing, source="web").listed == 0
            return
        with pytest.raises(error) as raised:
            dicomweb.fetch(web(port), landing, source="web")
    assert "127.0.0.1" not in str(raised.value)


def _of(tag: str, value: str) -> dict[str, object]:
    return {tag: {"vr": "UI", "Value": [value]}}


def _study_of(count: int, at_once: int, *, knows_offset: bool) -> Answer:
    """A server with one study that lists `at_once` matches at most, and has not all that it lists."""
    study, series = _of("0020000D", "1.2"), _of("0020000E", "1.2.3")
    listed = [{**study, **series, **_of("00080018", f"1.2.3.{number}")} for number in range(count)]

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        path, _, asked = handler.path.partition("?")
        offset = int(dict(parse_qsl(asked)).get("offset", 0)) if knows_offset else 0
        found = {"/dicom-web/studies": [study], "/dicom-web/studies/1.2/instances": listed}.get(path)
        if found is not None:
            body = json.dumps(found[offset : offset + at_once]).encode()
            reply(handler, 200, body, Content_Type="application/dicom+json", Warning="299 DOE^JOHN")
        elif path.endswith((".0", ".1")):
            reply(handler, 500 if path.endswith(".0") else 406)
        else:
            reply(handler, 200, b"DICM" + path.encode(), Content_Type="application/dicom")

    return answer


def test_a_server_that_lists_little_at_once_is_asked_for_the_rest_and_what_it_cannot_give_waits(
    zones, monkeypatch, capfd
):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    with web_server(_study_of(5, 2, knows_offset=True)) as (port, _):
        visit = dicomweb.fetch(web(port), Landing("web", zones=zones, keyring=KEYRING), source="web")
    assert (visit.listed, visit.arrived, visit.waiting) == (5, 3, 2)
    assert "DOE" not in "".join(capfd.readouterr())


def test_a_server_that_knows_no_offset_is_not_asked_for_ever(zones, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    with web_server(_study_of(5, 5, knows_offset=False)) as (port, _):
        visit = dicomweb.fetch(web(port), Landing("web", zones=zones, keyring=KEYRING), source="web")
    assert visit.listed == 5


def test_an_answer_beyond_the_cap_is_cut_off(zones, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    monkeypatch.setattr(dicomweb, "_MOST_JSON_BYTES", 1000)
    with (
        web_server(lambda handler: reply(handler, 200, b" " * 100_000)) as (port, _),
        pytest.raises(StoreUnavailable),
    ):
        dicomweb.fetch(web(port), Landing("web", zones=zones, keyring=KEYRING), source="web")


def test_a_source_that_has_received_nothing_yet_says_so(zones):
    ref = sources.register(
        place.parse("receive://MEDGAN@127.0.0.1:11112?from=CT1"), zones=zones, keyring=KEYRING, name="pushed"
    )
    with pytest.raises(Exception, match="empty"):
        scan.scan(ref, zones=zones, keyring=KEYRING)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_of_a_store_is_not_followed(status, zones, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    monkeypatch.setenv("MEDGAN_SOURCE_STORE_USER", "key")
    monkeypatch.setenv("MEDGAN_SOURCE_STORE_PASSWORD", "any")
    elsewhere: list[str] = []

    def caught(handler: http.server.BaseHTTPRequestHandler) -> None:
        elsewhere.append(handler.path)
        reply(handler, 404)

    with web_server(caught) as (other, _):

        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            reply(handler, status, Location=f"http://127.0.0.1:{other}/latest/meta-data")

        with web_server(answer) as (port, asked):
            address = place.parse(f"s3://bucket/x?endpoint=http://127.0.0.1:{port}&region=us-east-1")
            landing = Landing("store", zones=zones, keyring=KEYRING)
            with pytest.raises((InvalidRequest, StoreUnavailable)):
                bucket.fetch(address, landing, source="store")
    assert asked
    assert not elsewhere


def test_what_a_pacs_answers_is_not_quoted_where_it_breaks_its_vr(recwarn, capfd):
    raw = struct.pack("<HHL", 0x20, 0x0D, 8) + b"DOE^JOHN"
    wire.hush()  # as importing it did; pytest puts its own filters before ours
    assert str(decode(BytesIO(raw), True, True).StudyInstanceUID) == "DOE^JOHN"
    assert not recwarn.list
    assert "DOE" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("option", ["ca=/no/such/file", "cert=/no/such/file"])
def test_a_certificate_that_is_not_there_is_said_without_its_place(option, zones, monkeypatch):
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    with pytest.raises(InvalidRequest) as refused:
        dimse.check(place.parse(f"dicoms://PACS@127.0.0.1:104?{option}"))
    assert "/no/such" not in str(refused.value)
    address = place.parse(f"receive://MEDGAN@127.0.0.1:11112?from=CT1&cert=/no/such/file&{option}")
    with pytest.raises(InvalidRequest):
        receiver.serve(address, Landing("pushed", zones=zones, keyring=KEYRING))


@pytest.mark.parametrize("name", ["urllib3.connection", "dicomweb_client.web", "botocore.parsers", "pydicom"])
def test_libraries_that_speak_to_sources_log_nothing(name):
    assert s3.S3
    assert not logging.getLogger(name).isEnabledFor(logging.CRITICAL)
