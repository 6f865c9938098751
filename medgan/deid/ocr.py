"""The eyes for burned-in text: rapidocr, its models in its wheel, on one thread and without a word."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    Engine = Callable[[NDArray[np.uint8]], Any]


def engine(*, finds: bool, reads: bool, settings: Mapping[str, Any] | None = None) -> Engine:
    """What finds lines in an (H, W, 3) picture, or reads one; made once, because loading its models takes a second."""
    from rapidocr import RapidOCR

    fixed = {
        "Global.log_level": "error",
        "Global.use_det": finds,
        "Global.use_cls": False,
        "Global.use_rec": reads,
        "EngineConfig.onnxruntime.intra_op_num_threads": 1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    made = RapidOCR(params={**fixed, **(settings or {})})

    def look(picture: NDArray[np.uint8]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return made(picture, use_det=finds, use_cls=False, use_rec=reads)

    return look
