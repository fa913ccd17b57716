"""Single layers from one Keras to the other: class, configuration, activation, weights."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfmot_pam.graph import network as net
from tfmot_pam.graph.tf_keras import activations, wrappers
from tfmot_pam.graph.tf_keras.conversion import LayerConversion, counterpart, lacks

_PARTS = {
    "_initializer": "initializers",
    "_regularizer": "regularizers",
    "_constraint": "constraints",
}


class Converted:
    """A layer of the other Keras, with the pieces of its activation that follow it.

    Args:
        layer: The layer, not built; None where its activation was all there was to it.
        pieces: What to put after it, or None.
        build: Builds a layer of the pieces.
    """

    def __init__(self, layer: Any, pieces: activations.Pieces | None, build: activations.Build):
        self.layer = layer
        self._pieces = pieces
        self._build = build

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        x = args[0] if self.layer is None else self.layer(*args, **kwargs)
        return x if self._pieces is None else self._pieces(x, self._build)


def convert_layer(
    cls: type, config: Mapping[str, Any], name: str, target: Any, taken: set[str]
) -> Converted:
    """Builds the layer of the other Keras that computes what a class and configuration compute.

    Args:
        cls: Layer class of the Keras that is left.
        config: Its configuration.
        name: The name to give.
        target: The Keras that is entered: the module `keras` or `tf_keras`.
        taken: All layer names in use; names of added pieces are put in.

    Raises:
        ValueError: the other Keras lacks the class, an option or the activation.
    """
    found = counterpart(cls, target)
    if found is None:
        raise lacks(name, cls, target)
    other, conversion = found
    try:
        entries, pieces = _entries(cls, other, conversion, config, target)
        layer = None
        if pieces is None or cls.__name__ != "Activation":
            layer = other(**{**entries, "name": name})
            if config.get("trainable") is False:
                layer.trainable = False
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Layer '{name}' of class {cls.__name__} cannot be converted to {target.__name__}: "
            f"{error}. Replace it, or register a layer of your own that computes the same with "
            "tfmot_pam.register_layer_conversion."
        ) from error
    prefix = name if layer is None else f"{name}_activation"
    build = _builder(prefix, None if layer is None else prefix, entries, name, target, taken)
    return Converted(layer, pieces, build)


def training_only(layer: Any, shape: net.Shape, name: str, target: Any) -> Any | None:
    """What stands for a layer that the other Keras lacks and that changes nothing in inference.

    Augmentation and stochastic depth are such layers. Warns that training goes without it.

    Args:
        layer: The layer, of the Keras that is left.
        shape: What it reads; open sizes are tried at 32.
        name: The name to give.
        target: The Keras that is entered: the module `keras` or `tf_keras`.

    Returns:
        A layer that hands on what it reads, or None where it does something in inference.
    """
    if "training" not in inspect.signature(layer.call).parameters:
        return None
    sizes = (2, *(size or 32 for size in shape[1:]))
    x = np.random.default_rng(0).uniform(0.0, 255.0, sizes).astype("float32")
    value = layer(keras.ops.convert_to_tensor(x), training=False)
    if not np.array_equal(keras.ops.convert_to_numpy(value), x):
        return None
    warnings.warn(
        f"{target.__name__} has no {type(layer).__name__}: '{name}', which changes nothing in "
        "inference, becomes a linear activation, and training there goes without it. Put it into "
        "the data, or name its counterpart with tfmot_pam.register_layer_conversion.",
        stacklevel=2,
    )
    return target.layers.Activation("linear", name=name)


def _builder(
    prefix: str,
    last: str | None,
    entries: Mapping[str, Any],
    name: str,
    target: Any,
    taken: set[str],
) -> activations.Build:
    """Builds the pieces of an activation; each once, however often the layer is called."""
    built: dict[str, Any] = {}

    def build(kind: str, suffix: str | None, **options: Any) -> Any:
        wanted = (last or name) if suffix is None else f"{prefix}_{suffix}"
        if wanted not in built:
            unique = wanted if wanted == name else net.unique_name(wanted, taken)
            taken.add(unique)
            cls = getattr(target.layers, kind)
            built[wanted] = cls(name=unique, dtype=entries.get("dtype"), **options)
        return built[wanted]

    return build


def _entries(
    cls: type, other: type, conversion: LayerConversion, config: Mapping[str, Any], target: Any
) -> tuple[dict[str, Any], activations.Pieces | None]:
    """The constructor arguments of the other class, and the pieces of its activation."""
    into_keras = target.__name__ == "keras"
    rename = conversion.rename
    if into_keras:
        rename = {theirs: ours for ours, theirs in rename.items()}
    skip = {"name", "trainable", "batch_input_shape", *conversion.drop}
    entries = {rename.get(key, key): value for key, value in config.items() if key not in skip}
    change = conversion.from_tf_keras if into_keras else conversion.to_tf_keras
    entries = change(entries)
    entries.pop("build_config", None)
    accepted, own = _parameters(other), _parameters(cls)
    pieces, result = None, {}
    for key, value in entries.items():
        if key not in accepted:
            _check_droppable(key, value, own)
            continue
        if key in ("activation", "recurrent_activation"):
            value, found = _activation(value, target)
            if found is not None and "recurrent_activation" in own:
                raise ValueError(f"its {key} has no equal in {target.__name__}")
            pieces = pieces or found
        result[key] = _value(key, value, target)
    return result, pieces


def _parameters(cls: type) -> Mapping[str, Any]:
    """What a class's constructor takes, with defaults, its parents' keyword arguments included."""
    found: dict[str, Any] = {"name": None, "dtype": None, "trainable": True}
    for parent in cls.__mro__:
        if "__init__" not in vars(parent):
            continue
        parameters = inspect.signature(vars(parent)["__init__"]).parameters.values()
        for parameter in parameters:
            found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _check_droppable(key: str, value: Any, own: Mapping[str, Any]) -> None:
    # Layers without this option work on the last axis.
    neutral = (None, False, own.get(key), "channels_last" if key == "data_format" else None)
    if not any(value is one or value == one for one in neutral):
        raise ValueError(f"its option {key}={value!r} is unknown there")


def _activation(value: Any, target: Any) -> tuple[Any, activations.Pieces | None]:
    if isinstance(value, Mapping):
        inner = value.get("config")
        if value.get("class_name") != "function" or not isinstance(inner, str):
            return value, None  # A layer in the place of a function.
        value = inner
    if value is None or not isinstance(value, str):
        return value, None  # The user's own function computes in both.
    return activations.split(value, target)


def _value(key: str, value: Any, target: Any) -> Any:
    """One entry of a configuration as an object of the other Keras."""
    if key == "dtype":
        return _policy(value)
    for ending, module in _PARTS.items():
        if key.endswith(ending):
            return _part(key, value, getattr(target, module), module)
    if isinstance(value, Mapping) and "class_name" in value:
        return _inner_layer(value, target)
    if isinstance(value, (list, tuple)) and any(
        isinstance(entry, Mapping) and "class_name" in entry for entry in value
    ):
        return [_inner_layer(entry, target) for entry in value]
    # tf_keras writes some numbers as NumPy scalars.
    number = isinstance(value, (np.generic, np.ndarray)) and np.ndim(value) == 0
    return value.item() if number else value


def _policy(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    kind = value.get("class_name")
    if kind not in ("DTypePolicy", "Policy"):
        raise ValueError(f"its dtype policy {kind} is unknown there")
    return value["config"]["name"]


def _part(key: str, value: Any, module: Any, kind: str) -> Any:
    """An initializer, regularizer or constraint of the other Keras."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        return None if kind == "initializers" else value
    cls = getattr(module, value["class_name"], None)
    if cls is None:
        if kind == "initializers":
            return None  # The weights that it made are copied.
        raise ValueError(f"its {key} of class {value['class_name']} is unknown there")
    accepted = _parameters(cls)
    config = {k: v for k, v in value["config"].items() if k in accepted and k not in _LAYER_KEYS}
    if not isinstance(config.get("seed"), (int, type(None))):
        del config["seed"]
    return cls(**config)


_LAYER_KEYS = ("name", "dtype", "trainable")


def _inner_layer(value: Mapping[str, Any], target: Any) -> Any:
    """The layer inside a wrapper, written out in the configuration."""
    import tf_keras

    source = tf_keras if target.__name__ == "keras" else keras
    layer = source.layers.deserialize(dict(value))
    converted = convert_layer(type(layer), layer.get_config(), layer.name, target, set())
    if converted.layer is None or converted._pieces is not None:
        raise ValueError(f"the activation of the layer in it has no equal in {target.__name__}")
    return converted.layer


def weights_by_name(layer: Any) -> dict[str, np.ndarray]:
    """A tf_keras layer's weights by Keras 3's names; a quantising wrapper's own are among them."""
    names = tf_keras_weight_names(layer)
    return {
        name: np.array(weight.numpy()) for name, weight in zip(names, layer.weights, strict=True)
    }


def tf_keras_weight_names(layer: Any) -> list[str]:
    """Keras 3's names of a tf_keras layer's weights, in the order of `layer.weights`."""
    found = counterpart(type(wrappers.unwrapped(layer)), keras)
    rename = {} if found is None else {v: k for k, v in found[1].weights.items()}
    names: list[str] = []
    for weight in layer.weights:
        leaf = weight.name.rsplit("/", 1)[-1].split(":")[0]
        names.append(net.unique_name(rename.get(leaf, leaf), names))
    return names


def copy_weights(source: Mapping[str, np.ndarray], names: Sequence[str], target: Any) -> None:
    """Puts weights, by name, into a built layer of the other Keras.

    Args:
        source: Arrays by Keras 3 name.
        names: Keras 3's names of the target's weights, in the order of `target.weights`.
        target: The layer.
    """
    if set(names) != set(source):
        raise ValueError(
            f"Layer '{target.name}' of class {type(target).__name__} has the weights "
            f"{sorted(names)}, but its counterpart has {sorted(source)}. Say which are equal: "
            "register_layer_conversion(..., LayerConversion(weights={keras_name: tf_keras_name}))."
        )
    for name, weight in zip(names, target.weights, strict=True):
        if tuple(weight.shape) != source[name].shape:
            raise ValueError(
                f"Weight '{name}' of layer '{target.name}' has the shape {tuple(weight.shape)}, in "
                f"its counterpart {source[name].shape}. Expected equal shapes. Convert layers of "
                "equal configuration."
            )
        weight.assign(source[name])
    if type(target).__name__ == "Normalization":
        # The adapted statistics are derived from the weights, not recomputed on assignment.
        target.finalize_state()


def operation_pieces(cls: type, name: str, target: Any, taken: set[str]) -> Converted | None:
    """An activation function that was called as a free operation and that tf_keras lacks."""
    names = {"HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu", "HardSwish": "hard_silu"}
    if cls.__name__ not in names:
        return None
    pieces = activations.TO_TF_KERAS[names[cls.__name__]]
    return Converted(None, pieces, _builder(name, None, {}, name, target, taken))
