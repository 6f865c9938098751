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
_LONGEST_FIRST: Final = sorted({word for words in _WORDS.values() for word in words.split()}, key=len, reverse=True)
_WORD: Final = re.compile("|".join(_LONGEST_FIRST))
_RUN: Final = re.compile(f"(?:{_WORD.pattern}|AND|OF|JOINT|LEFT|RIGHT|STRUCTURE)+")


def regions(words: Iterable[str]) -> frozenset[str]:
    """The regions that body parts name; empty where a word is not known, for then it may be any."""
    found: set[str] = set()
    for word in words:
        letters = re.sub(r"[^A-Z]", "", word.upper())
        if letters and not _RUN.fullmatch(letters):
            return frozenset()
        found.update(region for one in _WORD.findall(letters) for region in _WORDS if one in _WORDS[region].split())
    return frozenset(found)


def of_header(dataset: Any) -> frozenset[str]:
    """The regions by BodyPartExamined, or where it says nothing by AnatomicRegionSequence; empty where neither does."""
    with quietly():
        try:
            part = str(dataset.get("BodyPartExamined") or "")
            coded = [str(item.get("CodeMeaning") or "") for item in dataset.get("AnatomicRegionSequence") or ()]
        except Exception:  # noqa: BLE001 - pydicom converts lazily and raises whatever the bytes provoke
            return frozenset()
    return regions([part]) or regions(coded)
