"""A real Orthanc as the archive: what it holds arrives once and whole, however it is asked and whatever dies."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pydicom
import pytest
from pydicom.config import IGNORE
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.sop_class import CTImageStorage, Verification

from medgan import keys
from medgan.archive import fetch, intake, phantom, place, receiver, scan, sources
from medgan.archive.landing import Landing
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.keys import Keyring
from medgan.records import ArchiveRef
from medgan.settings import Zones
from tests.builders import pacs, servers

# A refused connection leaves pynetdicom's socket to the garbage collector.
pytestmark = [
    pytest.mark.usefixtures("network"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

KEYRING = Keyring(secret=bytes(range(32)))
STUDIES, OF_EACH = 6, 8
WAYS = {
    "get": pacs.address("&retrieve=get&associations=4"),
    "move": pacs.address("&retrieve=move&associations=4"),
    "web": pacs.web_address(),
}


@pytest.fixture(scope="module")
def held() -> dict[str, bytes]:
    """SOPInstanceUID -> file: phantom CT studies, and real compressed ones."""
    files = [one for patient in range(STUDIES) for one in phantom.phantom_study(patient=patient, instances=OF_EACH)]
    names = ("JPEG2000.dcm", "JPEG-LL.dcm", "MR_small_RLE.dcm", "CT_small.dcm")
    files += [Path(pydicom.data.get_testdata_file(name)).read_bytes() for name in names]
    return {str(pydicom.dcmread(pydicom.filebase.DicomBytesIO(one)).SOPInstanceUID): one for one in files}


@pytest.fixture(scope="module")
def orthanc(network, tool, tmp_path_factory, held):
    folder = tmp_path_factory.mktemp("orthanc")
    with servers.servers(folder / "logs") as running:
        one = pacs.Orthanc(folder, running, tool("Orthanc"))
        one.start()
        one.hold(held.values())
        yield one


@pytest.fixture
def zones(tmp_path, monkeypatch) -> Zones:
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    return Zones.under(tmp_path)


def registered(address: str, zones: Zones, name: str = "pacs") -> ArchiveRef:
    return sources.register(place.parse(address), zones=zones, keyring=KEYRING, name=name)


def arrived(source: str, zones: Zones) -> list[str]:
    """SOPInstanceUIDs of what lies in the landing, repeats and all."""
    files = [path for path in (zones.identified / "landing" / source / "files").rglob("*") if path.is_file()]
    return sorted(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files)


@pytest.mark.parametrize("way", WAYS)
def test_everything_a_pacs_holds_arrives_once_and_a_second_visit_brings_nothing(way, orthanc, held, zones):
    ref = registered(WAYS[way], zones)
    fetch.check(ref, zones=zones, keyring=KEYRING)
    visit = fetch.fetch(ref, zones=zones, keyring=KEYRING)
    assert (visit.listed, visit.arrived, visit.waiting) == (len(held), len(held), 0)
    assert arrived("pacs", zones) == sorted(held)
    again = fetch.fetch(ref, zones=zones, keyring=KEYRING)
    assert (again.known, again.arrived) == (len(held), 0)


@pytest.mark.parametrize("way", WAYS)
def test_what_was_let_go_of_is_brought_again_only_where_that_is_asked_for(way, orthanc, held, zones):
    ref = registered(WAYS[way], zones)
    fetch.fetch(ref, zones=zones, keyring=KEYRING)
    landing = Landing("pacs", zones=zones, keyring=KEYRING)
    landing.let_go([path.name for path in landing.files.rglob("in-*")], remember=True)
    visit = fetch.fetch(ref, zones=zones, keyring=KEYRING)
    assert (visit.known, visit.arrived, arrived("pacs", zones)) == (len(held), 0, [])
    assert scan.scan(ref, zones=zones, keyring=KEYRING).instances == 0
    assert fetch.fetch(ref, zones=zones, keyring=KEYRING, again=True).arrived == len(held)


def test_a_scan_of_a_pacs_is_the_scan_of_its_files_whichever_way_they_came(orthanc, held, zones, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for number, content in enumerate(held.values()):
        (folder / f"{number}.dcm").write_bytes(content)
    local = sources.register(folder, zones=zones, keyring=KEYRING, name="local")
    expected = instances_of(scan.scan(local, zones=zones, keyring=KEYRING), zones)
    for way, address in WAYS.items():
        report = scan.scan(registered(address, zones, way), zones=zones, keyring=KEYRING)
        assert (report.waiting, report.rejected) == (0, {})
        assert instances_of(report, zones) == expected


def instances_of(report, zones: Zones) -> list[str]:
    found = intake.load(report.scan_id, zones=zones, keyring=KEYRING)
    return sorted(one.instance_key for study in found.studies for one in study.instances)


@pytest.mark.parametrize("way", WAYS)
def test_a_query_narrows_what_is_fetched(way, orthanc, held, zones):
    first = next(iter(held.values()))
    wanted = pydicom.dcmread(pydicom.filebase.DicomBytesIO(first))
    visit = fetch.fetch(registered(f"{WAYS[way]}&PatientID={wanted.PatientID}", zones), zones=zones, keyring=KEYRING)
    assert visit.listed == visit.arrived == OF_EACH


@pytest.mark.parametrize("way", WAYS)
def test_a_pacs_killed_in_the_middle_costs_nothing_and_doubles_nothing(way, orthanc, held, zones):
    ref = registered(WAYS[way], zones)
    killed = threading.Event()

    def kill(done: int, _total: int) -> None:
        if done >= len(held) // 3 and not killed.is_set():
            killed.set()
            orthanc.kill()

    try:
        with pytest.raises(StoreUnavailable):
            fetch.fetch(ref, zones=zones, keyring=KEYRING, on_progress=kill)
        before = arrived("pacs", zones)
        assert 0 < len(before) < len(held)
        with pytest.raises(StoreUnavailable):  # nobody answers
            fetch.fetch(ref, zones=zones, keyring=KEYRING)
    finally:
        orthanc.start()
    visit = fetch.fetch(ref, zones=zones, keyring=KEYRING)
    assert (visit.known, visit.waiting) == (len(before), 0)
    assert arrived("pacs", zones) == sorted(held)


def test_a_pacs_pushes_over_four_associations_and_dies_and_pushes_again(orthanc, held, zones):
    studies = orthanc.ask("/studies")
    landing = Landing("pushed", zones=zones, keyring=KEYRING)
    enough = threading.Semaphore(0)
    with receiver.Receiver(
        landing, title="MEDGAN", host="127.0.0.1", port=pacs.MOVE_PORT, senders=[pacs.AET], on_arrival=enough.release
    ):
        pushing = [threading.Thread(target=push, args=(orthanc, studies[part::4])) for part in range(4)]
        for thread in pushing:
            thread.start()
        for _ in range(len(held) // 3):
            assert enough.acquire(timeout=60)
        orthanc.kill()
        for thread in pushing:
            thread.join()
        orthanc.start()
        push(orthanc, studies)
    assert arrived("pushed", zones) == sorted(held)


def push(orthanc: pacs.Orthanc, studies: list[str]) -> None:
    for study in studies:
        try:
            orthanc.ask("/modalities/medgan/store", study.encode())
        except OSError:
            return


def test_a_receiver_killed_at_any_moment_has_everything_that_it_acknowledged(zones, tmp_path):
    port, workspace = 11113, tmp_path
    keys.create(zones.keys / "pseudonym.key")
    run = [sys.executable, "-m", "medgan.cli", "source"]
    address = f"receive://MEDGAN@127.0.0.1:{port}?from=CT1"
    subprocess.run([*run, "add", "pushed", address, "--workspace", workspace], check=True, capture_output=True)
    listen = [*run, "receive", "pushed", "--workspace", workspace]
    sent = [one for patient in range(5) for one in phantom.phantom_study(patient=patient, instances=20)]
    acknowledged: list[str] = []
    with servers.servers(tmp_path / "logs") as running:
        running.start("receiver", listen, ready=lambda: servers.listening(port))
        sender = threading.Thread(target=send_all, args=(port, sent, acknowledged))
        sender.start()
        servers.wait_until("a third to be acknowledged", lambda: len(acknowledged) > len(sent) // 3, pause=0.001)
        running.kill("receiver")
        sender.join()
        assert len(acknowledged) < len(sent)
        assert set(acknowledged) <= set(arrived("pushed", zones))
        running.start("receiver", listen, ready=lambda: servers.listening(port))
        send_all(port, sent, acknowledged)
        running.stop("receiver")
        assert "instances arrived" in running.log("receiver")
    here = arrived("pushed", zones)
    assert len(here) == len(set(here)) == len(sent)
    assert list((zones.identified / "landing" / "pushed" / "partial").iterdir()) == []


def send_all(port: int, files: list[bytes], acknowledged: list[str]) -> None:
    association = storing(port)
    for content in files:
        dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
        try:
            status = association.send_c_store(dataset)
        except RuntimeError:  # the association is gone
            return
        if getattr(status, "Status", None) == 0x0000:
            acknowledged.append(str(dataset.SOPInstanceUID))
    association.release()


# --------------------------------------------------------------------------------------- hostile senders


@pytest.fixture
def listening(zones):
    landing = Landing("pushed", zones=zones, keyring=KEYRING)
    with receiver.Receiver(landing, title="MEDGAN", host="127.0.0.1", port=0, senders=["CT1"]) as running:
        yield running


def storing(port: int, *, calling: str = "CT1", called: str = "MEDGAN"):
    ours = AE(calling)
    ours.dimse_timeout = 5  # a sender that waits for a dead receiver is not what is tried here
    contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian), build_context(Verification)]
    return ours.associate("127.0.0.1", port, contexts=contexts, ae_title=called)


def serves(port: int) -> bool:
    """Whether a known sender can still store an instance."""
    association = storing(port)
    if not association.is_established:
        return False
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(phantom.phantom_study(patient=99)[0]))
    status = association.send_c_store(dataset)
    association.release()
    return getattr(status, "Status", None) == 0x0000


@pytest.mark.parametrize("titles", [{"calling": "STRANGER"}, {"called": "OTHER"}])
def test_an_unknown_title_is_rejected_and_known_senders_are_served(titles, listening):
    assert storing(listening.port, **titles).is_rejected
    assert serves(listening.port)


def test_a_pdu_that_claims_4_gib_ends_its_connection_only(listening):
    with socket.create_connection(("127.0.0.1", listening.port), timeout=30) as hostile:
        hostile.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF) + bytes(1000))
        assert read_to_the_end(hostile)
    assert serves(listening.port)


def test_slow_connections_and_a_flood_leave_room_for_other_senders(listening, monkeypatch):
    monkeypatch.setattr("medgan.archive.wire.PDU_SECONDS", 1.0)
    slow = [socket.socket() for _ in range(8)]
    for one in slow:
        one.connect(("127.0.0.1", listening.port))
        one.sendall(b"\x01")
    assert serves(listening.port)
    for one in slow:
        one.settimeout(60)
        assert read_to_the_end(one)  # closed by us after the deadline
        one.close()
    # One address may hold 16 connections; the 17th and later are closed at once, another address is served.
    flood = [socket.create_connection(("127.0.0.1", listening.port), timeout=60) for _ in range(60)]
    time.sleep(0.5)
    ours = AE("CT1")
    elsewhere = ours.associate(
        "127.0.0.1", listening.port, contexts=[build_context(Verification)], ae_title="MEDGAN",
        bind_address=("127.0.0.2", 0),
    )  # fmt: skip
    assert elsewhere.is_established
    elsewhere.release()
    for one in flood:
        one.close()


def test_an_endless_message_is_cut_off_at_the_size_of_an_instance(listening, monkeypatch):
    monkeypatch.setattr("medgan.archive.limits.MAX_INSTANCE_BYTES", 4 * 1024 * 1024)
    association = storing(listening.port)
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(phantom.phantom_study(patient=98)[0]))
    dataset.Rows, dataset.PixelData = 4096, bytes(8 * 1024 * 1024)
    status = association.send_c_store(dataset)
    assert getattr(status, "Status", None) is None
    assert serves(listening.port)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_uid_that_climbs_becomes_no_path(listening, zones):
    association = storing(listening.port)
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(phantom.phantom_study(patient=97)[0]))
    climbing = UID("../../../x", validation_mode=IGNORE)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = climbing
    association.send_c_store(dataset)
    association.release()
    outside = [path for path in zones.identified.parent.rglob("x") if path.is_file()]
    assert outside == []


def test_a_full_disk_is_answered_with_out_of_resources_and_nothing_is_acknowledged(listening, zones, monkeypatch):
    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    association = storing(listening.port)
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(phantom.phantom_study(patient=96)[0]))
    assert association.send_c_store(dataset).Status == 0xA700
    association.release()
    assert arrived("pushed", zones) == []


def read_to_the_end(connection: socket.socket) -> bool:
    """Whether the other side closes the connection."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionError:
        return True
    return True


def test_a_pacs_that_does_not_know_us_says_so(orthanc, zones):
    address = pacs.address("&retrieve=get").replace(f"{pacs.AET}@", "SOMEONE@")
    with pytest.raises(InvalidRequest, match="title"):
        fetch.fetch(registered(address, zones), zones=zones, keyring=KEYRING)
