"""The user's data: every accepted form in, arrays or batches per task out."""

from tfmot_pam.data.batches import Batches, open_batches
from tfmot_pam.data.forms import (
    Samples,
    TaskSamples,
    as_form,
    read_arrays,
    tasks_with_gaps,
)
from tfmot_pam.data.missing import counted, missing
from tfmot_pam.data.reading import read_all
from tfmot_pam.data.sampling import take_samples
from tfmot_pam.data.synthetic import input_statistics, synthetic_inputs

__all__ = [
    "Batches",
    "Samples",
    "TaskSamples",
    "as_form",
    "counted",
    "input_statistics",
    "missing",
    "open_batches",
    "read_all",
    "read_arrays",
    "synthetic_inputs",
    "take_samples",
    "tasks_with_gaps",
]
