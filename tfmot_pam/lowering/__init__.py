"""Writes layers in other pieces: the same outputs, for speed on a device or to be merged again.

A merged network computes each layer in groups of channels, in whatever widths pruning left. Four
pure functions from `Network` to `Network` write it otherwise:

* `fold_batch_norm`: the scale and shift of a normalisation go into the layer before it;
* `fuse`: the groups of a layer become one layer again, with zeros where a group does not read a
  channel;
* `split_sums`: a layer over concatenated channels becomes a sum of layers over the parts;
* `pad_channels`: widths that a kernel computes slowly are filled up with channels of zeros.
"""

from __future__ import annotations

from tfmot_pam.lowering.folding import fold_batch_norm as fold_batch_norm
from tfmot_pam.lowering.parts import PaddableLayer as PaddableLayer
from tfmot_pam.lowering.parts import fusable_levels as fusable_levels
from tfmot_pam.lowering.parts import paddable_layers as paddable_layers
from tfmot_pam.lowering.parts import splittable_nodes as splittable_nodes
from tfmot_pam.lowering.rewriting import LOWERED as LOWERED
from tfmot_pam.lowering.rewriting import CannotLowerError as CannotLowerError
from tfmot_pam.lowering.rewriting import fuse as fuse
from tfmot_pam.lowering.rewriting import pad_channels as pad_channels
from tfmot_pam.lowering.rewriting import split_sums as split_sums
