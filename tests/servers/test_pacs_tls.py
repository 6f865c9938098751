"""DICOM over mutual TLS with Orthanc and with dcmtk, in both directions; who has no certificate gets nowhere."""

from __future__ import annotations

import subprocess

import pydicom
import pytest

from medgan.archive import fetch, phantom, place, receiver, sources
from medgan.archive.landing import Landing
from medgan.errors import InvalidRequest, StoreUnavailable
from medgan.keys import Keyring
from medgan.settings import Zones
from tests.builders import pacs, servers
from tests.builders.certificates import Authority

pytestmark = [
    pytest.mark.usefixtures("network"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]

KEYRING = Keyring(secret=bytes(range(32)))
HELD = [one for patient in range(3) for one in phantom.phantom_study(patient=patient, instances=4)]


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def ours(authority):
    """What our addresses say of TLS: our certificate, and whom we trust."""
    certificate, key = authority.issue("medgan")
    return f"&cert={certificate}&key={key}&ca={authority.ca}"


@pytest.fixture(scope="module")
def orthanc(network, tool, tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("orthanc")
    with servers.servers(folder / "logs") as running:
        one = pacs.Orthanc(folder, running, tool("Orthanc"), authority)
        one.start()
        one.hold(HELD)
        yield one


@pytest.fixture
def zones(tmp_path, monkeypatch) -> Zones:
    monkeypatch.setenv(place.HOSTS_VARIABLE, "127.0.0.1")
    return Zones.under(tmp_path)


def visit(address: str, zones: Zones):
    ref = sources.register(place.parse(address), zones=zones, keyring=KEYRING, name="pacs")
    return fetch.fetch(ref, zones=zones, keyring=KEYRING)


def secure(query: str) -> str:
    return pacs.address(query).replace("dicom:", "dicoms:")


def landed(zones: Zones, source: str) -> int:
    return len(Landing(source, zones=zones, keyring=KEYRING))


@pytest.mark.parametrize("way", ["get", "move"])
def test_everything_arrives_over_tls(way, orthanc, ours, zones):
    seen = visit(secure(f"&retrieve={way}&associations=4{ours}"), zones)
    assert (seen.listed, seen.arrived, seen.waiting) == (len(HELD), len(HELD), 0)


def test_a_pacs_that_another_authority_vouches_for_is_not_spoken_to(orthanc, authority, zones, tmp_path):
    certificate, key = authority.issue("medgan2")
    stranger = Authority(tmp_path / "stranger")
    with pytest.raises(StoreUnavailable) as refused:
        visit(secure(f"&cert={certificate}&key={key}&ca={stranger.ca}"), zones)
    assert "127.0.0.1" not in str(refused.value)


def test_a_pacs_that_asks_for_a_certificate_does_not_serve_us_without_one(orthanc, authority, zones):
    with pytest.raises(StoreUnavailable):
        visit(secure(f"&ca={authority.ca}"), zones)


def test_a_move_over_tls_without_a_certificate_of_ours_is_refused_with_what_to_do(authority, zones):
    with pytest.raises(InvalidRequest, match="cert and key"):
        visit(secure(f"&retrieve=move&ca={authority.ca}"), zones)


@pytest.fixture
def listening(ours, zones):
    landing = Landing("pushed", zones=zones, keyring=KEYRING)
    address = place.parse(f"receive://MEDGAN@127.0.0.1:{pacs.MOVE_PORT}?from={pacs.AET},CT1{ours}")
    with receiver.serve(address, landing) as running:
        yield running


def test_a_pacs_pushes_over_tls(orthanc, listening, zones):
    for study in orthanc.ask("/studies"):
        orthanc.ask("/modalities/medgan/store", study.encode())
    assert landed(zones, "pushed") == len(HELD)


def storescu(tool, folder, *options) -> int:
    """Exit status of dcmtk's sender for the first four instances."""
    files = []
    for number, content in enumerate(HELD[:4]):
        files.append(folder / f"{number}.dcm")
        files[-1].write_bytes(content)
    command = [tool("storescu"), "-aet", "CT1", "-aec", "MEDGAN", *options, "127.0.0.1", str(pacs.MOVE_PORT), *files]
    return subprocess.run([*map(str, command)], capture_output=True, timeout=60, check=False).returncode


def test_dcmtk_pushes_over_tls_and_nobody_without_a_certificate_of_ours_does(
    tool, authority, listening, zones, tmp_path
):
    certificate, key = authority.issue("scanner")
    assert storescu(tool, tmp_path, "+tls", key, certificate, "+cf", authority.ca) == 0
    assert landed(zones, "pushed") == 4
    content = next(path for path in (zones.identified / "landing" / "pushed" / "files").rglob("in-*"))
    assert pydicom.dcmread(content).PixelData
    stranger = Authority(tmp_path / "stranger", "stranger")
    foreign, foreign_key = stranger.issue("scanner")
    assert storescu(tool, tmp_path) != 0
    assert storescu(tool, tmp_path, "+tla", "+cf", authority.ca) != 0
    assert storescu(tool, tmp_path, "+tls", foreign_key, foreign, "+cf", authority.ca) != 0
    assert storescu(tool, tmp_path, "+tls", key, certificate, "+cf", authority.ca) == 0
