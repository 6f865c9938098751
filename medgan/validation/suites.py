"""The suites that a cohort must pass, with defaults for every modality. Severity: stop, or warn.

Intensities are in units of the window (0 its lower end, 1 its upper). The limits were chosen on the 5,002 distinct
radiographs of the sample and hold there with room; a site's TOML file moves them.
"""

from __future__ import annotations

from dataclasses import replace

from medgan.validation.rules import Rule, Severity, Suite, always, between

IMAGES, CLASSES = "images", "classes"


def cohort_suite(columns: frozenset[str]) -> Suite:
    """Every rule about a cohort whose facts are among `columns`."""
    rules = (*_table(), *_pixels(), *_leakage(), *_counts())
    return tuple(rule for rule in rules if rule.about != IMAGES or rule.column in columns)


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
            between("not-cropped", IMAGES, "blank_border", "few rows and columns are blank", high=0.3, mostly=0.98),
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


def _counts() -> Suite:
    return (
        between("class-count", CLASSES, "images", "every class has at least 2 images in every split", low=2),
        *_only_warn(between("class-balance", CLASSES, "share", "a class is at least 2 % of every split", low=0.02)),
    )
