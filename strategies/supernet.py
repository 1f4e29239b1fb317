"""What the differentiable one-shot strategies share: architecture parameters, fixing, and the virtual step."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from nni.mutable import CategoricalMultiple
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from torch import Tensor, nn

from nasbench.contracts import SearchModule
from nasbench.distributed import copy_from_first, mean_over_processes
from nasbench.errors import OptionError
from nasbench.finite import check_finite
from nasbench.registry import declared
from nasbench.strategies.deciding import Evidence, pick
from nasbench.strategies.mixed import MixedLayer, layers_of, live_parameters
from nasbench.strategies.restored import preserved, without_gradient
from nasbench.strategies.turns import Turns, alphas_of

ABSENT = -1e4  # α of what has left: its exponential beside any other is exactly 0, and no optimiser brings it back
FITTING = 0.25  # share of the search after which a candidate that wins every step leads by ρ
RECENT_STEPS = 10  # the loss kept with a decision is the mean of this many steps


def fitting_eta(steps: int, rho: float, candidates: int) -> float:
    """The η with which one of K candidates that wins every step leads by ρ after a share f, `FITTING`, of T steps of α.

    A step of Adam moves α by about η whatever the gradient's size, so the gap between two by 2η; with the other
    candidates equal, a lead of ρ in π is a gap of κ = ln((1 + ρ (K − 1)) / (1 − ρ)) in α. Hence η = κ / (2 f T). Under
    pure noise the gap's deviation at the end is about η √(2T), so that κ is f √(2T) of them away: over 4 with f = 1/4
    and T ≥ 130.
    """
    return math.log((1 + rho * (candidates - 1)) / (1 - rho)) / (2 * FITTING * max(steps, 1))


class DifferentiableModule(BaseOneShotLightningModule):
    """The search part of a differentiable strategy, around the evaluator's Lightning module.

    Every step: θ is trained on a training batch; after the warm-up epochs, α is trained first, on a meta batch, with
    the gradient that `architecture_gradient` gives. Only the training of θ moves batch statistics.
    """

    def __init__(self, training_module: Any, strategy: Any) -> None:
        """Wrap the evaluator's module for a `Differentiable` strategy; the supernet follows with `set_model`."""
        super().__init__(training_module)
        self.strategy = strategy
        self.fixed: dict[str, Any] = {}
        self.decisions: dict[str, dict[str, Any]] = {}
        self.steps = 0
        self.eta = strategy.eta or 0.0
        self.alphas: dict[str, nn.Parameter] = {}
        self.all_alphas: list[nn.Parameter] = []
        # α of NNI's mixed operations, inputs and repeats, which know no fixing: a hard α makes their softmax exact.
        self._soft: set[int] = set()
        self._searched, self._total = 0, 0  # steps of α so far, and in all
        self._meta_batch: int | None = None  # which of the meta batches this step has, if they are the same every pass
        self._taken: dict[str, Any] = {}  # of layers that stayed undecided
        self._out: list[tuple[str, Any]] = []  # labels and candidates, by evidence, in this step
        self._unreachable: list[str] = []  # choices inside candidates that have left the network
        self._recent: deque[Tensor] = deque(maxlen=RECENT_STEPS)

    # α

    @property
    def model(self) -> Any:
        """The supernet, or several of it in `Turns`, which is no space."""
        return self.training_module.model

    def set_model(self, model: nn.Module) -> None:
        """Set the supernet, or several of it, and find their architecture parameters."""
        if self.strategy.supernets > 1:
            model = Turns(model, self.strategy.supernets, fresh=not declared(model, "is_pretrained", False))
        super().set_model(model)
        used = {id(p) for p in model.parameters()}
        self.alphas = {label: a for label, a in self.strategy.alphas.items() if id(a) in used}
        # Mixed cells make further ones for their edges. The order is the same in every process: NNI's own goes
        # through a set, and an optimiser's state that is loaded in another order lands on other layers' α.
        found = {id(a): a for a in self.alphas.values()}
        self._soft = set()
        for module in self.supernet_modules():
            own = {id(a): a for a in alphas_of(module)}
            found |= own
            if not isinstance(module, MixedLayer):
                self._soft |= own.keys()
        self.all_alphas = list(found.values())
        self.evidence = Evidence({k: self.strategy.mutables[k].values for k in self.alphas}, self.strategy.delta)

    def open_alphas(self) -> list[nn.Parameter]:
        """Architecture parameters of what is not fixed yet; with a single candidate there is nothing to fix."""
        closed = {id(a) for k, a in self.alphas.items() if len(a) == 1 or k in self.fixed or k in self._unreachable}
        return [a for a in self.all_alphas if id(a) not in closed]

    def probabilities(self) -> dict[str, dict[Any, float]]:
        """π by label and candidate; one transfer from the device for all of them."""
        if not self.alphas:
            return {}
        of_layers = self.strategy.layer_class.shares
        shares = [(MixedLayer.shares if id(a) in self._soft else of_layers)(a) for a in self.alphas.values()]
        flat = torch.cat(shares).cpu()
        parts = zip(self.alphas, flat.split([len(a) for a in self.alphas.values()]), strict=True)
        mutables = self.strategy.mutables
        return {label: dict(zip(mutables[label].values, pi.tolist(), strict=True)) for label, pi in parts}

    def fix(self, label: str, candidate: Any) -> None:
        """Fix one label's candidate everywhere it is used: the others leave the network, and its α stands still.

        The parameters of what left stay in the module with `requires_grad=False`, because an optimiser's saved state
        can only be loaded into groups of the same parameters.
        """
        alpha = self.alphas[label]
        for layer in layers_of(self, label):
            layer.fixed = candidate
        if id(alpha) in self._soft:
            with torch.no_grad():
                alpha.fill_(ABSENT)[self._index(label, candidate)] = 0.0
        _retire([alpha])
        self.fixed[label] = candidate
        self._retire_dead()

    def exclude(self, label: str, candidate: Any) -> None:
        """Take one candidate of a label out of the network, as `fix` does with all but one; its π is 0."""
        with torch.no_grad():
            self.alphas[label][self._index(label, candidate)] = ABSENT
        for layer in layers_of(self, label):
            layer.excluded.add(candidate)
        self._retire_dead()

    def _index(self, label: str, candidate: Any) -> int:
        return list(self.strategy.mutables[label].values).index(candidate)

    def _retire_dead(self) -> None:
        live = {id(p) for p in live_parameters(self.model)}
        searched = {id(a) for a in self.all_alphas}
        _retire(p for p in self.model.parameters() if id(p) not in live and id(p) not in searched)
        self._unreachable = [k for k, a in self.alphas.items() if id(a) not in live and k not in self.fixed]

    def decide(self, label: str, by: str, pi: dict[Any, float]) -> None:
        """Write down why a label was decided."""
        recent = mean_over_processes([torch.stack(list(self._recent)).mean()])[0] if self._recent else None
        check_finite("search", self.steps, self, recent)
        self.decisions[label] = {
            "step": self.steps,
            "pi": {str(k): v for k, v in pi.items()},
            "by": by,
            "train_loss": None if recent is None else recent.item(),
            **(self.evidence.facts(label) if label in self.alphas else {}),
        }
        if self.strategy.fixing == "evidence" and label in self.alphas:
            known = {"survivors": list(map(str, self.evidence.survivors(label)))}
            self.decisions[label] |= {**known, "excluded": self.evidence.excluded[label]}

    # One step

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """Train α (after the warm-up), then θ, on a batch of each part."""
        train, meta = batch["train"], batch["val"]
        if isinstance(self.model, Turns):
            self.model.turn = self.steps % len(self.model.networks)
        searching = self.trainer.current_epoch >= self.strategy.warmup_epochs
        if searching and self.open_alphas():
            self._meta_batch = batch_idx % self.strategy.meta_batches if self.strategy.repeats else None
            self._train_alphas(train, meta)
        with without_gradient(self.all_alphas):
            outcome = self.training_module.training_step(train, batch_idx)
            loss = _loss(outcome)
            module = self.training_module
            clip = module.gradient_clip if isinstance(module, SearchModule) else None
            self.advance_optimization(loss, batch_idx, clip)
        self.advance_lr_schedulers(batch_idx)
        self._recent.append(loss.detach())
        self.steps += 1
        if searching:
            copy_from_first(self.all_alphas)  # whatever has come between them, all processes decide alike
            self.after_step()
        return outcome

    def _train_alphas(self, train: Any, meta: Any) -> None:
        optimizer: Any = self.architecture_optimizers()
        alphas = self.open_alphas()
        with self._quiet(), preserved(self.training_module.buffers()):  # batch statistics above all
            gradients = self.architecture_gradient(train, meta, alphas)
        gradients = mean_over_processes(gradients)
        of_label = {id(a): gradient for a, gradient in zip(alphas, gradients, strict=True)}
        searched = {k: of_label[id(a)] for k, a in self.alphas.items() if id(a) in of_label}
        self._searched += 1
        if "evidence" in self.strategy.rules:
            is_late = 2 * self._searched > self._total
            self._out = self.evidence.observe(searched, self.alphas, is_late, self._meta_batch, self.steps + 1)
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        optimizer.step()
        optimizer.zero_grad()

    def architecture_gradient(self, train: Any, meta: Any, alphas: Sequence[nn.Parameter]) -> list[Tensor]:
        """∇_α of the strategy's objective, of a batch for θ and one for α: one gradient an open α, of its shape."""
        raise NotImplementedError

    def after_step(self) -> None:
        """What a strategy does after a step beyond the warm-up: by evidence, throw candidates out and fix layers."""
        if self.strategy.fixing != "evidence":
            return
        for label, candidate in self._out:
            self.exclude(label, candidate)
        for label in dict.fromkeys(label for label, _ in self._out):
            survivors = self.evidence.survivors(label)
            if len(survivors) == 1 and label not in self.fixed:
                self.decide(label, "evidence", self.probabilities()[label])
                self.fix(label, survivors[0])
        self.stop_when_decided()

    def stop_when_decided(self) -> None:
        """End the search where nothing is left to decide."""
        if not self.open_alphas():
            self.trainer.should_stop = True

    def outlook(self, steps: int) -> str | None:
        """A warning, in one line, of what will go wrong in so many steps after the warm-up; or `None`."""
        batches = self.strategy.meta_batches
        if self.strategy.fixing != "evidence" or self.evidence.races.can_decide(steps, batches):
            return None
        others = "one batch" if batches == 1 else f"{batches} batches"
        return (
            f"no layer can be decided, not even if a candidate wins all {steps} steps on {others} of other "
            "meta images; more training images, a larger meta_fraction, smaller batches or more epochs give more"
        )

    def gradient(self, batch: Any, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Gradient of the loss of a batch; zeros where a parameter takes no part."""
        loss = _loss(self.training_module.training_step(batch, 0))
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]

    def weights(self) -> list[nn.Parameter]:
        """The weights θ that are being trained in this step."""
        waiting = self.model.waiting() if isinstance(self.model, Turns) else set()
        every = [p for group in self._weight_optimizer().param_groups for p in group["params"] if p.requires_grad]
        return [p for p in every if id(p) not in waiting]

    def learning_rate(self) -> float:
        """ζ as scheduled now."""
        return float(self._weight_optimizer().param_groups[0]["lr"])

    def virtual_gradient(self, train: Any, weights: Sequence[nn.Parameter]) -> list[Tensor]:
        """∇_θ of the training loss for the virtual step, the mean over all processes."""
        with without_gradient(self.all_alphas):
            return mean_over_processes(self.gradient(train, weights))

    # Lightning

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        """Adam with the strategy's betas and weight decay."""
        alphas = self.all_alphas
        if not alphas:
            raise OptionError("the space has nothing to search: every choice has a single candidate or there is none")
        epochs = int(self.trainer.max_epochs or 1)
        searching = epochs - self.strategy.warmup_epochs
        self._total = int(self.trainer.estimated_stepping_batches) // epochs * searching
        if self.strategy.eta is None:
            most = max(map(len, self.alphas.values()), default=2)
            self.eta = fitting_eta(self._total, self.strategy.rho, most)
        return torch.optim.Adam(alphas, self.eta, self.strategy.alpha_betas, weight_decay=self.strategy.alpha_decay)

    def postprocess_weight_optimizers(self, optimizers: Any) -> Any:
        """Take α out of the evaluator's optimiser."""
        alphas = {id(a) for a in self.all_alphas}
        optimizer = optimizers["optimizer"] if isinstance(optimizers, dict) else optimizers
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise OptionError("differentiable strategies need an evaluator with exactly one optimiser")
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in alphas]
        return optimizers

    def on_train_start(self) -> None:
        """Check that the evaluator was built with the strategy's ζ."""
        super().on_train_start()
        for group in self._weight_optimizer().param_groups:
            granted("zeta", self.strategy.zeta, group.get("initial_lr", group["lr"]), "learning_rate")

    def on_train_end(self) -> None:
        """Decide what is left: by the largest π, or among what evidence has left by the rule for that."""
        copy_from_first(self.all_alphas)
        pi = self.probabilities()
        for label in map(str, self.export()):
            if label in self.decisions:
                continue
            survivors = self.evidence.survivors(label) if label in self.alphas else []
            if self.strategy.fixing == "evidence" and len(survivors) > 1:
                taken = pick(self.strategy.undecided, label, survivors, pi[label], self.model)
                several = isinstance(self.strategy.mutables[label], CategoricalMultiple)  # inputs, even a single one
                self._taken[label] = [taken] if several else taken
                self.decide(label, "undecided", pi[label])
            else:
                self.decide(label, "limit", pi.get(label, {}))
        super().on_train_end()

    def export(self) -> dict[str, Any]:
        """The architecture: what is fixed, what was taken of undecided layers, else what has the largest π."""
        return {**super().export(), **self._taken}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is fixed, which the weights do not tell."""
        checkpoint["nasbench"] = {
            "fixed": dict(self.fixed),
            "decisions": dict(self.decisions),
            "steps": self.steps,
            "evidence": self.evidence.state(),
            "searched": self._searched,
            "recent": list(self._recent),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fix again what was fixed."""
        state = checkpoint["nasbench"]
        self.evidence.load(state["evidence"])
        self._searched = state["searched"]
        self._recent.extend(state["recent"])
        if self.strategy.fixing == "evidence":
            for label, out in self.evidence.excluded.items():
                for candidate in self.strategy.mutables[label].values if out else ():
                    if str(candidate) in out:
                        self.exclude(label, candidate)
        for label, candidate in state["fixed"].items():
            if label in self.alphas:
                self.fix(label, candidate)
        self.decisions, self.steps = dict(state["decisions"]), state["steps"]

    # Helpers

    def _weight_optimizer(self) -> Any:
        return next(o for o in self.trainer.optimizers if not getattr(o, "is_arch_optimizer", False))

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Keep the losses of the inner passes out of the training curves."""
        log = self.training_module.log
        self.training_module.log = lambda *args, **kwargs: None
        try:
            yield
        finally:
            self.training_module.log = log


def _loss(outcome: Any) -> Tensor:
    loss: Tensor = outcome["loss"] if isinstance(outcome, dict) else outcome
    return loss


def granted(option: str, wish: float | None, found: float | None, name: str) -> None:
    """Check that an evaluator was built as its strategy wished."""
    if wish is not None and wish != found:
        raise OptionError(f"{option} is {wish}, but the evaluator was built with {found}: give it {name}={wish}")


def _retire(parameters: Iterable[nn.Parameter]) -> None:
    # Adam moves a parameter by its momentum even when the gradient is zero; without a gradient it is skipped.
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
