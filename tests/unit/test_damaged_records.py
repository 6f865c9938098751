"""A record that a disk damaged is named, with what to do, and none of its values are: never a library's traceback."""

import pytest

from medgan.errors import IntegrityError
from medgan.gan import train
from medgan.records import CohortRecipe, CohortSnapshot
from medgan.restoration import learn
from medgan.settings import Zones
from medgan.validation import drift


def _model(folder, zones):
    return train.load(folder)


def _restorer(folder, zones):
    return learn.load(folder)


def _reference(folder, zones):
    recipe = CohortRecipe(name="chest", modalities=("DX",), class_attribute="finding")
    cohort = CohortSnapshot(
        cohort="co-" + "0" * 32, recipe=recipe, collection_snapshot="main@0123456789", classes=("a",), images=1,
        patients={}, size_px=32, content_sha256="0" * 64,
    )  # fmt: skip
    path = drift._pointer(cohort, zones)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((folder / train.RECORD).read_bytes())
    return drift.accepted(cohort, zones=zones)


@pytest.mark.parametrize("read", [_model, _restorer, _reference])
@pytest.mark.parametrize("damaged", [b"", b"{", b'{"model": "PLANTED^NAME"}', b"\xff" * 64])
def test_a_damaged_record_is_told_in_words(tmp_path, read, damaged):
    for name in (train.RECORD, learn.RECORD):
        (tmp_path / name).write_bytes(damaged)
    with pytest.raises(IntegrityError, match="restore it from a copy") as found:
        read(tmp_path, Zones.under(tmp_path / "workspace"))
    assert "PLANTED" not in str(found.value)
    assert found.value.__suppress_context__
