"""The table of layers that differ between the two Kerases, and the users' own entries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from tfmot_pam.graph.rules import is_keras_class

Config = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class LayerConversion:
    """How one kind of layer crosses between Keras 3 and tf_keras.

    Use it with `register_layer_conversion` for layers of your own, or for layers that only one
    Keras has. Entries that are not named here have the same name and meaning in both.

    Args:
        rename: Configuration entries of different names, Keras 3 name to tf_keras name.
        weights: Weights of different names, Keras 3 name to tf_keras name.
        drop: Configuration entries that say nothing about what the layer computes and that the
            other Keras does not know; they are left behind.
        to_tf_keras: Makes the tf_keras configuration out of the renamed Keras 3 one.
        from_tf_keras: Makes the Keras 3 configuration out of the renamed tf_keras one.

    Example:
    >>> import tfmot_pam
    >>> tfmot_pam.LayerConversion(rename={"negative_slope": "alpha"}).rename
    {'negative_slope': 'alpha'}
    """

    rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, str] = dataclasses.field(default_factory=dict)
    drop: tuple[str, ...] = ()
    to_tf_keras: Callable[[Config], Config] = dict
    from_tf_keras: Callable[[Config], Config] = dict


def _one_axis(config: Config) -> Config:
    """tf_keras writes the axis of a batch normalisation as a list and counts from the first."""
    axis = config.get("axis", -1)
    axis = axis if isinstance(axis, int) else list(axis)[0]
    shape = (config.get("build_config") or {}).get("input_shape")
    last = shape is not None and axis == len(shape) - 1
    return {**config, "axis": -1 if last else axis}


def _without_built_shapes(config: Config) -> Config:
    shapes = ("query_shape", "key_shape", "value_shape")
    return {key: value for key, value in config.items() if key not in shapes}


def _forward_time(config: Config) -> Config:
    if config.get("time_major"):
        raise ValueError("it runs over the first axis (time_major), which Keras 3 has not")
    return {key: value for key, value in config.items() if key != "time_major"}


_DEPTHWISE = LayerConversion(weights={"kernel": "depthwise_kernel"})
_RECURRENT = LayerConversion(
    # Keras 3's Bidirectional sets `zero_output_for_mask`, which tells with masks only.
    drop=("implementation", "zero_output_for_mask", "use_cudnn", "seed"),
    from_tf_keras=_forward_time,
)
_NOISE = LayerConversion(drop=("noise_shape", "seed"))
_RANDOM = LayerConversion(drop=("seed",))
_AUGMENTATION = LayerConversion(drop=("rng_type",))

# Layers that are the same but for their module need no entry.
CONVERSIONS: Mapping[str, LayerConversion] = MappingProxyType(
    {
        "BatchNormalization": LayerConversion(from_tf_keras=_one_axis),
        "DepthwiseConv1D": _DEPTHWISE,
        "DepthwiseConv2D": _DEPTHWISE,
        # tf_keras keeps a default that separable convolutions do not use.
        "SeparableConv1D": LayerConversion(drop=("kernel_initializer",)),
        "SeparableConv2D": LayerConversion(drop=("kernel_initializer",)),
        "LeakyReLU": LayerConversion(rename={"negative_slope": "alpha"}),
        "Embedding": LayerConversion(drop=("input_length",)),
        "MultiHeadAttention": LayerConversion(
            drop=("seed", "flash_attention"), from_tf_keras=_without_built_shapes
        ),
        "Attention": _RANDOM,
        "GaussianNoise": _RANDOM,
        "GaussianDropout": _RANDOM,
        "RandomBrightness": _AUGMENTATION,
        "RandomContrast": _AUGMENTATION,
        "RandomCrop": _AUGMENTATION,
        "RandomFlip": _AUGMENTATION,
        "RandomRotation": _AUGMENTATION,
        "RandomTranslation": _AUGMENTATION,
        "RandomZoom": _AUGMENTATION,
        "RNN": _RECURRENT,
        **{name: _RECURRENT for name in ("SimpleRNN", "GRU", "LSTM")},
        **{f"{name}Cell": _RECURRENT for name in ("SimpleRNN", "GRU", "LSTM")},
        **{f"ConvLSTM{rank}D": _RECURRENT for rank in (1, 2, 3)},
        **{f"SpatialDropout{rank}D": _NOISE for rank in (1, 2, 3)},
    }
)

# The one table that users add to, by the class of either Keras.
_USER_CONVERSIONS: dict[type, tuple[type, type, LayerConversion]] = {}


def register_layer_conversion(
    keras_layer: type,
    tf_keras_layer: type,
    conversion: LayerConversion | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Teaches `to_tf_keras` and `from_tf_keras` a layer of your own, or one that a Keras lacks.

    Call it once, before the conversion, with the two classes that compute the same. The
    conversion is checked on every model: it is run once against its source.

    Args:
        keras_layer: The Keras 3 class.
        tf_keras_layer: The tf_keras class.
        conversion: Which configuration entries and weights have other names; None: all have the
            same.
        overwrite: Whether a conversion that exists may be replaced.

    Raises:
        TypeError: an argument is no layer class of the Keras it stands for, or no
            `LayerConversion`.
        ValueError: there is a conversion for one of the classes and `overwrite` is False.

    Example:
    >>> import keras, tf_keras, tfmot_pam
    >>> class Double(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2.0 * x
    >>> class LegacyDouble(tf_keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2.0 * x
    >>> tfmot_pam.register_layer_conversion(Double, LegacyDouble)
    """
    for layer, wanted in ((keras_layer, "keras"), (tf_keras_layer, "tf_keras")):
        if not isinstance(layer, type) or not _derives_from(layer, wanted):
            raise TypeError(
                f"Expected a layer class of {wanted} in the place of {layer!r}. Pass the Keras 3 "
                "class first and the tf_keras class second, classes and not objects of them."
            )
    conversion = LayerConversion() if conversion is None else conversion
    if not isinstance(conversion, LayerConversion):
        raise TypeError(
            f"`conversion` must be a tfmot_pam.LayerConversion. Received: {conversion!r} of type "
            f"{type(conversion).__name__}. Build one, such as LayerConversion(rename={{...}})."
        )
    known = [layer for layer in (keras_layer, tf_keras_layer) if layer in _USER_CONVERSIONS]
    if known and not overwrite:
        raise ValueError(
            f"There is a conversion for {known[0]!r} already. Pass overwrite=True to replace it."
        )
    for layer in (keras_layer, tf_keras_layer):
        _USER_CONVERSIONS[layer] = (keras_layer, tf_keras_layer, conversion)


def _derives_from(layer: type, package: str) -> bool:
    return any(cls.__module__.partition(".")[0] == package for cls in layer.__mro__)


def counterpart(cls: type, target: Any) -> tuple[type, LayerConversion] | None:
    """The class of the other Keras that computes what `cls` computes, and how it is converted.

    Args:
        cls: A layer class of either Keras, or a user's.
        target: The other Keras: the module `keras` or `tf_keras`.

    Returns:
        The class and the conversion, or None where the other Keras has none.
    """
    if cls in _USER_CONVERSIONS:
        keras_class, tf_keras_class, conversion = _USER_CONVERSIONS[cls]
        return (keras_class if target.__name__ == "keras" else tf_keras_class), conversion
    if not is_keras_class(cls):
        return None
    found = getattr(target.layers, cls.__name__, None)
    return None if found is None else (found, CONVERSIONS.get(cls.__name__, LayerConversion()))


def lacks(name: str, cls: type, target: Any) -> ValueError:
    """The error on a layer without a counterpart."""
    return ValueError(
        f"Layer '{name}' of class {cls.__module__}.{cls.__name__} has no counterpart in "
        f"{target.__name__}. Expected a layer that both Kerases have, or one that was registered. "
        "Name the class that computes the same with tfmot_pam.register_layer_conversion("
        "keras_layer, tf_keras_layer)."
    )
