"""ENAS: its controller against its definition."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from torch import Tensor

from nasbench.contracts import main_logits
from nasbench.errors import LimitError
from nasbench.networks import build_space
from nasbench.pipeline import build_evaluator
from nasbench.strategies.enas import Controller, Enas
from tests.test_strategies_sampling import CONFIG


def log_probability(controller: Controller, path: tuple[int, ...]) -> Tensor:
    """The log-probability of a path, written out from the equations of an LSTM cell."""
    cell = controller.cell
    x, h, c = controller.begin, torch.zeros(64).to(controller.begin), torch.zeros(64).to(controller.begin)
    total = x.new_zeros(())
    for place, chosen, head in zip(path, controller.chosen, controller.heads, strict=True):
        i, f, g, o = (cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        logits = 2.5 * ((head.weight @ h) / 5).tanh()  # type: ignore[operator]
        total = total + logits[place] - logits.exp().sum().log()
        x = chosen.weight[place]  # type: ignore[index]
    return total


def sharp(counts: list[int]) -> Controller:
    """A controller whose choices are far from uniform and depend on each other."""
    torch.manual_seed(1)
    controller = Controller(counts).double()
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.mul_(12)
    return controller


def test_the_controller_draws_paths_by_its_own_probabilities() -> None:
    controller, paths, draws = sharp([3, 2, 2]), list(product(range(3), range(2), range(2))), 6000
    expected = torch.stack([log_probability(controller, path) for path in paths]).exp()
    assert expected.sum().item() == pytest.approx(1, abs=1e-12)
    assert expected.max() > 4 * expected.min()
    found = torch.zeros(len(paths))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(draws):
            places, log_pi = controller(torch.rand(7, generator=generator, dtype=torch.float64))
            found[paths.index(tuple(places))] += 1
            given = sum(each[place].item() for each, place in zip(log_pi, places, strict=True))
            assert given == pytest.approx(math.log(expected[paths.index(tuple(places))].item()), abs=1e-9)
    chi_squared = ((found - draws * expected) ** 2 / (draws * expected)).sum().item()
    assert chi_squared < 31.3  # 11 degrees of freedom, p = 0.001
    likeliest, _ = controller()
    assert likeliest[0] == expected.view(3, 4).sum(1).argmax()


def searched(strategy: Enas) -> Any:
    """The one-shot module of a search of one epoch."""
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 32})
    evaluator = build_evaluator(config, "search")
    strategy(RawFormatModelSpace.from_model(build_space(config, 10, 8), evaluator), SequentialExecutionEngine())
    return strategy.oneshot_module


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_step_of_the_controller_is_reinforce_with_a_baseline(weight: float) -> None:
    """It is (R − b) ∇ log π of a path, R its accuracy on the meta batch and w Σ H, b a moving mean of R."""
    strategy, rewards = Enas(entropy=weight, networks=2), list[float]()

    class Spy(strategy.module_class):  # type: ignore[misc, name-defined]
        def configure_architecture_optimizers(self) -> Any:
            super().configure_architecture_optimizers()
            return torch.optim.SGD(self.controller.parameters(), 1.0)

        def _path(self) -> Any:
            self.path = super()._path()
            return self.path

        def _draw(self, count: int) -> Any:
            kept, found = getattr(self, "path", None), super()._draw(count)
            self.drawn_last, self.path = self.path, kept  # the path of α's step, not that of θ's
            return found

        def _train_alphas(self, train: Any, meta: Any) -> None:
            before = {k: v.clone() for k, v in self.controller.named_parameters()}
            buffers = {k: v.clone() for k, v in self.training_module.named_buffers()}
            own = Controller(self.controller.counts)
            own.load_state_dict(self.controller.state_dict())
            super()._train_alphas(train, meta)
            assert all(torch.equal(v, buffers[k]) for k, v in self.training_module.named_buffers())
            places = tuple(self.path[0])
            for layer in self.supernet_modules():
                if hasattr(layer, "drawn"):
                    layer.drawn = [places[list(self.alphas).index(str(layer.label))]]
            with torch.no_grad():
                right = main_logits(self.model(meta[0])).argmax(1) == meta[1]
            for name, buffer in self.training_module.named_buffers():
                buffer.copy_(buffers[name])
            entropies = [-(p.exp() * p).sum().item() for p in self.path[1]]
            rewards.append(right.float().mean().item() + weight * sum(entropies))
            baseline = rewards[0]
            for reward in rewards:
                baseline = 0.99 * baseline + 0.01 * reward
            log_probability(own, places).backward()
            for name, parameter in own.named_parameters():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                moved = dict(self.controller.named_parameters())[name] - before[name]
                torch.testing.assert_close(moved, (rewards[-1] - baseline) * gradient, rtol=1e-3, atol=1e-6)

    strategy.module_class = Spy
    module = searched(strategy)
    assert len(set(rewards)) > 2
    assert module.strategy is strategy


def test_networks_beyond_a_limit_do_not_compete() -> None:
    strategy = Enas(networks=5)
    strategy.allows = lambda architecture: architecture["stage1.enhancer"] == "none"
    module = searched(strategy)
    assert module.export()["stage1.enhancer"] == "none"
    assert {decision["by"] for decision in module.decisions.values()} == {Enas.decided_by}
    pi = module.probabilities()
    assert all(module.decisions[label]["pi"] == pi[label] for label in pi)
    strategy = Enas(networks=5)
    strategy.allows = lambda architecture: False
    with pytest.raises(LimitError, match="none of 10,000 networks that the controller drew keeps the limits"):
        searched(strategy)
