"""What the parts of a run promise each other: all that `nasbench.pipeline` asks of a stranger's class.

Constructor arguments are a part's options: by keyword, annotated (see `nasbench.options`), checked before anything is
written. Those named in the protocols below are filled in by the pipeline, each only where the constructor takes it.
`examples/plugin` has one small class of every kind.

Any part may declare beside its constructor: `presets` (preset → options of the part), or the class method
`preset_options(which, common, settings)` where these depend on the run's settings; `settle(options) -> options`, a
class method that puts values in the place of those that depend on others; `words(options) -> dict`, a static method:
option → what a run's label says of it. An evaluator's `learning_rate` in a preset is for the preset's batch size, and
scaled with that; what a strategy wishes for is not. A data set may name its `default_preset`, and how its test images
become squares (`fit`, see `nasbench.data.preparation`); its `presets` are fields of `nasbench.config.RunConfig`;
`count_images(cls, data_root) -> int`, a class method, tells about how many training images there are, before anything
is read, for presets whose epochs depend on it. A space names the network whose pretrained weights fit it by name,
`torchvision:NAME` or `timm:NAME`: `pretrained_backbone(options) -> str`, a static method, empty where there is none.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nni.nas.evaluator.pytorch import LightningModule
from pytorch_lightning import Callback
from torch import Tensor, nn


@dataclass(frozen=True)
class SearchWishes:
    """What a strategy asks of the evaluator that it is going to search with, `None` where it leaves that alone."""

    epochs: int | None = None  # limit of the search
    meta_fraction: float | None = None  # share of the training images on which architecture parameters learn, 0–1
    learning_rate: float | None = None  # of the weights θ, at its start


class Wishing:
    """Base of the strategies that have wishes; they are asked before the evaluator is built."""

    def wishes(self) -> SearchWishes:
        """What the evaluator should be built with."""
        raise NotImplementedError


class Deciding:
    """Base of the strategies that decide label by label."""

    @property
    def decisions(self) -> dict[str, dict[str, Any]]:
        """Label → why it was decided: plain values of the fields of `nasbench.facts.Decision`."""
        raise NotImplementedError


class Drawing:
    """Base of the strategies that draw architectures and ask beforehand which are allowed."""

    # Whether an architecture keeps the limits of the run; the pipeline sets it.
    allows: Callable[[Mapping[str, Any]], bool] = staticmethod(lambda architecture: True)


class SearchModule(LightningModule):
    """Base of modules that say how their gradient is clipped in a one-shot search, where Lightning cannot."""

    gradient_clip: float | None = None  # largest norm of the gradient of the weights θ, none where `None`


class Space(Protocol):
    """A search space: an NNI `ModelSpace`, whose every choice has a label.

    Constructor arguments that are filled in: the number of classes (`num_classes`, `num_labels` or `n_classes`) and the
    side of the images (`image_size`, `input_size` or `img_size`). The space is built anew for every network that is
    trained, so two builds with the same options must have the same choices and, once those are made, the same modules.

    What a space may have beside this:

    - `architectures(self) -> dict[str, Architecture]`: architectures with names, for `--choice` and `--architecture`;
      the first is what `--strategy fixed` trains without a choice.
    - `named_options(cls, name) -> dict`, a class method: the options that a named architecture needs; empty for others.
    - `notes(self) -> list[str]`: what a user should know of this network, one line each.
    - `profile_defaults`, a class attribute: classes and image size at which `nasbench profile` counts.

    Candidates may say how a supernet computes them with less time or memory, see `nasbench.spaces.operations.fused`.
    """

    def __call__(self, x: Tensor) -> Any:
        """Logits (N, classes) of images (N, 3, S, S), or a tuple of these and auxiliary logits."""

    def simplify(self) -> Mapping[str, Any]:
        """Label → NNI mutable with `values`, in the order in which records list them. NNI's `ModelSpace` has it."""

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The network of an architecture. NNI's `ModelSpace` has it."""


def main_logits(output: Any) -> Tensor:
    """The logits in a network's output, see `Space.__call__`."""
    return output[0] if isinstance(output, (tuple, list)) else output


class Strategy(Protocol):
    """A search strategy: an NNI `Strategy`.

    A constructor argument `seed` is filled in with the run's seed. NNI's base class has `engine` and `model_space`;
    `_run` submits networks to the engine, which trains them at once. Whoever submits several asks
    `engine.budget_available()` before each: it is over where `--max-trials`, `--max-epochs` or `--max-minutes` is.

    Under limits on the network's cost, one that is `Drawing` asks what it may draw; of others that submit networks the
    engine leaves out what is above, and of one-shot searches the best below is taken by π.

    A one-shot strategy is an NNI `OneShotStrategy`, which turns the space into a supernet and trains it by an evaluator
    of stage `search`; ours derive from `nasbench.strategies.differentiable.Differentiable`. One that is `Wishing` is
    asked for its wishes first; one that is `Deciding` tells why each label was decided.

    What a strategy may have beside this: `decided_by`, words for why a label has its candidate; `numbers`, what the
    result keeps of the search; `searches(options) -> bool`, a static method: whether anything is trained;
    `trainings(options, epochs) -> float`, likewise: how many networks it trains one by one, in trainings of all epochs;
    `resumable`, whether a one-shot search can go on from its Lightning module's checkpoint, which `load_state_dict`
    names; `rivals`, architectures that are set before a one-shot search and compete at its end in place of its own, and
    `measures`, then their accuracies with the supernet's weights.
    """

    def initialize(self, model_space: Any, engine: Any) -> Any:
        """Take a space with its evaluator; raise a `NasbenchError` for what does not fit. NNI's `Strategy` has it."""

    def run(self) -> None:
        """Search. NNI's `Strategy` has it; a class of one's own defines `_run`."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, its `ckpt_path`. NNI's `Strategy` has it."""

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[Any]:
        """The best model first, each with its architecture as `sample`. NNI's `Strategy` lists by metric."""


class Dataset(Protocol):
    """A data set: a Lightning data module; `nasbench.data.base.ImageData` does all of this but the reading.

    Constructor arguments that are filled in: `data_root`, `image_size`, `batch_size`, `stage` (`search` or `retrain`),
    `train_images`, `workers`, `download`, `seed`, and `meta_fraction` where the strategy wishes for one.

    Batches are (images (N, 3, S, S), labels (N,)) once `on_after_batch_transfer` has seen them. May have an attribute
    `meta_fraction`: strategies check that it is as they wished. Its `singly` is set where a search trains networks one
    by one: `val_dataloader` then gives images to measure them, all and in order.

    May have `train_counts(self) -> list[int]`: how many training images each class has, for losses that weigh classes.
    May have `test_files`: paths of the test images, in their order; pages name them.
    """

    @property
    def num_classes(self) -> int:
        """Known after `setup`."""

    image_size: int  # side S of the images in pixels
    batch_size: int  # images a step, over all processes

    def setup(self, stage: str | None = None) -> None:
        """Read the set, or its index. Raises DataError: it is missing or damaged."""

    def train_dataloader(self) -> Iterable[Any]:
        """Batches for the weights θ, shuffled."""

    def val_dataloader(self) -> Iterable[Any]:
        """Search: batches for the architecture parameters α, see `singly`. Retraining: held-out images."""

    def test_dataloader(self) -> Iterable[Any]:
        """Test images; read once, after the retraining."""

    def state_dict(self) -> dict[str, Any]:
        """Where the shuffled orders stand at the end of an epoch. Lightning's data modules have it, and its reverse."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the orders of a checkpoint, before or after the loaders are made."""

    def summary(self) -> str:
        """One line for the user: what there is to learn from and to be tested on."""

    def description(self) -> dict[str, Any]:
        """What the record keeps: `class_names`, `image_size`, `mean` and `std` (of each channel, of pixels in 0–1).

        Anything else that JSON can hold, too; `train_images`, `meta_images` and `held_out_images` are shown.
        """


class Evaluator(Protocol):
    """What trains and measures: NNI's `Lightning` with a few methods more, decorated with `nni.trace`.

    Derive from `nasbench.evaluators.classification.Classification` for another loss or another way to train.
    Constructor arguments that are filled in: `dataset`, `data` (its options), `stage` (`search` or `retrain`),
    `epochs`, `device`, `devices`, `nodes` (without these two it runs in one process), `precision` and `checkpoints` (a
    folder for `best.ckpt`); `learning_rate`, where the strategy wishes for one. They are plain values: NNI sends
    evaluators to other processes by them.

    A one-shot search uses `module`, `trainer` and the loaders of `datamodule` only: the module's `training_step` gives
    the loss, and its `configure_optimizers` one optimiser. A `SearchModule` says how the gradient is clipped.

    May have `beside` and `restore`, see `Classification`: without them a run that was killed between training and test
    repeats its last epoch. May have `epochs`, which a strategy sets for the networks that are trained next. May have
    `numbers`, what the record keeps of the last training; of these `epochs` and `best_epoch` (from 1, in the place of
    the last) are shown. May have `check_space(self, space) -> None`: raises an `OptionError` where networks of a space
    cannot be trained.
    """

    datamodule: Dataset  # the data set, set up
    module: Any  # Lightning module with `set_model(network)`
    trainer: Any  # Lightning trainer
    fit_kwargs: dict[str, Any]  # what `trainer.fit` is called with beside these

    def observe(self, callbacks: Sequence[Callback]) -> None:
        """Let Lightning callbacks watch this and every later fit; the record is written by one."""

    def evaluate(self, model: nn.Module) -> Any:
        """Train a network in place, from the weights that it has; each call anew. Logs `val_top1`, if anything."""

    def test(self) -> Mapping[str, Any]:
        """Measure the network that was trained last: `top1`, `top5` (fractions; `None` under ten classes), `loss`.

        Anything else that JSON can hold goes into the result, `confusion` (images by class and prediction) into a file.
        """
