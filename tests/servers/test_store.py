"""An archive and a collection in an object store: S3 as moto serves it on loopback."""

from __future__ import annotations

import http.server
import io
import sys
import threading
import urllib.request

import boto3
import pytest
from PIL import Image

from medgan import keys
from medgan.archive import fetch, intake, phantom, place, scan, sources
from medgan.collection import ingest, layout, location, read
from medgan.collection import store as collections
from medgan.errors import Conflict, IntegrityError, InvalidRequest, StoreUnavailable
from medgan.keys import Keyring
from medgan.settings import Zones
from tests.builders import servers as building

KEYRING = Keyring(secret=bytes(range(32)))
BUCKET = "ward-3"
SECRET = "any"  # noqa: S105 - moto takes whatever it is given


@pytest.fixture(scope="module")
def endpoint(module_servers) -> str:
    port = building.free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    module_servers.start("s3", command, ready=lambda: building.listening(port))
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def store(endpoint, monkeypatch):
    monkeypatch.setenv("MEDGAN_SOURCE_STORE_USER", "key")
    monkeypatch.setenv("MEDGAN_SOURCE_STORE_PASSWORD", SECRET)
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    client.create_bucket(Bucket=BUCKET)
    yield client
    for one in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=one["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def zones(tmp_path) -> Zones:
    return Zones.under(tmp_path)


def registered(endpoint: str, zones: Zones, prefix: str = ""):
    address = place.parse(f"s3://{BUCKET}/{prefix}?endpoint={endpoint}&region=us-east-1")
    return sources.register(address, zones=zones, keyring=KEYRING, name="store")


def put(client, objects: dict[str, bytes]) -> None:
    for key, body in objects.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)


def labels(report, zones: Zones):
    return intake.load(report.scan_id, zones=zones, keyring=KEYRING).labels


def test_objects_are_scanned_as_files_are_and_a_changed_one_is_brought_again(store, endpoint, zones):
    files = [phantom.phantom_study(patient=number)[0] for number in range(3)]
    put(store, {f"in/{number}.dcm": one for number, one in enumerate(files)})
    put(store, {"in/labels.csv": b"PatientID,finding\nX,normal\n", "elsewhere/4.dcm": files[0]})
    ref = registered(endpoint, zones, "in")
    fetch.check(ref, zones=zones, keyring=KEYRING)
    first = scan.scan(ref, zones=zones, keyring=KEYRING)
    assert (first.instances, first.tables, first.label_rows, first.rejected) == (3, 1, 1, {})
    assert fetch.fetch(ref, zones=zones, keyring=KEYRING).arrived == 0
    assert scan.scan(ref, zones=zones, keyring=KEYRING).scan_id == first.scan_id
    put(store, {"in/labels.csv": b"PatientID,finding\nX,normal\nY,pneumonia\n"})
    store.delete_object(Bucket=BUCKET, Key="in/2.dcm")
    visit = fetch.fetch(ref, zones=zones, keyring=KEYRING)
    assert (visit.known, visit.arrived) == (2, 1)
    second = scan.scan(ref, zones=zones, keyring=KEYRING)
    assert (second.instances, second.label_rows) == (2, 2)


def test_pictures_are_named_by_a_table_as_they_lie_in_the_store(store, endpoint, zones):
    picture = io.BytesIO()
    Image.new("L", (16, 16), 90).save(picture, "PNG")
    put(store, {"set/images/a.png": picture.getvalue(), "set/table.csv": b"file,PatientID\nimages/a.png,P1\n"})
    report = scan.scan(registered(endpoint, zones, "set"), zones=zones, keyring=KEYRING)
    assert (report.instances, report.rejected) == (1, {})


def test_a_store_that_is_not_there_or_does_not_know_us_says_so_without_its_address(store, endpoint, zones, monkeypatch):
    put(store, {"in/0.dcm": phantom.phantom_study(patient=0)[0]})
    missing = place.parse(f"s3://no-such-bucket/x?endpoint={endpoint}&region=us-east-1")
    ref = sources.register(missing, zones=zones, keyring=KEYRING, name="store")
    with pytest.raises((InvalidRequest, StoreUnavailable)) as refused:
        fetch.fetch(ref, zones=zones, keyring=KEYRING)
    assert "no-such-bucket" not in str(refused.value)
    monkeypatch.setenv(place.HOSTS_VARIABLE, "elsewhere.example")
    with pytest.raises(InvalidRequest):
        fetch.fetch(ref, zones=zones, keyring=KEYRING)


# ------------------------------------------------------------------------------------ another protocol of fsspec


@pytest.fixture
def ftp(servers, tmp_path, monkeypatch):
    """An FTP server's folder and address; the site lists protocol and host."""
    folder, port = tmp_path / "ftp", building.free_port()
    (folder / "in").mkdir(parents=True)
    command = [sys.executable, "-m", "pyftpdlib", "-i", "127.0.0.1", "-p", str(port), "-d", folder, "-u", "ward"]
    servers.start("ftp", [*command, "-P", SECRET], ready=lambda: building.listening(port))
    monkeypatch.setenv("MEDGAN_SOURCE_STORE_USER", "ward")
    monkeypatch.setenv("MEDGAN_SOURCE_STORE_PASSWORD", SECRET)
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    monkeypatch.setenv(place.PROTOCOLS_VARIABLE, "ftp")
    return folder / "in", f"ftp://127.0.0.1:{port}/in"


def test_any_protocol_of_fsspec_that_the_site_lists_is_read_as_s3_is(ftp, zones, monkeypatch):
    folder, address = ftp
    for number in range(12):
        (folder / f"{number}.dcm").write_bytes(phantom.phantom_study(patient=number)[0])
    (folder / "labels.csv").write_bytes(b"PatientID,finding\nX,normal\n")
    ref = sources.register(place.parse(address), zones=zones, keyring=KEYRING, name="store")
    first = scan.scan(ref, zones=zones, keyring=KEYRING)
    assert (first.instances, first.label_rows, first.rejected) == (12, 1, {})
    assert fetch.fetch(ref, zones=zones, keyring=KEYRING).arrived == 0
    (folder / "0.dcm").unlink()
    (folder / "labels.csv").write_bytes(b"PatientID,finding\nX,normal\nY,normal\n")
    second = scan.scan(ref, zones=zones, keyring=KEYRING)
    assert (second.instances, second.label_rows) == (11, 2)
    monkeypatch.setenv("MEDGAN_SOURCE_STORE_PASSWORD", "wrong")
    with pytest.raises((InvalidRequest, StoreUnavailable)) as refused:
        fetch.fetch(ref, zones=zones, keyring=KEYRING)
    assert "127.0.0.1" not in str(refused.value)
    monkeypatch.delenv(place.PROTOCOLS_VARIABLE)
    with pytest.raises(InvalidRequest, match="a source is a path or one of"):
        fetch.fetch(ref, zones=zones, keyring=KEYRING)


# ------------------------------------------------------------------------------------ a collection in a store


@pytest.fixture
def in_store(store, endpoint, monkeypatch) -> None:
    collect_in(endpoint, monkeypatch)


def collect_in(endpoint: str, monkeypatch) -> None:
    monkeypatch.setenv(location.VARIABLE, f"s3://{BUCKET}/collections?endpoint={endpoint}&region=us-east-1")
    monkeypatch.setenv(f"{location.VARIABLE}_USER", "key")
    monkeypatch.setenv(f"{location.VARIABLE}_PASSWORD", SECRET)


def test_a_collection_lives_in_a_store_and_a_second_night_adds_nothing(in_store, store, zones, tmp_path):
    keys.create(zones.keys / "pseudonym.key")
    archive = tmp_path / "archive"
    archive.mkdir()
    for number, one in enumerate(phantom.phantom_study(patient=1, instances=3)):
        (archive / f"{number}.dcm").write_bytes(one)
    keyring = keys.load(zones.pseudonym_key)
    ref = sources.register(archive, zones=zones, keyring=keyring)
    nights = []
    for _ in range(2):
        found = scan.scan(ref, zones=zones, keyring=keyring)
        nights.append(ingest.ingest(found, zones=zones, key_handle=zones.pseudonym_key, collection="main", workers=1))
    assert [(night.stored, night.known) for night in nights] == [(3, 0), (0, 3)]
    table = read.table(nights[1].snapshot, zones=zones)
    assert len(list(read.frames(nights[1].snapshot, table, zones=zones))) == 3
    assert not layout.repository("main", zones=zones).exists()
    stored = [one["Key"] for one in store.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert all(key.startswith("collections/main/") for key in stored)


def test_a_collection_in_a_store_that_lost_its_head_is_not_begun_anew(in_store, store, zones):
    store.put_object(Bucket=BUCKET, Key="collections/main/chunks/1CECHNK", Body=b"pixels")
    for touch in (lambda: collections.head("main", zones=zones), lambda: write_to(zones)):
        with pytest.raises(IntegrityError, match="lost its head"):
            touch()
    store.delete_object(Bucket=BUCKET, Key="collections/main/chunks/1CECHNK")
    (layout.repository("main", zones=zones) / "chunks").mkdir(parents=True)  # from before it moved into a store
    with pytest.raises(InvalidRequest, match="there is no collection"):
        collections.head("main", zones=zones)
    write_to(zones)


def write_to(zones):
    with collections.writer("main", zones=zones):
        pass


def test_two_writers_without_a_common_lock_conflict_and_lose_nothing(in_store, tmp_path):
    one, two = Zones.under(tmp_path / "one"), Zones.under(tmp_path / "two")
    with collections.writer("main", zones=one) as first, collections.writer("main", zones=two) as second:
        first.group.attrs["a"], second.group.attrs["b"] = 1, 2
        empty = {"counts": dict.fromkeys(("instances", "series", "studies", "patients"), 0), "table_sha256": "0" * 64}
        first.commit("first", **empty)
        with pytest.raises(Conflict):
            second.commit("second", **empty)
    assert [commit.message for commit in collections.log("main", zones=one)] == ["first"]


class Careless(http.server.BaseHTTPRequestHandler):
    """A store that takes every PUT: it forgets the conditions on the way to the real one."""

    upstream = ""

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = {name: value for name, value in self.headers.items() if not name.lower().startswith("if-")}
        request = urllib.request.Request(self.upstream + self.path, body, kept, method="PUT")  # noqa: S310 - loopback
        answer = urllib.request.urlopen(request)  # noqa: S310 - likewise
        self.send_response(answer.status)
        for name in ("ETag", "Content-Type"):
            self.send_header(name, answer.headers.get(name, ""))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass


def test_a_store_that_ignores_conditions_is_refused_before_anything_is_written(store, endpoint, zones, monkeypatch):
    Careless.upstream = endpoint
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Careless) as careless:
        threading.Thread(target=careless.serve_forever, daemon=True).start()
        collect_in(f"http://127.0.0.1:{careless.server_address[1]}", monkeypatch)
        with pytest.raises(InvalidRequest, match="conditional"), collections.writer("main", zones=zones):
            pass
        careless.shutdown()
