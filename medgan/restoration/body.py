"""Which regions of the body an image shows, by its header: what a restorer learned from a head is no use on a knee.

Words are those of PS3.16 2026c Annex L (BodyPartExamined), run together as they are there (`CHESTABDPELVIS`), and the
meanings of codes (`Thoracic spine`). A word that is not among them says nothing, nor does the whole body.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from medgan.archive.quiet import quietly

_WORDS: Final = {
    "head": "HEAD SKULL BRAIN CEREBRUM CEREBRAL CEREBELLUM CRANIUM CRANIAL INTRACRANIAL BRAINSTEM FACE FACIAL ORBIT "
    "EYE EYES EAR IAC SINUS SINUSES PARANASALSINUS NASAL NOSE JAW MANDIBLE MAXILLA MOUTH TEETH TOOTH TMJ ZYGOMA SELLA "
    "PITUITARY PAROTID TEMPORALBONE POSTERIORFOSSA CIRCLEOFWILLIS",
    "neck": "NECK CERVICAL CAROTID THYROID PARATHYROID LARYNX PHARYNX NASOPHARYNX TRACHEA",
    "chest": "CHEST THORAX THORACIC LUNG HEART CARDIAC CORONARYARTERY CORONARY MEDIASTINUM RIB RIBS STERNUM CLAVICLE "
    "SCAPULA ESOPHAGUS BRONCHUS THORACICAORTA THYMUS",
    "breast": "BREAST BREASTS MAMMARY",
    "abdomen": "ABDOMEN ABDOMINAL ABD LIVER PANCREAS SPLEEN KIDNEY STOMACH COLON ADRENAL GALLBLADDER BILEDUCT DUODENUM "
    "SMALLINTESTINE LARGEINTESTINE INTESTINE APPENDIX URETER ABDOMINALAORTA",
    "pelvis": "PELVIS PELVIC PELV BLADDER PROSTATE UTERUS OVARY RECTUM CERVIX SCROTUM TESTIS PENIS HIP SIJOINT SACRUM "
    "SACROILIAC COCCYX",
    "spine": "SPINE CSPINE TSPINE LSPINE SSPINE LSSPINE TLSPINE CTSPINE VERTEBRA LUMBAR SPINALCORD",
    "arm": "ARM UPPERARM UPPERLIMB UPPEREXTREMITY FOREARM HUMERUS ELBOW RADIUS ULNA RADIUSULNA WRIST HAND FINGER THUMB "
    "SHOULDER ACJOINT EXTREMITY",
    "leg": "LEG LOWERLEG LOWERLIMB LOWEREXTREMITY THIGH CALF FEMUR KNEE PATELLA TIBIA FIBULA TIBIAFIBULA ANKLE "
    "CALCANEUS FOOT TOE EXTREMITY",
}
_KNOWN: Final = {
    **dict.fromkeys(("AND", "OF", "JOINT", "LEFT", "RIGHT", "STRUCTURE"), frozenset[str]()),
    **{
        word: frozenset(region for region in _WORDS if word in _WORDS[region].split())
        for words in _WORDS.values()
        for word in words.split()
    },
}
_MOST_LETTERS: Final = 64
"""A meaning has no more characters, a code string 16 (PS3.5 Table 6.2-1)."""


def regions(words: Iterable[str]) -> frozenset[str]:
    """The regions that body parts name; empty where a word is not known, for then it may be any."""
    named = [_named(re.sub(r"[^A-Z]", "", word.upper())) for word in words]
    return frozenset[str]().union(*(one or () for one in named)) if None not in named else frozenset()


def _named(letters: str) -> frozenset[str] | None:
    """The regions of words run together; None where the letters are not all of known ones.

    From each place that known words reach, once: reading backwards and forwards takes 2^n steps for a hostile header.
    """
    if len(letters) > _MOST_LETTERS:
        return None
    reached: dict[int, frozenset[str]] = {0: frozenset()}
    for start in range(len(letters)):
        for word, shown in _KNOWN.items() if start in reached else ():
            if letters.startswith(word, start):
                reached.setdefault(start + len(word), reached[start] | shown)
    return reached.get(len(letters))


def of_header(dataset: Any) -> frozenset[str]:
    """The regions by BodyPartExamined, or where it says nothing by AnatomicRegionSequence; empty where neither does."""
    for words in (_part, _coded):
        with quietly():
            try:
                shown = regions(words(dataset))
            except Exception:  # noqa: BLE001 - pydicom converts lazily and raises whatever the bytes provoke
                shown = frozenset()
        if shown:
            return shown
    return frozenset()


def _part(dataset: Any) -> list[str]:
    return [str(dataset.get("BodyPartExamined") or "")]


def _coded(dataset: Any) -> list[str]:
    return [str(item.get("CodeMeaning") or "") for item in dataset.get("AnatomicRegionSequence") or ()]
