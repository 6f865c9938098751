from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medgan.cohort import synthetic
from medgan.errors import InvalidRequest
from medgan.privacy import audit
from medgan.privacy.cli import app


def as_folder(path, images):
    path.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(np.round(image * 255).astype(np.uint8)).save(path / f"{number:04d}.png")
    return path


@pytest.fixture(scope="module")
def folders(case, tmp_path_factory):
    root = tmp_path_factory.mktemp("audit")
    holdout = np.concatenate([case.real.holdout_1, case.real.holdout_2])
    return {
        "train": as_folder(root / "train", case.real.train),
        "holdout": as_folder(root / "holdout", holdout),
        "fresh": as_folder(root / "fresh", case.fresh / 65535),
        "copies": as_folder(root / "copies", case.real.train[:200]),
    }


def run(folders, candidate, *more):
    places = ["--train", str(folders["train"]), "--holdout", str(folders["holdout"])]
    return CliRunner().invoke(app, [str(candidate), *places, "--policy", "internal", *more])


def test_a_folder_of_anybodys_images_is_judged(folders, tmp_path):
    result = run(folders, folders["fresh"], "--output", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "cleared" in result.output
    assert json.loads((tmp_path / "privacy.json").read_text())["verdict"] == "cleared"
    assert (tmp_path / "privacy.html").read_text().count("<figure>") == 6


def test_copies_in_a_folder_are_refused_with_status_six(folders):
    result = run(folders, folders["copies"])
    assert result.exit_code == 6
    assert "refused" in result.output


def test_a_stored_cohort_is_read_as_it_is(case):
    made = case.synthetic(case.fresh)
    views = audit.load_views(synthetic.folder(made.synthetic, zones=case.zones), 32)
    assert views == pytest.approx(case.fresh / 65535, abs=1e-6)


def test_sixteen_bit_images_keep_their_range(tmp_path, case):
    tmp_path.joinpath("one").mkdir()
    Image.fromarray(case.fresh[0]).save(tmp_path / "one" / "a.png")
    assert audit.load_views(tmp_path / "one", 32)[0] == pytest.approx(case.fresh[0] / 65535, abs=1e-6)


def test_masks_that_an_export_puts_beside_its_images_are_no_images(tmp_path, case):
    (tmp_path / "version").mkdir()
    as_folder(tmp_path / "version/images", case.fresh[:9] / 65535)
    as_folder(tmp_path / "version/masks", case.fresh[:9] / 65535 > 0.5)
    assert len(audit.load_views(tmp_path / "version", 32)) == 9
    assert len(audit.load_views(tmp_path / "version/masks", 32)) == 9


def test_twelve_bits_and_odd_shapes_are_compared_with_eight_bits(tmp_path):
    deep = np.random.default_rng(0).integers(0, 4096, (40, 50)).astype(np.uint16)
    deep[0, 0] = 4095
    for name, pixels in (("deep", deep), ("flat", np.round(deep / 4095 * 255).astype(np.uint8))):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    colour = np.repeat(np.asarray(Image.open(tmp_path / "flat" / "a.png"))[..., None], 3, axis=2)
    (tmp_path / "colour").mkdir()
    Image.fromarray(colour).save(tmp_path / "colour" / "a.tiff")
    px = audit.common_px([tmp_path / "deep", tmp_path / "flat", tmp_path / "colour"])
    views = [audit.load_views(tmp_path / name, px)[0] for name in ("deep", "flat", "colour")]
    assert px == 32
    assert views[1] == pytest.approx(views[0], abs=0.003)
    assert views[2] == pytest.approx(views[1], abs=0.003)


def test_what_is_no_image_is_passed_over_and_nothing_at_all_is_refused(tmp_path, folders):
    (tmp_path / "notes.png").write_bytes(b"not an image")
    with pytest.raises(InvalidRequest, match="no images"):
        audit.audit(tmp_path, folders["train"], folders["holdout"], policy="internal")
