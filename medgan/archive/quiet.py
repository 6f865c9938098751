"""Keep third-party readers from saying what they read.

pydicom and Pillow quote header values in warnings and log lines ("Invalid value for VR UI: ..."),
which end on a terminal or in Prefect's database. Inside `quietly()` none of it is said; what is
wrong with a file is said by our own reason codes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pydicom import config

_SPEAKERS: Final = ("pydicom", "PIL", "tifffile", "pynetdicom")
_NOTHING: Final = logging.CRITICAL + 1


@contextmanager
def quietly() -> Iterator[None]:
    """Silence warnings and the readers' loggers, and accept values that break their VR, for this block.

    By level, which a reader's own loggers inherit (Pillow's name each EXIF value); `disabled` is for one logger alone.
    """
    loggers = [logging.getLogger(name) for name in _SPEAKERS]
    before = [logger.level for logger in loggers]
    validation = config.settings.reading_validation_mode
    try:
        for logger in loggers:
            logger.setLevel(_NOTHING)
        config.settings.reading_validation_mode = config.IGNORE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.settings.reading_validation_mode = validation
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
