import json
import tomllib

import numpy as np
import pandas as pd
import pytest

from medgan.cohort import layout, prepare, read
from medgan.collection import store
from medgan.errors import InvalidRequest, ValidationFailed
from medgan.settings import Zones
from medgan.validation import admit, drift, expectations, rules, statistics, suites
from tests.builders.cohort import commit, handle, radiographs, xray_recipe, xray_rows

IMAGES = 400


@pytest.fixture(scope="module")
def sample():
    pixels, labels = radiographs(IMAGES)
    return pixels.astype(np.uint16), xray_rows(pixels.astype(np.uint16), labels)


@pytest.fixture(scope="module")
def reference(sample, tmp_path_factory):
    """Zones in which the clean cohort was admitted, with its record."""
    pixels, rows = sample
    zones = Zones.under(tmp_path_factory.mktemp("clean"))
    prepared = prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones)
    return zones, admit.admit(prepared, zones=zones)


def failures(zones, cohort, meant):
    """Names of the rules that fail, of those about the same facts as the rule `meant`."""
    loaded = read.load(cohort, zones=zones)
    images = statistics.of_cohort(loaded)
    suite = suites.cohort_suite(frozenset(images.columns))
    (about,) = {rule.about for rule in suite if rule.name == meant}
    suite = tuple(rule for rule in suite if rule.about == about)
    found = expectations.run(suite, admit.gather(loaded, images, zones=zones), title="t")
    return {one.rule for one in found if not one.passed}


def test_clean_data_passes_every_rule_and_its_evidence_lies_beside_the_cohort(reference):
    zones, validated = reference
    assert validated.warnings == ()
    assert validated.expectations > 40
    folder = layout.folder(validated.cohort.cohort, zones=zones)
    assert len(json.loads((folder / admit.FINDINGS).read_bytes())) == validated.expectations
    assert len(pd.read_parquet(folder / layout.STATISTICS)) == validated.cohort.images
    pages = list((folder / layout.DATA_DOCS).rglob("*.html"))
    assert sum(b"no-copy-across-splits" in page.read_bytes() for page in pages) >= 2


def test_admitting_again_evaluates_nothing_and_says_the_same(reference, monkeypatch):
    zones, validated = reference
    monkeypatch.setattr(expectations, "run", None)
    assert admit.admit(validated.cohort, zones=zones) == validated


def test_the_same_collection_is_admitted_the_same_in_another_workspace(reference, sample, tmp_path):
    pixels, rows = sample
    zones = Zones.under(tmp_path)
    prepared = prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones)
    assert admit.admit(prepared, zones=zones) == reference[1]


def some(rows, share=0.1):
    return rows["source"] % round(1 / share) == 0


def on_rows(**changes):
    def plant(rows, pixels):
        for name, value in changes.items():
            rows.loc[some(rows), name] = value
        return rows, pixels

    return plant


def on_pixels(change, share=0.1):
    def plant(rows, pixels):
        pixels = pixels.copy()
        for i in rows.loc[some(rows, share), "source"]:
            pixels[i] = change(pixels[i])
        return resealed(rows, pixels), pixels

    return plant


def resealed(rows, pixels):
    fresh = xray_rows(pixels, np.zeros(len(pixels), int)).set_index("instance_key")
    for name in ("pixel_sha256", "pixel_min", "pixel_max", "pixel_mean", "pixel_std"):
        rows[name] = rows["instance_key"].map(fresh[name])
    return rows


def copied(change):
    """One image of a train patient also stands under a patient of a holdout."""

    def plant(rows, pixels):
        pixels = pixels.copy()
        split_of = {i: prepare.split_of(handle("pt", i), xray_recipe()) for i in range(IMAGES)}
        train = next(i for i in range(IMAGES) if split_of[i] == "train")
        holdout = next(i for i in range(IMAGES) if split_of[i] == "holdout-1")
        pixels[holdout] = change(pixels[train])
        return resealed(rows, pixels), pixels

    return plant


def one_bit(image):
    changed = image.copy()
    changed[14, 14] ^= 1
    return changed


def swapped(rows, pixels):
    other = {"normal": "pneumonia", "pneumonia": "normal"}
    return rows.assign(label_finding=rows["label_finding"].map(other)), pixels


def shuffled(rows, pixels):
    order = np.random.default_rng(1).permutation(len(rows))
    return rows.assign(label_finding=rows["label_finding"].to_numpy()[order]), pixels


def volume(positions, **changes):
    """Rows of ten patients become one CT-like series with slices at `positions` (mm)."""

    def plant(rows, pixels):
        for name in ("patient_key", "study_key", "series_key"):
            rows.loc[: len(positions) - 1, name] = rows.loc[0, name]
        rows.loc[: len(positions) - 1, "slice_position_mm"] = positions
        for name, value in changes.items():
            rows.loc[: len(positions) - 1, name] = value
        return rows, pixels

    return plant


def few_normals(rows, pixels):
    normal = rows["label_finding"] == "normal"
    return rows[~normal | (normal.cumsum() <= 1)].reset_index(drop=True), pixels


def a_study_of_two(rows, pixels):
    rows.loc[1, ["study_key"]] = rows.loc[0, "study_key"]
    return rows, pixels


def half(image):
    image = image.copy()
    image[:, :14] = image.min()
    return image


def noisy(image):
    return np.clip(image + np.random.default_rng(int(image.sum())).normal(0, 60, image.shape), 0, 400).astype(np.uint16)


TEN = np.arange(10) * 2.0
DEFECTS = {
    "negative spacing": (on_rows(spacing_row_mm=-1.0, spacing_column_mm=1.0), "row-spacing"),
    "spacing in metres": (on_rows(spacing_row_mm=1.0, spacing_column_mm=1000.0), "column-spacing"),
    "two spacings in a series": (
        volume(TEN, spacing_row_mm=[1.0] * 9 + [2.0], spacing_column_mm=1.0),
        "one-spacing-a-series",
    ),
    "crooked orientation": (on_rows(orientation="1\\0\\0\\0.5\\1\\0"), "orientation"),
    "missing slices": (volume(np.delete(np.arange(12) * 2.0, [4, 5])), "no-missing-slice"),
    "rescale slope NaN": (on_rows(rescale_slope=np.nan), "rescale-sane"),
    "rescale slope 0": (on_rows(rescale_slope=0.0), "rescale-sane"),
    "rescale intercept 1e308": (on_rows(rescale_intercept=1e308), "rescale-sane"),
    "77 bits stored": (on_rows(bits_stored=77), "bits-stored"),
    "a study of two patients": (a_study_of_two, "study-of-one-patient"),
    "a name as a label": (on_rows(label_finding="DOE^JANE"), "source-no-residue"),
    "CT without its rescale": (
        on_rows(modality="CT", units="HU", rescale_intercept=-9000.0),
        "ct-not-below-range",
    ),
    "CT in no unit": (on_rows(modality="CT", units="1"), "ct-in-hounsfield"),
    "an age of 212": (on_rows(age_years=212.0), "age-plausible"),
    "an unknown sex": (on_rows(sex="Q"), "sex-known"),
    "constant images": (on_pixels(np.zeros_like), "no-constant-image"),
    "saturated images": (on_pixels(lambda image: np.where(image > 120, 255, 0).astype(np.uint16)), "bright-saturation"),
    "half of the image lost": (on_pixels(half), "not-cropped"),
    "rotated images": (on_pixels(np.rot90), "upright"),
    "inverted photometric": (on_pixels(lambda image: image.max() - image + image.min()), "not-inverted"),
    "an image in two splits": (copied(lambda image: image * 2), "no-copy-across-splits"),
    "a near copy in two splits": (copied(one_bit), "no-near-copy-across-splits"),
    "labels of the table swapped": (swapped, "class-looks-as-before"),
    "labels of the table shuffled": (shuffled, "labels-mean-something"),
    "intensity drifted": (on_pixels(lambda image: image * 3, share=1.0), "distribution-as-before"),
    "noise drifted": (on_pixels(noisy, share=0.5), "distribution-drifts"),
    "a class all but gone": (few_normals, "class-count"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_planted_defect_is_caught_by_the_rule_meant_for_it(defect, sample, reference, tmp_path):
    plant, meant = DEFECTS[defect]
    pixels, rows = sample
    rows, pixels = plant(rows.copy(), pixels)
    zones = Zones.under(tmp_path)
    clean, validated = reference
    drift.accept(read.load(validated.cohort, zones=clean), zones=zones)
    before = layout.folder(validated.cohort.cohort, zones=zones)
    before.mkdir(parents=True)
    statistics_file = layout.folder(validated.cohort.cohort, zones=clean) / layout.STATISTICS
    (before / layout.STATISTICS).write_bytes(statistics_file.read_bytes())
    recipe = xray_recipe(modalities=("DX", "CT"))
    prepared = prepare.prepare(commit(rows, pixels, zones), recipe, zones=zones)
    assert meant in failures(zones, prepared, meant)


def test_another_sites_images_are_not_held_to_look_like_this_ones(sample, reference, tmp_path):
    pixels, rows = sample
    rows, pixels = on_pixels(lambda image: image // 2 + 90, share=1.0)(rows.copy(), pixels)
    zones = Zones.under(tmp_path)
    clean, validated = reference
    drift.accept(read.load(validated.cohort, zones=clean), zones=zones)
    before = drift._pointer(validated.cohort, zones).read_bytes()
    elsewhere = prepare.prepare(commit(rows, pixels, zones, "north"), xray_recipe(), zones=zones)
    assert drift.accepted(elsewhere, zones=zones) is None
    drift.accept(read.load(elsewhere, zones=zones), zones=zones)
    assert drift._pointer(validated.cohort, zones).read_bytes() == before


def test_a_failed_suite_stops_the_run_names_rules_counts_and_keys_and_admits_nothing(sample, tmp_path):
    pixels, rows = sample
    rows, pixels = on_pixels(np.zeros_like, share=0.02)(rows.copy(), pixels)
    zones = Zones.under(tmp_path)
    prepared = prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones)
    with pytest.raises(ValidationFailed, match=r"no-constant-image \(1 of 393\)") as refusal:
        admit.admit(prepared, zones=zones)
    folder = layout.folder(prepared.cohort, zones=zones)
    findings = {one["rule"]: one for one in json.loads((folder / admit.FINDINGS).read_bytes())}
    (key,) = findings["no-constant-image"]["keys"]
    assert key in set(rows["instance_key"])
    assert key not in str(refusal.value)
    assert not (folder / admit.VALIDATED).exists()
    assert drift.accepted(prepared, zones=zones) is None
    assert list((folder / layout.DATA_DOCS).rglob("index.html"))


def test_a_patient_in_two_splits_is_caught(reference):
    zones, validated = reference
    cohort = read.load(validated.cohort, zones=zones)
    table = cohort.table.copy()
    table.loc[[0, 1], "patient_key"] = table.loc[0, "patient_key"]
    table.loc[[0, 1], "split"] = ["train", "holdout-1"]
    moved = read.Cohort(
        snapshot=cohort.snapshot, images=cohort.images, table=table, classes=cohort.classes, attrs=cohort.attrs
    )
    facts = statistics.of_cohort(moved)
    suite = [rule for rule in suites.cohort_suite(frozenset(facts.columns)) if rule.about == suites.IMAGES]
    failed = {one.rule for one in expectations.run(tuple(suite), {suites.IMAGES: facts}, title="t") if not one.passed}
    assert failed == {"patient-in-one-split"}


def test_no_value_that_could_identify_reaches_the_evidence(sample, tmp_path):
    pixels, rows = sample
    rows = rows.copy()
    rows.loc[some(rows), "label_finding"] = "DOE^JANE"
    zones = Zones.under(tmp_path)
    prepared = prepare.prepare(commit(rows, pixels, zones), xray_recipe(), zones=zones)
    with pytest.raises(ValidationFailed) as refusal:
        admit.admit(prepared, zones=zones)
    folder = layout.folder(prepared.cohort, zones=zones)
    evidence = [folder / admit.FINDINGS, *(folder / layout.DATA_DOCS).rglob("*")]
    assert "JANE" not in str(refusal.value)
    assert not [path for path in evidence if path.is_file() and b"JANE" in path.read_bytes()]


def test_a_cohort_whose_collection_state_is_gone_is_not_admitted(reference, monkeypatch):
    zones, validated = reference
    monkeypatch.setattr(store, "log", lambda *_, **__: [])
    (layout.folder(validated.cohort.cohort, zones=zones) / admit.VALIDATED).rename(zones.pseudonymised / "away")
    with pytest.raises(InvalidRequest, match="prepare it again"):
        admit.admit(validated.cohort, zones=zones)
    (zones.pseudonymised / "away").rename(layout.folder(validated.cohort.cohort, zones=zones) / admit.VALIDATED)


def suite_with(tmp_path, text):
    (tmp_path / "site.toml").write_text(text)
    return rules.with_site(suites.cohort_suite(frozenset({"constant", "std"})), tmp_path / "site.toml")


def test_a_site_moves_limits_and_severities_and_the_digest_says_so(tmp_path):
    plain = suites.cohort_suite(frozenset({"constant", "std"}))
    text = '[rules.contrast]\nmin_value = 0.1\nseverity = "warn"\n[rules.no-constant-image]\nseverity = "off"\n'
    changed = {rule.name: rule for rule in suite_with(tmp_path, text)}
    assert changed["contrast"].arguments["min_value"] == 0.1
    assert changed["contrast"].arguments["mostly"] == 0.999
    assert changed["contrast"].severity == "warn"
    assert "no-constant-image" not in changed
    assert rules.digest(tuple(changed.values())) != rules.digest(plain)
    assert tomllib.loads(text)["rules"]["contrast"]["severity"] == "warn"


@pytest.mark.parametrize(
    "text",
    ["[rules.nope]\nmostly=1", '[rules.contrast]\nseverity="maybe"', "[rules.contrast]\ncolumn='x'", "not toml ["],
)
def test_a_site_file_that_says_nonsense_is_refused(tmp_path, text):
    with pytest.raises(InvalidRequest):
        suite_with(tmp_path, text)
