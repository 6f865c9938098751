"""The suites that a cohort must pass, with defaults for every modality. Severity: stop, or warn.

Intensities are in units of the window (0 its lower end, 1 its upper). The limits were chosen on the 5,002 distinct
radiographs of the sample and hold there with room; a site's TOML file moves them.
"""

from __future__ import annotations

from dataclasses import replace

from medgan.validation import sources
from medgan.validation.rules import Rule, Severity, Suite, always, between

IMAGES, CLASSES, LOOKS, DRIFT, SOURCES = "images", "classes", "looks", "drift", "sources"
"""What a rule is about: cohort images, class counts, class looks, distributions, rows of the collection."""


def cohort_suite(columns: frozenset[str]) -> Suite:
    """Every rule about a cohort whose image facts are `columns`, and about the rows that it came from."""
    rules = (*_table(), *_pixels(), *_leakage(), *_counts(), *_against_the_last())
    return (*(rule for rule in rules if rule.about != IMAGES or rule.column in columns), *collection_suite())


def collection_suite() -> Suite:
    """Every rule about rows of a collection."""
    return (*_keys(), *_geometry(), *_scanner())


def _only_warn(*rules: Rule) -> Suite:
    return tuple(replace(rule, severity=Severity.WARN) for rule in rules)


def _table() -> Suite:
    return (
        always("rows-in-place", IMAGES, "row_id_in_place", "row i describes image i"),
        between("instances-unique", IMAGES, "instance_copies", "no frame of an instance appears twice", high=1),
        always("split-known", IMAGES, "split_known", "every image is in train, holdout-1 or holdout-2"),
        always("class-known", IMAGES, "class_known", "every image has one of the cohort's classes"),
        always("class-is-a-word", IMAGES, "class_is_a_word", "a class is a word, not a number, date or name"),
        always("no-residue", IMAGES, "residue", "no text looks like an identifier", value=False),
        always("sex-known", IMAGES, "sex_known", "sex is F, M, O or empty"),
        between("age-plausible", IMAGES, "age_years", "an age is 0 to 120 years", low=0, high=120),
        between("spacing-plausible", IMAGES, "spacing_mm", "pixels are 0.01 to 50 mm wide", low=0.01, high=50),
    )


def _pixels() -> Suite:
    dark, bright = "at most 60 % are at the window's lower end", "at most 30 % are at its upper end"
    return (
        always("no-constant-image", IMAGES, "constant", "no image is constant", value=False),
        between("contrast", IMAGES, "std", "an image has contrast", low=0.02, mostly=0.999),
        between("entropy", IMAGES, "entropy_bits", "an image holds at least 1 bit a pixel", low=1, mostly=0.999),
        between("dark-saturation", IMAGES, "saturated_low", dark, high=0.6, mostly=0.99),
        between("bright-saturation", IMAGES, "saturated_high", bright, high=0.3, mostly=0.99),
        *_only_warn(
            between("not-cropped", IMAGES, "blank_border", "little of an image is blank", high=0.35, mostly=0.98),
            always("not-inverted", IMAGES, "inverted", "no image is the negative of the others", value=False),
            between("upright", IMAGES, "turned_better_by", "no image fits better when turned", high=0.3, mostly=0.995),
        ),
    )


def _leakage() -> Suite:
    across_patients, near = "no image is of two patients", "near_copy_across"
    return (
        between("patient-in-one-split", IMAGES, "patient_splits", "a patient is in one split", high=1),
        always("no-copy-across-splits", IMAGES, "exact_copy_across_splits", "no image is in two splits", value=False),
        *_only_warn(
            always("no-copy-across-patients", IMAGES, "exact_copy_across_patients", across_patients, value=False),
            always(
                "no-near-copy-across-splits", IMAGES, f"{near}_splits", "no near copy is in two splits", value=False
            ),
            always("no-near-copy-across-patients", IMAGES, f"{near}_patients", "nor of two patients", value=False),
        ),
    )


def _keys() -> Suite:
    return (
        between("frames-unique", SOURCES, "frame_copies", "no frame of an instance stands twice", high=1),
        between("series-of-one-study", SOURCES, "series_studies", "a series belongs to one study", high=1),
        between("study-of-one-patient", SOURCES, "study_patients", "a study belongs to one patient", high=1),
        always("source-no-residue", SOURCES, "residue", "no coded text looks like an identifier", value=False),
    )


def _geometry() -> Suite:
    wide, tolerance = "pixels are 0.01 to 50 mm wide", sources.ORTHOGONAL_TOLERANCE
    return (
        between("row-spacing", SOURCES, "spacing_row_mm", wide, low=0.01, high=50),
        between("column-spacing", SOURCES, "spacing_column_mm", wide, low=0.01, high=50),
        between("thickness", SOURCES, "thickness_mm", "slices are 0.01 to 100 mm thick", low=0.01, high=100),
        between("orientation", SOURCES, "orientation_error", "direction cosines are orthonormal", high=tolerance),
        *_only_warn(
            between("one-spacing-a-series", SOURCES, "series_spacings", "a series has one spacing", high=1),
            between("one-orientation-a-series", SOURCES, "series_orientations", "and one orientation", high=1),
            between("no-missing-slice", SOURCES, "series_gap_ratio", "no step is 1.5 times the median", high=1.5),
        ),
    )


def _scanner() -> Suite:
    return (
        always("modality-known", SOURCES, "modality_known", "the modality is one of PS3.3 that has images"),
        always("photometric-known", SOURCES, "photometric_known", "the photometric interpretation is a decoded one"),
        between("bits-stored", SOURCES, "bits_stored", "1 to 32 bits are stored", low=1, high=32),
        always("rescale-sane", SOURCES, "rescale_sane", "slope and intercept are numbers a scanner may mean"),
        always("ct-in-hounsfield", SOURCES, "ct_in_hounsfield", "a CT image is in Hounsfield units"),
        between(
            "ct-not-below-range", SOURCES, "ct_below_range_hu", "no CT value is below -3100 HU", high=0, mostly=0.9
        ),
        between("ct-not-above-range", SOURCES, "ct_above_range_hu", "or above 32767 HU", high=0),
        between("source-age-plausible", SOURCES, "age_years", "an age is 0 to 120 years", low=0, high=120),
        *_only_warn(always("source-not-constant", SOURCES, "constant", "no frame is constant", value=False)),
    )


def _against_the_last() -> Suite:
    before = "every class looks as it did in the last accepted cohort"
    return (
        between("class-looks-as-before", LOOKS, "look_correlation", before, low=0.2),
        between("distribution-as-before", DRIFT, "drift", "no distribution moved by half", high=0.5),
        *_only_warn(
            between("labels-mean-something", LOOKS, "holdout_auc", "a class is told from its look", low=0.55),
            between("distribution-drifts", DRIFT, "drift", "no distribution moved by 0.15", high=0.15),
        ),
    )


def _counts() -> Suite:
    return (
        between("class-count", CLASSES, "images", "every class has at least 2 images in every split", low=2),
        *_only_warn(between("class-balance", CLASSES, "share", "a class is at least 2 % of every split", low=0.02)),
    )
