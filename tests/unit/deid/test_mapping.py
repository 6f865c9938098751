from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from medgan import keys
from medgan.archive import phantom
from medgan.deid import audit, batch, mapping
from medgan.deid.cli import app
from medgan.errors import IntegrityError, InvalidRequest, UnusableKey
from tests.unit.deid.builders import phantom_with

RUN = CliRunner()


@pytest.fixture
def site(tmp_path):
    """A source of two patients, a pseudonym key and a map's own key."""
    for name in ("pseudonym", "map"):
        keys.create(tmp_path / "keys" / f"{name}.key")
    (tmp_path / "source").mkdir()
    for patient in (1, 2):
        (tmp_path / "source" / f"{patient}.dcm").write_bytes(phantom.phantom_study(patient=patient)[0])
    (tmp_path / "source" / "own.dcm").write_bytes(
        phantom_with(patient=3, PatientID="ZQ-4711", PatientName="Zuviq^Oraxe", IssuerOfPatientID="CITY")
    )
    return tmp_path


def run(site, **more):
    return batch.deidentify_tree(
        site / "source", site / "out", key_handle=f"file:{site / 'keys' / 'pseudonym.key'}", **more
    )


def test_no_map_is_kept_unless_asked_for(site):
    run(site)
    assert {path.name for path in site.iterdir()} == {"keys", "source", "out"}


def test_the_way_back_is_sealed_and_each_question_is_written_down(site):
    where, handle = site / "map.json", f"file:{site / 'keys' / 'map.key'}"
    run(site, map_path=where, map_key_handle=handle)
    run(site, map_path=where, map_key_handle=handle)  # a second night adds nothing
    raw = where.read_bytes()
    assert where.stat().st_mode & 0o077 == 0
    for secret in (b"ZQ-4711", b"Zuviq", b"CITY", *(needle.encode() for needle in phantom.needles_of(1))):
        assert secret not in raw
    found = [
        mapping.look_up(where, path.name, keys.load(handle), reviewer="dpo")
        for path in (site / "out").iterdir()
        if path.name.startswith("pt-")
    ]
    (own,) = [one for one in found if one["patient_id"] == "ZQ-4711"]
    assert (own["issuer"], own["patient_name"]) == ("CITY", "Zuviq^Oraxe")
    assert -3652 <= own["date_shift_days"] <= -365
    assert audit.verify(site / "map.json.audit")[2] == 3


def test_the_map_opens_with_its_own_key_only(site):
    where = site / "map.json"
    run(site, map_path=where, map_key_handle=f"file:{site / 'keys' / 'map.key'}")
    patient = next(path.name for path in (site / "out").iterdir() if path.name.startswith("pt-"))
    other = f"file:{site / 'keys' / 'pseudonym.key'}"
    with pytest.raises(UnusableKey):
        mapping.look_up(where, patient, keys.load(other), reviewer="dpo")
    with pytest.raises(UnusableKey):
        run(site, map_path=where)
    said = RUN.invoke(
        app,
        [
            "deid",
            "lookup",
            patient,
            "--map",
            str(where),
            "--map-key",
            str(site / "keys" / "map.key"),
            "--reviewer",
            "x",
        ],
    )
    assert said.exit_code == 0, said.output
    assert "patient_id" in said.output


def test_a_map_never_lies_with_what_it_leads_back_from(site):
    with pytest.raises(InvalidRequest):
        run(site, map_path=site / "out" / "map.json")
    (site / "map.json").write_text("{}")
    with pytest.raises(IntegrityError):
        mapping.look_up(site / "map.json", "pt-0", keys.load(f"file:{site / 'keys' / 'map.key'}"), reviewer="dpo")
    assert not (site / "out").exists()


def test_two_runs_that_add_at_the_same_time_lose_nothing(tmp_path, keyring):
    path = tmp_path / "way-back.json"

    def add(number):
        mapping.add(path, {f"pt-{number}": {"patient_id": str(number)}}, keyring)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(24)))
    assert len(mapping.opened(path, keyring)) == 24
