"""How well costs of candidates predict a network's latency: of operators alone, and as differences of whole networks.

`python experiments/limit_costs.py 0.5 96` (width and image size of mbv2_metapool; about five minutes on one core).
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
from numpy.random import RandomState

from nasbench.config import make_config
from nasbench.limits.budget import network
from nasbench.limits.costs import tables, whole_costs
from nasbench.limits.kind import parse
from nasbench.presets import complete

NETWORKS = 10  # drawn at random


def main() -> None:
    """Print the root mean square and the largest error of both."""
    width, size = float(sys.argv[1]), int(sys.argv[2])
    build = partial(network, complete(make_config({"space_options": {"width": width}})), 10, size)
    (limit,) = parse({"latency": "9s"})
    (costs,) = tables([limit], build, size)
    state, places = RandomState(0), costs.places
    drawn = [{label: list(own)[state.randint(len(own))] for label, own in places.items()} for _ in range(NETWORKS)]
    others = [(label, value) for label, own in places.items() for value in own if value != costs.base[label]]
    networks = [costs.base, *({**costs.base, label: value} for label, value in others), *drawn]
    base, *measured = (found.value for found in whole_costs(limit, [build(a) for a in networks], size))
    change = {key: value - base for key, value in zip(others, measured, strict=False)}
    for name, predicted in (
        ("operators alone", [base + costs.of(a) - costs.whole.value for a in drawn]),
        ("differences", [base + sum(change.get(item, 0.0) for item in a.items()) for a in drawn]),
    ):
        errors = 100 * (np.array(predicted) / np.array(measured[len(others) :]) - 1)
        print(f"{name}: root mean square {np.sqrt((errors**2).mean()):.1f} %, largest {abs(errors).max():.1f} %")


if __name__ == "__main__":
    main()
