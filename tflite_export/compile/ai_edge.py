"""Quantises float32 files with ai-edge-quantizer, a package that need not be installed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tflite_export.silence import quiet_stderr


def check_installed() -> None:
    """Raises a ValueError if ai-edge-quantizer is not installed."""
    if importlib.util.find_spec("ai_edge_quantizer") is None:
        raise ValueError(
            "quantizer='ai-edge-quantizer' needs the package ai-edge-quantizer. Received: an "
            "environment without it. Install it with pip install 'tfmot-pam[ai-edge-quantizer]', "
            "or take quantizer='converter'."
        )


def _float16(recipe: Any) -> None:
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    recipe.add_weight_only_config(
        ".*", TFLOperationName.ALL_SUPPORTED, 16, algorithm_key=AlgorithmName.FLOAT_CASTING
    )


def _dynamic(recipe: Any) -> None:
    from ai_edge_quantizer.qtyping import TFLOperationName

    recipe.add_dynamic_config(".*", TFLOperationName.ALL_SUPPORTED, 8)


def _int8(recipe: Any) -> None:
    from ai_edge_quantizer.qtyping import TFLOperationName

    recipe.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, 8, 8)


def _int16x8(recipe: Any) -> None:
    from ai_edge_quantizer.qtyping import TFLOperationName

    recipe.add_static_config(".*", TFLOperationName.ALL_SUPPORTED, 16, 8)


# By quantization: adds what is to be done to an ai_edge_quantizer RecipeManager.
RECIPES: Mapping[str, Callable[[Any], None]] = MappingProxyType(
    {"float16": _float16, "dynamic": _dynamic, "int8": _int8, "int16x8": _int16x8}
)


def quantize(
    quantization: str,
    content: bytes,
    signature: str,
    samples: Mapping[str, np.ndarray] | None,
    integer_io: bool,
) -> bytes:
    """Quantises a float32 file of one signature.

    Use it on a file as the converter writes it, before `packing.pack`: the package tells tensors
    apart by their names, which packing shortens.

    Args:
        quantization: A key of `RECIPES`.
        content: The file.
        signature: The name of its signature.
        samples: Representative inputs by name, each of shape `(n, ...)`, where the recipe is one
            with ranges of activations; otherwise None.
        integer_io: Whether inputs and outputs become integers, where activations do.

    Returns:
        The quantised file.

    Raises:
        ValueError: The package cannot quantise the file.
    """
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    RECIPES[quantization](recipe)
    try:
        with _quiet():
            ranges = None
            if samples is not None:
                if not integer_io:
                    _keep_interface(recipe)
                ranges = _ranges(content, signature, samples, recipe)
            work = quantizer.Quantizer(bytearray(content), recipe.get_quantization_recipe())
            result = work.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"ai-edge-quantizer cannot quantise '{signature}' to {quantization!r} ({error}). Take "
            "quantizer='converter'."
        ) from error
    return bytes(result.quantized_model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Discards progress, and LiteRT's warning of the memory that keeping all tensors takes."""
    sink = io.StringIO()
    redirected = contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink)
    with quiet_stderr(), redirected[0], redirected[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _keep_interface(recipe: Any) -> None:
    """Leaves inputs and outputs in floating point."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    for side in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
        recipe.add_quantization_config(".*", side, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _ranges(
    content: bytes, signature: str, samples: Mapping[str, np.ndarray], recipe: Any
) -> dict[str, Any]:
    """The least and the greatest value of every tensor over all samples.

    The package's own choice is a moving average of the samples' ranges, which cuts off what lies
    beyond.
    """
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    count = len(next(iter(samples.values())))
    rows = [
        {name: values[index : index + 1] for name, values in samples.items()}
        for index in range(count)
    ]
    calibrator = Calibrator(content, num_threads=1, qsv_update_func=min_max_update)
    calibrator.calibrate({signature: rows}, recipe)
    return calibrator.get_model_qsvs()
