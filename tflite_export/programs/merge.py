r"""Merges trained Keras models into one model in which every combination of tasks runs alone.

Writes model.keras, plan.json (which channel belongs to which tasks), report.json and report.csv.

Examples:
tfmot-pam merge --model=digit=digit.keras --model=speaker=speaker.keras --data=train.npz \
    --output_dir=merged
tfmot-pam merge --model=merged/model.keras --model=mood=mood.keras --data=train.npz --epochs=12 \
    --output_dir=wider
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from tflite_export.programs import options
from tflite_export.programs.data_files import load_data
from tflite_export.programs.running import main_of


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the command's flags: in a function, so that importing this module defines none."""
    own: dict[str, Any] = {"flag_values": values}
    options.define_models(values)
    options.define_data(values)
    flags.DEFINE_string("output_dir", None, "The folder to write.", **own)
    flags.DEFINE_string(
        "method",
        "pam",
        "pam, pam-paper, shared, separate, random, mtz or zip; see docs/guide.md.",
        **own,
    )
    flags.DEFINE_enum(
        "width",
        "own",
        ["own", "union"],
        "own: no combination costs more than its originals. union: all channels of all models.",
        **own,
    )
    flags.DEFINE_float(
        "rho", None, "Threshold as a share of a task's relevance: larger shares less.", **own
    )
    flags.DEFINE_float("share", None, "Share of channels that several tasks shall need.", **own)
    flags.DEFINE_integer("samples", 1024, "Calibration samples a task.", **own)
    flags.DEFINE_string("plan", None, "A plan.json to replay instead of deciding anew.", **own)
    flags.DEFINE_integer(
        "epochs", 0, "Epochs of distillation from the models after the merge.", **own
    )
    flags.DEFINE_bool("overwrite", False, "Whether files in the folder may be replaced.", **own)
    options.define_run(values)
    flags.mark_flags_as_required(["output_dir"], flag_values=values)


def _merge(values: flags.FlagValues) -> None:
    folder = options.folder_to_write(
        values.output_dir, ours=values.overwrite, remedy=", or pass --overwrite"
    )
    models = options.load_models(values.model)
    data = _data(values, models)

    import tfmot_pam

    plan = None if values.plan is None else tfmot_pam.MergePlan.load(values.plan)
    merged = tfmot_pam.merge(
        models,
        data,
        method=values.method,
        width=values.width,
        rho=values.rho,
        share=values.share,
        samples=values.samples,
        plan=plan,
        seed=values.seed,
        verbose=values.verbose,
    )
    merge_plan = merged.merge_plan
    if values.epochs:
        merged = tfmot_pam.fine_tune(
            merged, data, models, values.epochs, seed=values.seed, verbose=values.verbose
        )
    folder.mkdir(parents=True, exist_ok=True)
    merged.save(folder / "model.keras", overwrite=True)
    merge_plan.save(folder / "plan.json", overwrite=True)
    report = tfmot_pam.report(merged, originals=_originals(models))
    report.to_json(folder / "report.json", overwrite=True)
    report.to_csv(folder / "report.csv", overwrite=True)
    sys.stdout.write(f"{report}\n")


def _data(values: flags.FlagValues, models: Any) -> Any:
    """The data set, or None where none is named."""
    if values.data is None:
        if values.epochs:
            raise ValueError("--epochs trains on --data, and there is none. Pass both, or neither.")
        return None
    return load_data(values.data, options.wanted_of(models), options.data_options(values))


def _originals(models: Any) -> dict[str, Any]:
    """The models by task; of one that was merged before, the part of the task."""
    from tfmot_pam import select_tasks
    from tfmot_pam.pipeline.inputs import originals_by_task

    return {
        task: select_tasks(model, [task]) if _several(model) else model
        for task, model in originals_by_task(models).items()
    }


def _several(model: Any) -> bool:
    return isinstance(model.output, Mapping) and len(model.output) > 1


main = main_of(_merge)
