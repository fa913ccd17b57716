"""The devices that a training is spread over, and what all of its workers are told by one."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import numpy as np

from tfmot_pam.graph.cloning import clone

T = TypeVar("T")

# Numbers that workers tell each other at a time: 64 MB.
_CHUNK = 2**24


@dataclass(frozen=True)
class Share:
    """The replicas of one worker among all.

    Attributes:
        replicas: How many there are in all.
        first: The number of the worker's first one.
        count: How many the worker has.
    """

    replicas: int
    first: int
    count: int

    def rows(self, length: int) -> list[np.ndarray]:
        """The rows of a batch that each of the worker's replicas gets, as many for all.

        A batch that cannot be split evenly is filled up with rows from its start; see `weights`.
        """
        size = -(-length // self.replicas)
        rows = np.arange(size * self.replicas) % length
        return [rows[r * size : (r + 1) * size] for r in range(self.first, self.first + self.count)]

    def weights(self, length: int) -> list[np.ndarray]:
        """Factors of the weights of these rows: replicas' means average to that of the batch."""
        size = -(-length // self.replicas)
        filled = size * self.replicas
        weights = np.where(np.arange(filled) < length, filled / length, 0.0).astype("float32")
        return np.split(weights, self.replicas)[self.first : self.first + self.count]


class Devices:
    """One device, or those of a strategy.

    Args:
        strategy: A synchronous `tf.distribute` strategy; None is one device.
    """

    def __init__(self, strategy: Any = None):
        self.strategy = strategy
        self.share = Share(1, 0, 1) if strategy is None else _share(strategy)

    @property
    def workers(self) -> int:
        """The number of processes."""
        return self.share.replicas // self.share.count

    @property
    def chief(self) -> bool:
        """Whether this process is the one that decides and writes."""
        return self.share.first == 0

    @contextlib.contextmanager
    def left(self) -> Iterator[None]:
        """Leaves the strategy's scope, if it is in force: models are this process's own.

        What runs under a strategy runs on all workers at the same time, or waits forever. Outside
        of its scope a worker can do what the others do not.
        """
        if self.strategy is None:
            yield
            return
        import tensorflow as tf

        if not tf.distribute.has_strategy():
            yield
            return
        # There is no public way out of a scope. It belongs to the graph that is the default one,
        # also where everything runs eagerly; a new graph has none.
        with tf.Graph().as_default(), tf.__internal__.eager_context.eager_mode():
            yield

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """The strategy's scope."""
        if self.strategy is None:
            yield
        else:
            with self.strategy.scope():
                yield

    def told(self, make: Callable[[], T]) -> T:
        """What the chief makes, on all workers; an error of the chief's is raised on all.

        All workers must call it at the same point. Only the chief calls `make`.

        Args:
            make: Makes something that can be pickled, as Keras models can.

        Raises:
            TypeError: it cannot be pickled.
        """
        if self.workers == 1:
            return make()
        if not self.chief:
            made, error = pickle.loads(self._sent(b""))
            if error is not None:
                raise error
            return made
        try:
            made = make()
            content = _packed(made)
        except Exception as error:
            self._sent(_packed_error(error))
            raise
        self._sent(content)
        return made

    def _sent(self, content: bytes) -> bytes:
        """The chief's bytes, on all workers."""
        # A sum, to which the others add nothing. Of floats, since all devices add these, and of
        # two bytes each, which they add exactly.
        sizes = self._sum(np.array(divmod(len(content), 2**16)))
        length = int(sizes[0]) * 2**16 + int(sizes[1])
        halves = np.frombuffer(content + b"\0" * (len(content) % 2), "<u2")
        if not self.chief:
            halves = np.zeros(-(-length // 2), "<u2")
        parts = [
            self._sum(halves[start : start + _CHUNK]) for start in range(0, len(halves), _CHUNK)
        ]
        return np.concatenate(parts).astype("<u2").tobytes()[:length]

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """The first replica's values, on all workers."""
        import tensorflow as tf

        values = values.astype("float32")
        own = self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(
                values if context.replica_id_in_sync_group == 0 else np.zeros_like(values)
            )
        )
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, own, axis=None).numpy()


def devices_of(*models: Any) -> Devices:
    """The devices of the strategy in whose scope this is called, or else a model was made.

    Raises:
        ValueError: the strategy has no replicas that train in step.
    """
    if keras.backend.backend() != "tensorflow":
        return Devices()
    import tensorflow as tf

    strategy = None
    if tf.distribute.has_strategy():
        strategy = tf.distribute.get_strategy()
    else:
        strategy = next(filter(None, (_strategy_of(model) for model in models)), None)
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "The strategy in scope is a ParameterServerStrategy, whose workers do not train in "
            "step. Expected one whose replicas do. Use a MirroredStrategy, or a "
            "MultiWorkerMirroredStrategy for several machines."
        )
    return Devices(strategy)


def as_local(model: Any) -> Any:
    """A copy of a model on this process's own device; the model itself where it is there.

    A model that was made in a strategy's scope answers with all replicas, and of one batch once for
    each of them.

    Raises:
        ValueError: the model cannot be copied.
    """
    if _strategy_of(model) is None:
        return model
    if not isinstance(model, keras.Sequential) and not getattr(model, "operations", None):
        raise ValueError(
            f"The model '{model.name}' of type {type(model).__name__} was made in the scope of a "
            "tf.distribute strategy. Expected a functional or sequential model there, which can be "
            "copied. Make it outside of the scope."
        )
    return clone(model)


def _strategy_of(model: Any) -> Any:
    """The strategy in whose scope a Keras 3 model, or its layers, were made, or None."""
    if keras.backend.backend() != "tensorflow" or not isinstance(model, keras.Model):
        return None
    import tensorflow as tf

    if model.distribute_strategy is not tf.distribute.get_strategy():
        return model.distribute_strategy
    values = (getattr(variable, "value", None) for variable in model.variables)
    return next((found for value in values if (found := strategy_of_variable(value))), None)


def strategy_of_variable(variable: Any) -> Any:
    """The strategy over whose replicas a TensorFlow variable is spread, or None."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if isinstance(variable, tf.distribute.DistributedValues):
        return variable.distribute_strategy
    return None


def _share(strategy: Any) -> Share:
    numbers = strategy.experimental_local_results(
        strategy.experimental_distribute_values_from_function(
            lambda context: np.array(context.replica_id_in_sync_group)
        )
    )
    return Share(strategy.num_replicas_in_sync, int(numbers[0]), len(numbers))


def _packed(made: Any) -> bytes:
    try:
        return pickle.dumps((made, None))
    except (pickle.PicklingError, AttributeError, ImportError, TypeError, ValueError) as error:
        raise TypeError(
            f"Several workers need models and importances that can be sent to them: {error}. "
            "Define what they are made of in a module, and register own layers with "
            "keras.saving.register_keras_serializable."
        ) from error


def _packed_error(error: Exception) -> bytes:
    """An error as the others raise it; one that cannot be sent, by what it says."""
    try:
        packed = pickle.dumps((None, error))
        pickle.loads(packed)
    except Exception:
        packed = pickle.dumps((None, RuntimeError(f"The chief worker failed: {error!r}")))
    return packed
