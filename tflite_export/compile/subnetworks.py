"""What is exported: the networks of the chosen combinations, and what they compute in Keras."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.compile.model_inputs import called, inputs_of
from tflite_export.compile.packing import LIMIT
from tflite_export.compile.samples import count

if TYPE_CHECKING:
    import keras

    from tfmot_pam.graph.network import Network
    from tfmot_pam.graph.sizes import InputShape

_KERAS_BATCH = 32
_SIGNATURE_NAME = r"[A-Za-z0-9.][A-Za-z0-9_.-]*"


def exportable(model: Any, input_shape: InputShape | None = None) -> keras.Model:
    """Returns a functional model with a dict of outputs, checked to fit into TFLite files.

    Args:
        model: What the user passed.
        input_shape: The size of its input, of a model that takes any; of several a dict by name.

    Returns:
        A functional model of the same layers and weights, called on a bare tensor, or on a dict of
        several by name. A single output is keyed by the name of the output layer. It is of Keras 3,
        except that a model after quantisation aware training stays one of tf_keras, where TFMOT's
        layers live.

    Raises:
        TypeError: `model` is not a functional or sequential model of either Keras.
        ValueError: It is not built, it has an input of unknown size or with a name that TensorFlow
            cannot write, or a weight that is not finite; or Keras runs on another backend than
            TensorFlow.
    """
    import keras

    from tfmot_pam.graph import reader
    from tfmot_pam.graph.generation import as_keras
    from tfmot_pam.graph.tf_keras import reader as tf_keras_reader

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "TFLite files are made by TensorFlow. Received: a model on the Keras backend "
            f"'{keras.backend.backend()}'. Save it, and load it with KERAS_BACKEND=tensorflow."
        )
    if is_quantization_aware(model):
        tf_keras_reader.check_model(model, "`model`", quantized=True)
    else:
        model = as_keras(model, "`model`")
        reader.check_model(model, "`model`")
        model = _of_fixed_form(model, input_shape)
    inputs = model.inputs[0] if len(model.inputs) == 1 else inputs_of(model)
    model = _model_class(model)(inputs, _outputs_by_task(model), name=model.name)
    _check_inputs(model)
    for variable in model.weights:
        if not np.isfinite(np.asarray(variable.numpy(), dtype=np.float64)).all():
            raise ValueError(
                f"The weights must be finite. Received: NaN or infinity in "
                f"'{getattr(variable, 'path', variable.name)}' of model "
                f"'{model.name}'. Train the model again; it diverged."
            )
    return model


def _of_fixed_form(model: Any, input_shape: InputShape | None) -> Any:
    """A model at one size and, whatever precision it was trained in, in float32."""
    from tfmot_pam.graph.emitter import emit
    from tfmot_pam.graph.precision import in_float32, is_in_float32
    from tfmot_pam.graph.reader import read
    from tfmot_pam.graph.sizes import sized

    network = read(model)
    if input_shape is not None:
        network = sized(network, input_shape)
    elif is_in_float32(network) and len(network.inputs) == 1:
        return model
    # Several inputs are called what the model's dict calls them.
    return emit(in_float32(network))


def is_quantization_aware(model: Any) -> bool:
    """Tells whether a model was prepared for TFMOT's quantisation aware training."""
    from tfmot_pam.graph.generation import is_tf_keras
    from tfmot_pam.graph.tf_keras import wrappers

    return is_tf_keras(model) and wrappers.is_quantization_aware(model)


def network_of(model: Any) -> Network:
    """Reads a model as data; of one after quantisation aware training, the network within.

    Args:
        model: A model that `exportable` returned.
    """
    from tfmot_pam.graph.generation import is_tf_keras
    from tfmot_pam.graph.reader import read
    from tfmot_pam.graph.tf_keras import reader as tf_keras_reader

    return tf_keras_reader.read(model, quantized=True) if is_tf_keras(model) else read(model)


def choose_combinations(
    tasks: Iterable[str], combinations: str | Iterable[str | Iterable[str]]
) -> list[tuple[str, ...]]:
    """Returns the combinations to export, each in model order.

    Args:
        tasks: The tasks that there are, in model order.
        combinations: `"all"`, or a list whose entries are sequences of task names, or strings of
            names joined with "+".

    Raises:
        TypeError: `combinations` or an entry is of another type.
        ValueError: It is empty, has an empty entry, or names a task that the model lacks.
    """
    from tfmot_pam.graph.selection import all_combinations

    known = tuple(tasks)
    if isinstance(combinations, str) and combinations == "all":
        return all_combinations(known)
    if isinstance(combinations, str) or not isinstance(combinations, Iterable):
        raise TypeError(
            f"`combinations` must be 'all' or a list of combinations. Received: {combinations!r}. "
            f"Pass a list such as {[known[0]]!r}."
        )
    chosen = [_one_combination(known, combination) for combination in combinations]
    if not chosen:
        raise ValueError("`combinations` is empty. Name at least one combination, or pass 'all'.")
    return list(dict.fromkeys(chosen))


def signature_names(combinations: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Names each combination's signature, and file: its tasks joined with "+".

    What a file system or the "+" forbids within a task's name becomes %XX.

    Args:
        combinations: Tuples of task names.

    Returns:
        Combinations by name, in the same order.

    Example:
    >>> signature_names([("digit",), ("digit", "edge/map")])
    {'digit': ('digit',), 'digit+edge%2Fmap': ('digit', 'edge/map')}
    """
    from tfmot_pam.graph.selection import file_name

    return {file_name(tasks): tuple(tasks) for tasks in combinations}


def shared_models(
    model: keras.Model, combinations: Mapping[str, Sequence[str]]
) -> dict[str, keras.Model]:
    """Returns the networks of combinations, which share the layers and weights of `model`.

    All have the same name, so that equal operations of different networks have equal names too.

    Args:
        model: A model that `exportable` returned.
        combinations: Tasks by name of the network.
    """
    from tfmot_pam.graph.heads import input_names
    from tfmot_pam.graph.selection import select

    build, inputs, network = _model_class(model), inputs_of(model), None
    found = {}
    for name, tasks in combinations.items():
        own = inputs
        if len(inputs) > 1:
            network = network or network_of(model)
            own = {key: inputs[key] for key in input_names(select(network, tasks))}
        given = next(iter(own.values())) if len(inputs) == 1 else own
        found[name] = build(given, {task: model.output[task] for task in tasks}, name="network")
    return found


def keras_outputs(network: keras.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs a network with a dict of outputs in Keras.

    Args:
        network: A functional model with a dict of outputs.
        inputs: Inputs by name, each of shape `(n, ...)`.

    Returns:
        Outputs by head, each of shape `(n, ...)`.

    Raises:
        ValueError: An output is NaN or infinite.
    """
    import keras

    batches = [
        called(network, {name: a[start : start + _KERAS_BATCH] for name, a in inputs.items()})
        for start in range(0, count(inputs), _KERAS_BATCH)
    ]
    outputs = {
        head: np.concatenate([keras.ops.convert_to_numpy(batch[head]) for batch in batches])
        for head in batches[0]
    }
    for task, values in outputs.items():
        if not np.isfinite(values).all():
            raise ValueError(
                f"The Keras model's own output for '{task}' holds NaN or infinity, so no file can "
                "be checked against it. Try real inputs (samples), or repair the model."
            )
    return outputs


def exact_outputs(network: Network, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a network computes in double precision, by head.

    Args:
        network: What `network_of` read.
        inputs: Inputs by name, each of shape `(n, ...)`.
    """
    from tfmot_pam.graph.network import iterate_tensors
    from tfmot_pam.graph.precision import in_float64
    from tfmot_pam.graph.runner import evaluate
    from tfmot_pam.graph.selection import network_heads

    x = {name: np.asarray(a, "f8") if a.dtype.kind == "f" else a for name, a in inputs.items()}
    given = next(iter(x.values())) if len(x) == 1 else x
    exact = in_float64(network)
    found = evaluate(exact, given, list(iterate_tensors(exact.outputs)))
    by_task = network_heads(exact)
    return {head: found[t] for heads in by_task.values() for head, t in heads.items()}


def costs(network: Network, combinations: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Counts `macs` and `parameters` of combinations.

    Args:
        network: What `network_of` read.
        combinations: Tasks by name of the combination.
    """
    from tfmot_pam.graph.cost import network_cost
    from tfmot_pam.graph.selection import select

    counted = {name: network_cost(select(network, tasks)) for name, tasks in combinations.items()}
    return {name: {"macs": c.macs, "parameters": c.parameters} for name, c in counted.items()}


def check_sizes(costs: Mapping[str, Mapping[str, int]], weight_bytes: int) -> None:
    """Raises ValueError, before anything is converted, if a combination is too large for a file.

    Args:
        costs: What `costs` returned.
        weight_bytes: Bytes that a weight takes.
    """
    for name, found in costs.items():
        size = weight_bytes * found["parameters"]
        if size > LIMIT:
            raise ValueError(
                f"The network of '{name}' has {found['parameters']:,} weights, {size / 1e9:.1f} GB "
                "as they are to be stored. Expected less than the 2 GB that a TFLite file holds. "
                "Choose a quantization with fewer bits, prune it, or export fewer tasks together."
            )


def is_sparse(model: keras.Model) -> bool:
    """Tells whether at least half of the model's kernel entries are zero."""
    kernels = [v.numpy() for v in model.trainable_weights if v.name.endswith("kernel")]
    entries = sum(kernel.size for kernel in kernels)
    return sum(np.count_nonzero(kernel) for kernel in kernels) <= entries / 2 < entries


def _model_class(model: Any) -> Any:
    """The class of functional models of the model's Keras."""
    import keras

    from tfmot_pam.graph.generation import is_tf_keras

    if not is_tf_keras(model):
        return keras.Model
    import tf_keras

    return tf_keras.Model


def _check_inputs(model: keras.Model) -> None:
    for name, tensor in inputs_of(model).items():
        shape = tuple(tensor.shape)
        if None in shape[1:]:
            raise ValueError(
                f"The input's shape must be fixed but for the batch. Received: {shape}. Pass the "
                "size that it will have on the device, such as input_shape=(224, 224, 3), or a "
                "dict of one for each input by name."
            )
        if not re.fullmatch(_SIGNATURE_NAME, name):
            raise ValueError(
                f"The input's name must be one that TensorFlow can write. Received: {name!r}. Use "
                "letters, digits, '_', '.' and '-' in keras.Input(name=...)."
            )


def _outputs_by_task(model: keras.Model) -> dict[str, Any]:
    import keras

    if isinstance(model, keras.Sequential):
        return {model.layers[-1].name: model.outputs[0]}
    if isinstance(model.output, dict):
        return model.output
    if len(model.outputs) == 1:
        from tfmot_pam.graph.tf_keras.wrappers import unwrapped

        name = model.output_names[0]
        if is_quantization_aware(model):
            name = unwrapped(model.get_layer(name)).name
        return {name: model.outputs[0]}
    return {model.name: model.output}


def _one_combination(known: Sequence[str], combination: Any) -> tuple[str, ...]:
    if isinstance(combination, str):
        tasks = [combination] if combination in known else combination.split("+")
    elif isinstance(combination, Iterable):
        tasks = list(combination)
    else:
        raise TypeError(
            f"A combination must be a sequence of task names or names joined with '+'. "
            f"Received: {combination!r}. The tasks are {list(known)}."
        )
    unknown = [task for task in tasks if task not in known]
    if unknown or not tasks:
        raise ValueError(
            f"A combination must name tasks of the model. Received: {combination!r}"
            f"{f', in which {unknown} are unknown' if unknown else ''}. "
            f"The tasks are {list(known)}."
        )
    return tuple(task for task in known if task in tasks)
