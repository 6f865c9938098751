"""An archive in an object store: S3 as moto serves it on loopback."""

from __future__ import annotations

import io
import sys

import boto3
import pytest
from PIL import Image

from medgan.archive import fetch, intake, phantom, place, scan, sources
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.keys import Keyring
from medgan.settings import Zones
from tests.builders import servers

KEYRING = Keyring(secret=bytes(range(32)))
BUCKET = "ward-3"
SECRET = "any"  # noqa: S105 - moto takes whatever it is given


@pytest.fixture(scope="module")
def endpoint(module_servers) -> str:
    port = servers.free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    module_servers.start("s3", command, ready=lambda: servers.listening(port))
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
