"""Pruning-aware merging of trained Keras models into one multitask network."""

from tfmot_pam.closed_form.compensate import Compensation as Compensation
from tfmot_pam.graph.cost import cost as cost
from tfmot_pam.graph.registry import register_layer_rule as register_layer_rule
from tfmot_pam.graph.rules import Axes as Axes
from tfmot_pam.graph.rules import LayerRule as LayerRule
from tfmot_pam.graph.selection import combinations as combinations
from tfmot_pam.graph.selection import select_tasks as select_tasks
from tfmot_pam.graph.tf_keras.conversion import LayerConversion as LayerConversion
from tfmot_pam.graph.tf_keras.conversion import (
    register_layer_conversion as register_layer_conversion,
)
from tfmot_pam.graph.tf_keras.convert import from_tf_keras as from_tf_keras
from tfmot_pam.graph.tf_keras.convert import to_tf_keras as to_tf_keras
from tfmot_pam.merging.merge import merge as merge
from tfmot_pam.merging.methods import MergeMethod as MergeMethod
from tfmot_pam.merging.methods import SpaceDecision as SpaceDecision
from tfmot_pam.merging.mtz import mtz_method as mtz_method
from tfmot_pam.merging.plan import MergePlan as MergePlan
from tfmot_pam.merging.regrouping import channel_task_sets as channel_task_sets
from tfmot_pam.merging.regrouping import regroup as regroup
from tfmot_pam.merging.zip import zip_method as zip_method
from tfmot_pam.metrics.metric import Metric as Metric
from tfmot_pam.pipeline.arms import Arm as Arm
from tfmot_pam.pipeline.arms import ArmPart as ArmPart
from tfmot_pam.pipeline.arms import ArmStart as ArmStart
from tfmot_pam.pipeline.compress import compress as compress
from tfmot_pam.pipeline.portfolio import Portfolio as Portfolio
from tfmot_pam.pipeline.result import ArmResult as ArmResult
from tfmot_pam.pipeline.result import CompressionResult as CompressionResult
from tfmot_pam.pruning.callbacks import PruningSummaries as PruningSummaries
from tfmot_pam.pruning.callbacks import UpdatePruningStep as UpdatePruningStep
from tfmot_pam.pruning.history import PruningHistory as PruningHistory
from tfmot_pam.pruning.importance import Evidence as Evidence
from tfmot_pam.pruning.importance import Importance as Importance
from tfmot_pam.pruning.prune import prune_channels as prune_channels
from tfmot_pam.pruning.prune import strip_pruning as strip_pruning
from tfmot_pam.reporting.report import report as report
from tfmot_pam.task_group import TaskGroup as TaskGroup
from tfmot_pam.tfmot_bridge.clustering import cluster_weights as cluster_weights
from tfmot_pam.tfmot_bridge.pruning import prune_low_magnitude as prune_low_magnitude
from tfmot_pam.tfmot_bridge.pruning import strip_wrappers as strip_wrappers
from tfmot_pam.tfmot_bridge.quantization import quantize_model as quantize_model
from tfmot_pam.tfmot_bridge.quantization import quantize_scope as quantize_scope
from tfmot_pam.tfmot_bridge.sparsity import KeepSparsity as KeepSparsity
from tfmot_pam.training.fine_tune import fine_tune as fine_tune
