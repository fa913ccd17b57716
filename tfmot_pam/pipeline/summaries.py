"""The rounds of a compression as TensorBoard scalars."""

from __future__ import annotations

import os
import pathlib
from typing import Any

from tfmot_pam.pipeline.result import Round
from tfmot_pam.pruning.callbacks import write_scalars


class RoundSummaries:
    """Writes every round of one search as it comes, the round's number as the step.

    `compress/share` is the expected cost as a share of the originals', `compress/accepted` 1 or 0,
    `compress/used` what the worst task has used of its tolerance; `compress/accuracy/<task>` and
    `compress/lost/<task>` are those of the validation data.

    Args:
        log_dir: The folder of all searches' event files.
        label: What the search is called: a folder of its own, so that curves lie over each other.
    """

    def __init__(self, log_dir: str | os.PathLike[str], label: str):
        self._folder = pathlib.Path(log_dir) / label
        self._writer: Any = None

    def __call__(self, row: Round) -> None:
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder))
        values = {"share": row.share, "accepted": float(row.accepted), "used": row.ratio}
        values |= {f"accuracy/{mark}": value for mark, value in row.accuracy.items()}
        values |= {f"lost/{mark}": value for mark, value in row.lost.items()}
        write_scalars(self._writer, {f"compress/{n}": v for n, v in values.items()}, row.number)
        self._writer.flush()
