"""Progressive Meta-Pooling Learning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from nasbench.options import Fraction, checked
from nasbench.strategies.differentiable import Differentiable
from nasbench.strategies.restored import moved
from nasbench.strategies.supernet import DifferentiableModule

# Where the truth is known this finds most, and what it claims is right (docs/results.md, planted truth).
EVIDENCE = {"fixing": "evidence", "undecided": "largest_pi"}


def lead(pi: Sequence[float]) -> tuple[int, float]:
    """The index of the best candidate, and its lead over the second best, π_best − max over m ≠ best of π_m.

    Source: Dong et al., ICASSP 2023, eq. 4. (The loop printed in its Algorithm 1 lets m be the best itself and can
    never fire.) A single candidate leads by its whole π.
    """
    order = sorted(range(len(pi)), key=lambda i: -pi[i])
    return order[0], pi[order[0]] - (pi[order[1]] if len(pi) > 1 else 0.0)


def reachable_lead(steps: int, eta: float, candidates: int) -> float:
    """The largest lead in π that α of K ≥ 2 candidates can have after some steps of Adam at η, from equal α.

    A step of Adam moves α by η at most, so the gap between two by 2η; with the other candidates equal, a gap of g in α
    is a lead of (1 − e^−g) / (1 + (K − 1) e^−g) in π.
    """
    rest = math.exp(-2 * eta * steps)
    return (1 - rest) / (1 + (candidates - 1) * rest)


class ProgressiveModule(DifferentiableModule):
    """PMPL's search: first-order MAML on α, and layers fixed one by one."""

    strategy: PMPL

    def architecture_gradient(self, train: Any, meta: Any, alphas: Sequence[nn.Parameter]) -> list[Tensor]:
        """∇_α L_meta(θ′, α) with θ′ = θ − ζ ∇_θ L_train(θ, α) held constant (eq. 2 and 3, first order)."""
        weights = self.weights()
        with moved(weights, self.virtual_gradient(train, weights), -self.learning_rate()):
            return self.gradient(meta, alphas)

    def outlook(self, steps: int) -> str | None:
        """Warn where η is too small for any candidate to lead by ρ."""
        if self.strategy.fixing == "evidence":
            return super().outlook(steps)
        eta, rho = self.eta, self.strategy.rho
        leads = {len(a): reachable_lead(steps, eta, len(a)) for a in self.alphas.values() if len(a) > 1}
        late = [len(a) for a in self.alphas.values() if leads.get(len(a), 1.0) < rho]
        if not late:
            return None
        return (
            f"{len(late)} of {len(self.alphas)} layers cannot be fixed: in {steps} steps at η = {eta:g} a candidate "
            f"can lead by {leads[max(late)]:.2g} at most, and ρ is {rho:g}; raise eta or epochs"
        )

    def after_step(self) -> None:
        """Fix every layer whose best candidate leads by ρ (eq. 4), or as evidence has it; stop when all are."""
        if self.strategy.fixing == "evidence":
            super().after_step()
            return
        for label, pi in self.probabilities().items():
            if label not in self.fixed:
                best, margin = lead(list(pi.values()))
                if margin >= self.strategy.rho:
                    self.decide(label, "threshold", pi)
                    self.fix(label, list(pi)[best])
        self.stop_when_decided()


class PMPL(Differentiable):
    """Progressive Meta-Pooling Learning: first-order MAML on α, layers fixed one by one.

    By the paper a layer is fixed when one candidate leads by ρ (`fixing=lead`). By `evidence` every candidate leaves as
    soon as it is shown to be worse than another, and a layer is fixed when one is left. Source: Dong et al., ICASSP
    2023, Algorithm 1 and eq. 2–4.
    """

    module_class = ProgressiveModule
    rules = ("lead", "evidence")
    presets: ClassVar = {
        "quick": {"warmup_epochs": 3, **EVIDENCE},
        "cifar": {"warmup_epochs": 5, **EVIDENCE},
        # What evidence does not tell stays without an enhancer, as the weights were trained.
        "finetune": {"warmup_epochs": 1, "fixing": "evidence", "undecided": "cheapest"},
        "paper": {"eta": 3e-4, "rho": 0.2, "meta_fraction": 0.5, "fixing": "lead"},
    }

    @staticmethod
    def words(options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the options."""
        rule = options.get("fixing", "lead")
        return {"fixing": "" if rule == "lead" else f"by {rule}"}

    @checked
    def __init__(self, *, rho: Fraction = 0.2, fixing: Literal["lead", "evidence"] = "lead", **options: Any) -> None:
        """Set ρ, the lead in π at which a layer is fixed and for which η is fitted, and what fixes a layer."""
        super().__init__(fixing=fixing, **options)
        self.rho = rho
