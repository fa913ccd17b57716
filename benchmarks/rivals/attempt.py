"""One attempt of a rival at one level of cost: what it is given, and what it has spent."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

import tfmot_pam
from benchmarks import suites

# As `compress` trains.
_BATCH, _RATE, _AVERAGE, _VIEWS = 32, 2e-3, 0.98, 16
_VIEW_BYTES = 2**30
_TRIALS = 0.25  # the share of the epochs that goes to trials, where there is something to choose
_ROUNDING = 1e-5  # so much below its level a network is cut, as a share


class Attempt:
    """What a rival works with; every epoch that it trains is counted here.

    Args:
        suite: The suite.
        models: Its trained networks by task.
        splits: Its splits; rivals see `train` and, to choose by, `validation`.
        macs: The expected multiply-accumulates that the result may have, all combinations alike.
        effort: Epochs of one network; of T tasks, T times as many may be trained.
        seed: Seed of everything random.
        rounds: The folder of `compress`'s rounds, for a rival that looks at what it found.

    Attributes:
        allotted: Epochs that may be trained in all.
        epochs: Epochs that were trained.
        training_macs: Multiply-accumulates of that training, without the teachers'.
        choice: What was chosen on the validation split, in words.
    """

    def __init__(
        self,
        suite: suites.Suite,
        models: Mapping[str, keras.Model],
        splits: Mapping[str, suites.Split],
        macs: float,
        effort: int,
        seed: int,
        rounds: pathlib.Path,
    ):
        self.suite, self.models, self.splits, self.rounds = suite, dict(models), splits, rounds
        self.macs, self.effort, self.seed = macs, effort, seed
        self.allotted = effort * len(models)
        self.epochs, self.training_macs, self.choice = 0, 0.0, ""

    @property
    def x(self) -> np.ndarray:
        """The training inputs."""
        return self.splits["train"][0]

    @property
    def share(self) -> float:
        """The level as a share of what the originals cost."""
        return self.macs / originals_macs(self.models)

    def train(self, model: keras.Model, epochs: int, *, teach: bool = True) -> keras.Model:
        """A copy that was trained for some epochs, by the originals and labels or labels alone."""
        tasks = tfmot_pam.combinations(model)[-1]
        count = self._view_count(epochs)
        rng = np.random.default_rng([self.seed, self.epochs])
        x, labels = self.x, self.splits["train"][1]
        if self.suite.augment is not None:
            x = np.concatenate([self.suite.augment(x, rng) for _ in range(count)])
        passes = epochs // count
        steps = passes * -(-len(x) // _BATCH)
        rate = keras.optimizers.schedules.CosineDecay(_RATE, steps)
        self.epochs += epochs
        self.training_macs += 3.0 * epochs * len(self.x) * tfmot_pam.cost(model).macs
        return tfmot_pam.fine_tune(
            model,
            (x, {task: np.concatenate([labels[task]] * count) for task in tasks}),
            {task: self.models[task] for task in tasks} if teach else None,
            passes,
            batch_size=_BATCH,
            optimizer=keras.optimizers.Adam(rate, use_ema=True, ema_momentum=_AVERAGE),
            joint=1.0,
            dropout=0.0 if teach else 1.0,
            seed=self.seed,
            verbose=0,
        )

    def _view_count(self, epochs: int) -> int:
        """How many views of the inputs are drawn: so many that each is seen equally often."""
        if self.suite.augment is None:
            return 1
        most = min(_VIEWS, max(1, _VIEW_BYTES // self.x.nbytes))
        return max(count for count in range(1, most + 1) if epochs % count == 0)

    def narrowed(self, model: keras.Model, macs: float, **how: Any) -> keras.Model:
        """A network with fewer channels, cut once to at most so many expected MACs."""
        size = expected_macs(model)
        if size <= macs:
            return model
        options = {"importance": "reconstruction", "data": self.x, **how}
        fraction = 1.0 - (1.0 - _ROUNDING) * macs / size
        gated = tfmot_pam.prune_channels(model, fraction, measure="macs", seed=self.seed, **options)
        return tfmot_pam.strip_pruning(gated)

    def chosen(self, starts: Mapping[str, keras.Model], *, teach: bool = True) -> keras.Model:
        """The best of some networks after short trials, trained on with what epochs are left."""
        trial = int(_TRIALS * self.allotted) // len(starts) if len(starts) > 1 else 0
        tried = {
            name: self.train(model, trial, teach=teach) if trial else model
            for name, model in starts.items()
        }
        self.choice = min(tried, key=lambda name: self.worst(tried[name]))
        return self.train(tried[self.choice], self.allotted - self.epochs, teach=teach)

    def worst(self, model: keras.Model) -> float:
        """Points that the task which loses most loses on the validation split."""
        lost = suites.losses(self.suite, self.models, model, self.splits["validation"])
        return max(points for points, _ in lost.values())

    def side_by_side(self, networks: Mapping[str, keras.Model]) -> keras.Model:
        """One model of networks that share nothing."""
        return tfmot_pam.merge(networks, self.x, method="separate", verbose=0)


def combination_macs(model: keras.Model) -> dict[tuple[str, ...], float]:
    """The multiply-accumulates of every combination of a model's tasks."""
    return {chosen: tfmot_pam.cost(model, chosen).macs for chosen in tfmot_pam.combinations(model)}


def expected_macs(model: keras.Model) -> float:
    """Their mean, all combinations alike."""
    return float(np.mean(list(combination_macs(model).values())))


def originals_macs(models: Mapping[str, keras.Model]) -> float:
    """The expected cost of networks one by one: each runs in 2^(T-1) of 2^T - 1 combinations."""
    count = len(models)
    runs = 2 ** (count - 1) / (2**count - 1)
    return runs * sum(tfmot_pam.cost(model).macs for model in models.values())


def with_new_weights(model: keras.Model, seed: int) -> keras.Model:
    """A network of the same layers with weights as they are initialised, the same for a seed."""
    keras.utils.set_random_seed(seed)
    return type(model).from_config(model.get_config())


def with_all_heads(models: Mapping[str, keras.Model], donor: str) -> keras.Model:
    """A copy of one task's network with its own head and new ones of all other tasks.

    A head is a network's last layer; all read what the donor's reads.
    """
    copy = type(models[donor]).from_config(models[donor].get_config())
    copy.set_weights(models[donor].get_weights())
    own, outputs = copy.layers[-1], {}
    for task, model in models.items():
        last = model.layers[-1]
        if keras.tree.flatten(model.output)[0] is not last.output:
            raise ValueError(
                f"The network of {task!r} ends in several layers, the last listed is "
                f"'{last.name}'. Expected one whose last layer makes its output. Put its head last."
            )
        new = own if task == donor else type(last).from_config(last.get_config())
        outputs[task] = own.output if task == donor else new(own.input)
    return keras.Model(copy.input, outputs)
