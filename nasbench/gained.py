"""Options that parts have got since records of them are kept, with what runs did before there was a choice.

These values are history: they stay what they are, whatever an option's default becomes.
"""

from typing import Any

from nasbench.config import KINDS, RunConfig

_EVIDENCE = {"delta": 0.05, "undecided": "cheapest", "supernets": 1}
_TRAINING = {"balance": "none", "warmup_epochs": 0, "early_stopping": None}
GAINED: dict[str, dict[str, dict[str, Any]]] = {
    "dataset": {name: {"crop_scale": 0.08, "jitter": 0.0} for name in ("imagefolder", "imagenet")},
    "space": {"menet": {"join": "input_first"}},
    "evaluator": dict.fromkeys(("classification", "online_distillation"), _TRAINING),
    "strategy": {
        "pmpl": {"fixing": "lead", **_EVIDENCE},
        "darts": {"fixing": "none", **_EVIDENCE},
        "zero_cost": {"trained": 1},
    },
}


def with_gained(config: RunConfig) -> RunConfig:
    """A record's configuration with the options that its parts have got since."""
    changes = {}
    for kind in KINDS:
        gained = GAINED.get(kind, {}).get(str(getattr(config, kind)), {})
        options = getattr(config, f"{kind}_options")
        if not gained.keys() <= options.keys():
            changes[f"{kind}_options"] = {**gained, **options}
    return config.model_copy(update=changes)
