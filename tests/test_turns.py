"""Several supernets in turns: common choices, weights of their own, one at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nasbench.architecture import instantiate, validate
from nasbench.evaluators.classification import Classification
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.strategies.pmpl import PMPL
from nasbench.strategies.turns import Turns
from tests.test_fixing import LABEL, scaled, supernet
from tests.test_supernet import search
from tests.toys import CentrePixel


def small() -> MobileNetV2MetaPooling:
    """The real space, as small as it gets."""
    return MobileNetV2MetaPooling(width=0.05, image_size=8, num_classes=10, candidates="none,avg3,global")


def test_supernets_have_weights_of_their_own_and_common_choices() -> None:
    module = supernet(small(), PMPL(supernets=3))
    first, *others = module.model.networks
    assert len(others) == 2
    alphas = {id(a) for a in module.all_alphas}
    assert len(alphas) == 17
    for other in (*others, first):
        assert {id(p) for p in other.parameters()} >= alphas
    for (name, one), two, three in zip(first.named_parameters(), *(o.parameters() for o in others), strict=True):
        if id(one) in alphas:
            assert one is two is three
            continue
        assert len({id(one), id(two), id(three)}) == 3
        assert torch.equal(one.flatten().sort()[0], two.flatten().sort()[0])
        if one.dim() > 1 and len(one.unique()) > 4:
            assert not torch.equal(one, two), name
            assert not torch.equal(two, three), name


def test_pretrained_supernets_begin_alike() -> None:
    space = small()
    space.is_pretrained = True  # type: ignore[assignment]
    first, second = supernet(space, PMPL(supernets=2)).model.networks
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_step_trains_the_supernet_whose_turn_it_is_and_no_other() -> None:
    turns: list[int] = []

    class Spy(PMPL.module_class):  # type: ignore[misc]
        def states(self) -> list[dict[str, Tensor]]:
            alphas = {id(a) for a in self.all_alphas}
            return [
                {n: t.detach().clone() for n, t in (*m.named_parameters(), *m.named_buffers()) if id(t) not in alphas}
                for m in self.model.networks
            ]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            before = self.states()
            result = super().training_step(batch, batch_idx)
            moved = [any(not torch.equal(o[n], b[n]) for n in o) for o, b in zip(before, self.states(), strict=True)]
            assert sum(moved) == 1
            turns.append(moved.index(True))
            return result

    strategy = PMPL(supernets=3, eta=0.01)
    strategy.module_class = Spy
    data = {"image_size": 8, "train_images": 64, "batch_size": 8}
    module = search(strategy, small(), Classification(stage="search", epochs=1, device="cpu", data=data))
    assert turns == [0, 1, 2, 0, 1, 2, 0][: len(turns)]
    assert len(turns) > 4  # the first has momentum by its second turn
    counts = {int(b) for n, b in module.named_buffers() if n.endswith("num_batches_tracked")}
    assert counts == {2} if len(turns) == 6 else counts <= {1, 2, 3}


def test_what_several_supernets_find_trains_as_usual() -> None:
    strategy = PMPL(fixing="evidence", supernets=3, eta=0.01)
    how: dict[str, Any] = {"dataset": "tests.toys:Checkerboard", "epochs": 3, "device": "cpu", "learning_rate": 0.005}
    torch.manual_seed(0)
    data = {"batch_size": 2, "meta_fraction": 0.5}
    module = search(
        strategy, CentrePixel(candidates="none,avg3,avg5"), Classification(**how, stage="search", data=data)
    )
    assert isinstance(module.model, Turns)
    assert module.export() == next(strategy.list_models()).sample == {LABEL: "none"}
    assert module.decisions[LABEL]["by"] == "evidence"
    for layer in (network.layer for network in module.model.networks):
        assert layer.fixed == "none"
    retraining = Classification(**how, stage="retrain", data={"batch_size": 16})
    retraining.evaluate(instantiate(CentrePixel, validate(CentrePixel(), module.export())))
    assert retraining.test()["top1"] > 0.9


def test_one_supernet_is_a_search_as_ever() -> None:
    found = []
    for options in ({"supernets": 1}, {}):
        torch.manual_seed(0)
        found.append(list(scaled(PMPL(eta=0.01, **options), steps=30).named_parameters()))
    for (name, one), (same, ever) in zip(*found, strict=True):
        assert name == same
        assert torch.equal(one, ever)
