"""The user's data: every accepted form in, arrays or batches per task out."""

from tfmot_pam.data.batches import Batches, open_batches
from tfmot_pam.data.forms import as_form, heads_with_gaps, read_arrays
from tfmot_pam.data.missing import counted, missing
from tfmot_pam.data.reading import read_all
from tfmot_pam.data.samples import HeadSamples, Samples
from tfmot_pam.data.sampling import take_samples
from tfmot_pam.data.synthetic import input_statistics, synthetic_inputs

__all__ = [
    "Batches",
    "HeadSamples",
    "Samples",
    "as_form",
    "counted",
    "heads_with_gaps",
    "input_statistics",
    "missing",
    "open_batches",
    "read_all",
    "read_arrays",
    "synthetic_inputs",
    "take_samples",
]
