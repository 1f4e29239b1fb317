"""Base of the one-shot strategies with architecture parameters."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import nni.nas.strategy
from nni.mutable import CategoricalMultiple
from torch import nn

from nasbench.contracts import Deciding, SearchWishes, Wishing
from nasbench.errors import OptionError
from nasbench.options import Count, Fraction, Rate, Whole, checked
from nasbench.registry import declared
from nasbench.strategies.deciding import Undecided, repeated
from nasbench.strategies.mixed import MixedLayer
from nasbench.strategies.supernet import DifferentiableModule, granted


class Differentiable(Wishing, Deciding, nni.nas.strategy.DARTS):
    """Base of the one-shot strategies with architecture parameters; their `wishes` come before the evaluator."""

    module_class: type[DifferentiableModule] = DifferentiableModule
    layer_class: type[MixedLayer] = MixedLayer
    presets: ClassVar[dict[str, dict[str, Any]]] = {}  # preset → options
    resumable = True  # its module's checkpoint tells everything
    rho = 0.2  # for the default of η
    # What may fix layers during the search. Evidence asks for gradients that compare the candidates of one mixture.
    rules: ClassVar[tuple[str, ...]] = ("none", "evidence")
    alpha_betas = (0.5, 0.999)  # of Adam, as NNI and DARTS have them
    alpha_decay = 0.0  # likewise: 1e-3 α would outweigh a gradient of that size, and pull towards nothing that is known

    @checked
    def __init__(
        self,
        *,
        # Learning rate η of α (Adam); by default such that a candidate that wins every step leads by ρ after a quarter
        # of the search, see `fitting_eta`.
        eta: Rate | None = None,
        zeta: Rate | None = None,  # learning rate ζ of θ at its start; the evaluator's where `None`
        warmup_epochs: Whole = 0,  # epochs in which only θ is trained and nothing is decided
        # Limit of the search, the evaluator's where `None`; what is open then is decided by its largest π.
        epochs: Count | None = None,
        # Share of the training images on which α learns; the data set's where `None`.
        meta_fraction: Fraction | None = None,
        # What leaves the network during the search: `none`, or by `evidence` every candidate that is shown to be worse
        # than another (see `nasbench.strategies.evidence`).
        fixing: Literal["none", "lead", "evidence"] = "none",
        # Δ, the probability that evidence throws out anything where no candidate is better than another, over the whole
        # network.
        delta: Fraction = 0.05,
        # Which of the candidates is taken that evidence has left: the `cheapest` (see
        # `nasbench.strategies.deciding.pick`), or the one with the largest π.
        undecided: Undecided = "cheapest",
        # R, that are trained in turns on the same choices: what they agree on repeats better than what one of them
        # prefers. With R times the epochs each is trained as long as one alone.
        supernets: Count = 1,
    ) -> None:
        """Set the options. Raises OptionError: a value is out of range."""
        super().__init__()
        if fixing not in self.rules:
            raise OptionError(
                f"{type(self).__name__} fixes nothing by {fixing}: fixing must be {' or '.join(self.rules)}"
            )
        self.supernets = supernets
        self.fixing, self.delta, self.undecided = fixing, delta, undecided
        self.eta, self.zeta, self.warmup_epochs = eta, zeta, warmup_epochs
        self.epochs, self.meta_fraction = epochs, meta_fraction
        self.meta_batches, self.repeats = 1, False  # of one pass; whether each has the same images in every pass
        self.alphas: dict[str, nn.Parameter] = {}
        self.mutables: dict[str, Any] = {}

    @classmethod
    def settle(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Take back what has no effect where evidence does not decide, so that equal searches have equal options."""
        if options.get("fixing") == "evidence":
            return options
        return options | {k: v for k, v in (("delta", 0.05), ("undecided", "cheapest")) if k in options}

    @classmethod
    def preset_options(cls, which: str, common: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """The options in a preset; its warm-up is the same share of however many epochs a run has."""
        options = dict(cls.presets.get(which, {}))
        epochs = (settings.get("strategy_options") or {}).get("epochs") or settings["epochs"]
        if "warmup_epochs" in options and isinstance(epochs, int):
            options["warmup_epochs"] = min(round(options["warmup_epochs"] * epochs / common["epochs"]), epochs - 1)
        return options

    @property
    def numbers(self) -> dict[str, int]:
        """What a result keeps of the search: how many layers were decided, and by evidence how many candidates left."""
        reasons = [d["by"] for d in self.decisions.values()]
        if self.fixing != "evidence":
            return {"fixed_by_threshold": reasons.count("threshold")} if self.fixing == "lead" else {}
        gone = sum(len(d.get("excluded", {})) for d in self.decisions.values())
        return {"decided_by_evidence": reasons.count("evidence"), "excluded_by_evidence": gone}

    def wishes(self) -> SearchWishes:
        """See `Wishing`."""
        return SearchWishes(self.epochs, self.meta_fraction, self.zeta)

    @property
    def decisions(self) -> dict[str, dict[str, Any]]:
        """Why each label was decided, see `DifferentiableModule`."""
        module: Any = self.oneshot_module
        return module.decisions

    def default_mutation_hooks(self) -> list[Any]:
        """NNI's hooks, with our mixed layer first."""
        return [self.layer_class.mutate, *super().default_mutation_hooks()]

    def mutate_model(self, model: Any) -> Any:
        """Turn the space into the supernet, in place, and take its dropout out for the search."""
        # NNI's labels are a subclass of str that a checkpoint may not hold.
        self.mutables = {str(label): mutable for label, mutable in model.simplify().items()}
        several = [k for k, m in self.mutables.items() if isinstance(m, CategoricalMultiple) and m.n_chosen != 1]
        if several and self.fixing != "none":
            raise OptionError(
                f"choice {several[0]!r} takes several of its candidates, and fixing={self.fixing} leaves one of each: "
                "search this space with darts"
            )
        model = super().mutate_model(model)
        self.alphas = {str(label): alpha for label, alpha in self._arch_parameters.items()}
        is_pretrained = declared(model, "is_pretrained", False)
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
            elif isinstance(module, MixedLayer) and is_pretrained:
                module.start_as_identity()
        return model

    def mutate_evaluator(self, evaluator: Any) -> Any:
        """Check that the evaluator suits, then let NNI wrap it."""
        limit = evaluator.trainer.max_epochs
        granted("epochs", self.epochs, limit, "epochs")
        meta_fraction = declared(evaluator.datamodule, "meta_fraction", self.meta_fraction)
        granted("meta_fraction", self.meta_fraction, meta_fraction, "meta_fraction")
        if limit is not None and self.warmup_epochs >= limit:
            raise OptionError(f"warmup_epochs is {self.warmup_epochs}, but the search has only {limit} epoch(s)")
        return super().mutate_evaluator(evaluator)

    def train_dataloader(self, train_dataloader_fn: Any, val_dataloader_fn: Any) -> Any:
        """NNI's pairs of batches; where evidence is gathered, meta batches have the same images in every pass.

        OptionError: they do not, and evidence cannot tell what is new.
        """
        loaders = super().train_dataloader(train_dataloader_fn, val_dataloader_fn)
        self.repeats = "evidence" in self.rules and repeated(loaders["val"])
        if self.fixing == "evidence" and not self.repeats:
            raise OptionError(
                "evidence needs the same meta batches in every pass: give the evaluator a val_dataloader that does not "
                "shuffle"
            )
        self.meta_batches = max(1, len(loaders["val"]))
        return loaders

    def configure_oneshot_module(self, training_module: Any) -> DifferentiableModule:
        """Wrap the evaluator's module."""
        return self.module_class(training_module, self)
