"""Every network of `keras.applications`: read, merged, and of each family one pruned and exported.

One command, from the repository's root:

    python -m benchmarks.applications_benchmark

For each application two networks of random weights at the least size that it takes: which channels
can be regrouped, and why others cannot, and whether a merge that shares nothing computes the same.
Of a small member of every family also the merge `pam`, half of the computation removed, and the
file; of a transformer and a ConvNeXt also a quarter and half of all heads and channels. Each row
is kept as it comes, in a process of its own, and is not made again: call it again to go on.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import multiprocessing
import pathlib
import re
import resource
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks import results_io

_ONLY = flags.DEFINE_list("only", [], "Which applications; all where empty.")
_MEMORY = flags.DEFINE_float("memory_gib", 10.0, "Applications that need more are left out.")
_STAGES = flags.DEFINE_list("stages", ["read", "separate", "pam", "units"], "What is measured.")
_MINUTES = flags.DEFINE_float("minutes", 0.0, "Begins no further row after so long; 0: no limit.")
_WORK = flags.DEFINE_string("work_dir", "build/applications", "Rows that were made already.")
_OUTPUT = flags.DEFINE_string("output", "benchmarks/results", "Page's folder.")
_PAGE = flags.DEFINE_string("page", "docs/applications.md", "The page for readers.")

_KIB = 1 if sys.platform == "darwin" else 1024  # of the unit in which memory is told
_SAMPLES, _COMPARED = 64, 4
_COPIES = 10  # networks that a row has in memory at a time, as Keras and as data
_TOLERANCE = 1e-4
_REMOVED = (0.25, 0.5)


def measure_read(name: str, memory_gib: float) -> dict[str, Any]:
    """What is found in an application, read as it is: costs, channel spaces, what is frozen."""
    import tfmot_pam
    from benchmarks import applications
    from tfmot_pam.graph.channels import build_channel_graph
    from tfmot_pam.graph.reader import read

    del memory_gib
    model = applications.network(name)
    cost, graph = tfmot_pam.cost(model), build_channel_graph(read(model))
    spaces = [space for space in graph.spaces if not space.given]
    return {
        "side": applications.SIDES[name],
        "layers": len(model.layers),
        "parameters": cost.parameters,
        "macs": cost.macs,
        "uncounted": dict(collections.Counter(cost.unsupported.values())),
        "spaces": len(spaces),
        "channels": sum(len(space.channels) for space in spaces),
        "frozen": dict(collections.Counter(space.frozen for space in spaces if space.frozen)),
    }


def measure_separate(name: str, memory_gib: float) -> dict[str, Any]:
    """Whether the separate merge of two networks of an application is exact."""
    import tfmot_pam
    from benchmarks import applications

    models = applications.two_models(name)
    needed = 4 * _COPIES * models["a"].count_params() / 2**30
    if needed > memory_gib:
        return {"left out": f"needs about {needed:.0f} GiB, {memory_gib:.0f} were allowed"}
    x = applications.images(name, _COMPARED)
    models = {task: applications.alive(model, x) for task, model in models.items()}
    began = time.perf_counter()
    merged = tfmot_pam.merge(models, x, method="separate", compensation=False, verbose=0)
    return {
        "trunk frozen": dict(collections.Counter(merged.merge_plan.frozen.values())),
        "separate": _error(merged(x), {task: model(x) for task, model in models.items()}),
        "separate seconds": round(time.perf_counter() - began, 1),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / 2**30, 2),
    }


def measure_pam(name: str, memory_gib: float) -> dict[str, Any]:
    """The merge `pam` of an application, half of its computation removed, and the file."""
    import tfmot_pam
    from benchmarks import applications

    del memory_gib
    x = applications.images(name, _SAMPLES)
    models = {t: applications.alive(m, x) for t, m in applications.two_models(name).items()}
    began = time.perf_counter()
    merged = tfmot_pam.merge(models, x, samples=_SAMPLES, verbose=0)
    row = {"pam seconds": round(time.perf_counter() - began, 1)}
    if not all(np.isfinite(value).all() for value in merged(x[:_COMPARED]).values()):
        raise ValueError(f"The merge of {name} computes NaN or infinity.")
    alone = sum(tfmot_pam.cost(model).macs for model in models.values())
    row |= {
        "pam of originals": round(tfmot_pam.cost(merged).macs / alone, 4),
        "shared": round(merged.merge_plan.shared, 4),
    }
    return row | _without(merged, 0.5, x, measure="macs")[1]


def _without(merged, fraction: float, x: np.ndarray, **options) -> tuple[Any, dict[str, Any]]:
    """A merged model with a fraction removed, and how well that and its file were made."""
    import tfmot_pam

    gated = tfmot_pam.prune_channels(merged, fraction, "magnitude", **options)
    small = tfmot_pam.strip_pruning(gated)
    macs, expected = tfmot_pam.cost(small).macs, [_expected_macs(m) for m in (small, merged)]
    found = {
        "stripped": _error(small(x[:_COMPARED]), gated(x[:_COMPARED])),
        "left of pam": round(expected[0] / expected[1], 4),
        "as predicted": bool(abs(macs / _predicted_macs(gated) - 1.0) < 1e-9),
    }
    return small, found | _exported(tfmot_pam.strip_pruning(gated, data=x), x)


def measure_units(name: str, memory_gib: float) -> dict[str, Any]:
    """The merge `pam` with a quarter and with half of all heads and channels removed."""
    import keras

    import tfmot_pam
    from benchmarks import applications

    del memory_gib
    x = applications.images(name, _SAMPLES)
    models = {t: applications.alive(m, x) for t, m in applications.two_models(name).items()}
    merged, found = tfmot_pam.merge(models, x, samples=_SAMPLES, verbose=0), {}
    for share in _REMOVED:
        small, row = _without(merged, share, x, scope="per-layer")
        counts = {}
        for title, model in (("of", merged), ("left", small)):
            layers = [getattr(layer, "layer", layer) for layer in model.layers]
            heads = [f for f in layers if isinstance(f, keras.layers.MultiHeadAttention)]
            counts[f"heads {title}"] = sum(layer.get_config()["num_heads"] for layer in heads)
            counts[f"channels {title}"] = sum(
                layer.units for layer in layers if layer.name.startswith("up_")
            )
        found[f"{share:.0%}"] = row | counts
    return {"units": found}


def _expected_macs(model) -> float:
    """Mean MACs over the combinations: what `prune_channels` goes by."""
    import tfmot_pam

    return tfmot_pam.report(model).expected_macs


def _predicted_macs(gated) -> float:
    from tfmot_pam.graph.reader import read
    from tfmot_pam.pruning.costs import WidthCosts
    from tfmot_pam.pruning.gates import remove_gates

    ungated = remove_gates(read(gated))
    return WidthCosts(ungated.prunable()).macs(ungated.mask)


def _exported(model, x: np.ndarray) -> dict[str, Any]:
    """The file of all tasks, run and compared with the model."""
    import tflite_export

    with tempfile.TemporaryDirectory() as folder:
        (file,) = tflite_export.export(
            model,
            f"{folder}/out",
            combinations=[tuple(model.output)],
            mode="files",
            samples=x[:_COMPARED],
            verbose=0,
        )
    scale = max(float(np.abs(value).max()) for value in model(x[:_COMPARED]).values())
    return {"file": file.max_abs_error / scale, "file bytes": file.bytes}


def _error(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """The largest difference over the tasks, relative to the task's largest output."""
    pairs = [(np.asarray(found[task]), np.asarray(value)) for task, value in expected.items()]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


# By the entry of a row that tells that the stage was done. Those that failed are not done again.
STAGES = {
    "read": ("layers", measure_read),
    "separate": ("separate", measure_separate),
    "pam": ("file", measure_pam),
    "units": ("units", measure_units),
}


def attempt(stage: str, name: str, memory_gib: float) -> dict[str, Any]:
    """A stage of a row; what goes wrong is part of it."""
    try:
        return STAGES[stage][1](name, memory_gib)
    except Exception as error:
        return {f"{stage} failed": f"{type(error).__name__}: {error}"[:500]}


def jobs(
    rows: Mapping[str, Mapping[str, Any]],
    only: Sequence[str],
    stages: Sequence[str] = tuple(STAGES),
) -> list[tuple[str, str]]:
    """What is still to be measured: stage by stage, the families first."""
    from benchmarks import applications

    names = [name for name in applications.SIDES if not only or name in only]
    names.sort(key=lambda name: name not in applications.FAMILIES)
    of = {"pam": applications.FAMILIES, "units": applications.BLOCKS}
    found = []
    for stage in stages:
        done = {STAGES[stage][0], f"{stage} failed", *(["left out"] if stage != "read" else [])}
        found += [
            (stage, name)
            for name in names
            if not done & {*rows.get(name, {})} and (stage not in of or name in of[stage])
        ]
    return found


def main(argv):
    del argv
    results_io.one_thread()
    path, began = pathlib.Path(_WORK.value, "rows.json"), time.monotonic()
    kept = results_io.read_raw(path, {})
    with contextlib.ExitStack() as readers:
        reader = readers.enter_context(_worker())
        for stage, name in jobs(kept, _ONLY.value, _STAGES.value):
            if _MINUTES.value and time.monotonic() - began > 60 * _MINUTES.value:
                break
            # Merges have processes of their own: the peak of one must not be that of another.
            with contextlib.nullcontext(reader) if stage == "read" else _worker() as worker:
                found = worker.submit(attempt, stage, name, _MEMORY.value).result()
            kept[name] = {**kept.get(name, {}), **found}
            results_io.write_raw(path, kept)
            write_page(kept)
            print(stage, name, found, flush=True)
    write_page(kept)


def _worker() -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(
        1, context, initializer=results_io.end_with_parent
    )


def write_page(rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the numbers, and the page for readers."""
    from benchmarks import applications

    names = [name for name in applications.SIDES if name in rows]
    undone = {
        stage: [name for found, name in jobs(rows, [], [stage]) if found == stage]
        for stage in STAGES
    }
    parts = [
        "# Networks of `keras.applications`",
        "Made by `python -m benchmarks.applications_benchmark`, which goes on where it stopped. "
        "Two networks of each with random weights, at the least image size that it takes, and "
        "heads of 7 and 5 classes; a small vision transformer and a small ConvNeXt of our own "
        "come last. *Separate*: the largest difference between the outputs of "
        '`merge(method="separate")` and of the originals, as a share of the largest output. '
        "*Pam*: MACs of `merge()` for both tasks, as a share of both originals. *Half pruned*: "
        "what is left of its expected MACs (the mean over the combinations) after "
        '`prune_channels(0.5, measure="macs")`, and how far the stripped model is from the '
        "masked one. *File*: how far the TFLite file is from the stripped model. Pam, half pruned "
        "and file are measured on one small member of each family.",
        results_io.markdown_table([told(name, rows[name]) for name in names]) if names else "",
        *units_part({name: rows[name]["units"] for name in names if "units" in rows[name]}),
        *(
            f"*{stage.capitalize()}* is still to be measured of {', '.join(left)}."
            for stage, left in undone.items()
            if left
        ),
    ]
    text = "\n\n".join(part for part in parts if part)
    numbers = [numbers_of(name, rows[name]) for name in names]
    results_io.write(_OUTPUT.value, "applications", text, numbers, show=False)
    pathlib.Path(_PAGE.value).write_text(text + "\n", encoding="utf-8")


def numbers_of(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the CSV: counts of what is frozen or uncounted, whose reasons are on the page."""
    counted = ("frozen", "trunk frozen", "uncounted")
    counts = {key: sum(row[key].values()) for key in counted if key in row}
    return {"application": name, **row, **counts}


def units_part(units: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The part of the page on heads and channels that were removed by their number."""
    rows = [
        {
            "model": name,
            "removed": share,
            "heads left": f"{row['heads left']} of {row['heads of']}" if row["heads of"] else "",
            "MLP channels left": f"{row['channels left']} of {row['channels of']}",
            "MACs left": _share(row, "left of pam"),
            "stripped": _told_stripped(row),
            "file": f"{row['file']:.0e}",
        }
        for name, shares in units.items()
        for share, row in shares.items()
    ]
    if not rows:
        return []
    return [
        "## Heads and channels of perceptrons",
        "The merge `pam` of two transformers and of two ConvNeXts, after "
        '`prune_channels(0.25, scope="per-layer")` and `prune_channels(0.5, scope="per-layer")`: '
        "what is left, how far the stripped model is from the masked one, and the file from the "
        "stripped model.",
        results_io.markdown_table(rows),
    ]


def _told_stripped(row: Mapping[str, Any]) -> str:
    return f"{row['stripped']:.0e}{'' if row['as predicted'] else ' (not the MACs predicted)'}"


def told(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the page."""
    failed = row.get("read failed") or row.get("separate failed") or row.get("left out")
    exact = row.get("separate")
    return {
        "application": name,
        "side": row.get("side", ""),
        "parameters": f"{row['parameters'] / 1e6:.1f} M" if "parameters" in row else "",
        "channel spaces": row.get("spaces", ""),
        "frozen, and why": "; ".join(f"{n}: {why}" for why, n in _by_kind(row).items())
        or ("none" if "frozen" in row else ""),
        "separate": failed or ("" if exact is None else _told_error(exact)),
        "pam": row.get("pam failed") or _share(row, "pam of originals"),
        "half pruned": f"{_share(row, 'left of pam')}, {_told_stripped(row)}"
        if "stripped" in row
        else "",
        "file": f"{row['file']:.0e}" if "file" in row else "",
    }


def _by_kind(row: Mapping[str, Any]) -> dict[str, int]:
    """How many spaces are frozen for each reason, the layers' names left out."""
    found = collections.Counter()
    for why, count in row.get("frozen", {}).items():
        found[re.sub(r" '[^']*'", "", why)] += count
    return dict(found)


def _told_error(error: float) -> str:
    if error == 0.0:
        return "the same"
    return f"{error:.0e}{'' if error <= _TOLERANCE else ' (not exact)'}"


def _share(row: Mapping[str, Any], key: str) -> str:
    return f"{100 * row[key]:.0f} %" if key in row else ""


if __name__ == "__main__":
    app.run(main)
