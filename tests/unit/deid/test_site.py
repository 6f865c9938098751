from __future__ import annotations

import pickle

import pytest

from medgan.deid import apply, profile
from medgan.errors import InvalidRequest
from tests.unit.deid.builders import phantom_with

SITE = '[attributes]\nStationName = "K"\n"0018,0015" = "X"\nSeriesDescription = "C"\n'


def test_a_site_file_overrides_single_attributes_and_is_part_of_the_digest(keyring):
    chosen = profile.load("basic", SITE)
    data = phantom_with(StationName="ROOM 3", BodyPartExamined="CHEST", SeriesDescription="Axial head Zuviqo")
    clean = apply.deidentify(data, profile=chosen, keyring=keyring)
    assert clean.dataset.StationName == "ROOM 3"
    assert "BodyPartExamined" not in clean.dataset
    assert clean.dataset.SeriesDescription == "Axial head"
    assert clean.profile_digest == chosen.digest != profile.load("basic").digest


def test_a_profile_travels_with_its_site_file():
    chosen = profile.load("basic+uids", SITE)
    assert pickle.loads(pickle.dumps(chosen)) == chosen  # noqa: S301 - our own bytes, as Dask sends them


@pytest.mark.parametrize(
    "site",
    [
        "nonsense",
        '[attributes]\nNoSuchKeyword = "X"',
        '[attributes]\nStationName = "Q"',
        '[attributes]\nPatientName = "K"',
        '[attributes]\nPatientID = "C"',
        '[attributes]\nOperatorsName = "K"',
        '[attributes]\n"00091001" = "K"',
    ],
)
def test_a_site_file_cannot_keep_a_person_or_the_unknown(site):
    with pytest.raises(InvalidRequest):
        profile.load("basic", site)
