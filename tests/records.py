"""Synthetic records, and rows of the tables made of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasbench import record as records
from nasbench.config import dump_config
from nasbench.facts import DataFacts, Decision, Doubt, Exclusion, Result
from nasbench.networks import label_of
from nasbench.presets import resolve_config
from nasbench.record import Record

LABELS = [f"block{i:02d}.enhancer" for i in range(1, 18)]
NAMES = ("none", "avg3", "global")
PAPER = {label: "global" if i > 8 else "none" for i, label in enumerate(LABELS, 1)}
CURVES = (("search", "train_top1"), ("retrain", "train_loss"), ("retrain", "val_top1"))


def write_run(
    folder: Path,
    top1: float = 0.9,
    *,
    strategy: str | None = None,
    architecture: Mapping[str, str] | str = "none",
    started: str | None = None,
    steps: int = 0,
    **settings: Any,
) -> Path:
    """A finished record with invented results.

    Args:
        folder: that receives it.
        top1: fraction.
        strategy: that found the architecture; where it is `None`, the architecture was given.
        architecture: label → candidate, or a name.
        started: when.
        steps: of the search; more than 0 also write its curves.
        **settings: further fields of `RunConfig`.
    """
    how: dict[str, Any] = {"architecture": architecture} if strategy is None else {"strategy": strategy}
    if strategy == "pmpl":  # whatever the preset has: the decisions below are by threshold
        settings["strategy_options"] = {"fixing": "lead", **settings.get("strategy_options", {})}
    config = resolve_config({**settings, **how})
    names = [architecture] if isinstance(architecture, str) else []
    if isinstance(architecture, str):
        known = {"local": dict.fromkeys(LABELS, "avg3"), "paper": PAPER}
        architecture = known.get(architecture, dict.fromkeys(LABELS, architecture))
    record = Record.create(folder, config)
    if started is not None:
        record.write_json(records.ENVIRONMENT, record.environment().model_copy(update={"started": started}))
    record.write_json(records.DATA, DataFacts(class_names=[str(i) for i in range(10)], image_size=16))
    record.write_confusion([[9 if i == j else int(i == j + 1) for j in range(10)] for i in range(10)])
    record.write_json(records.ARCHITECTURE, architecture)
    pi = {"none": 0.2, "avg3": 0.2, "global": 0.6}
    by = Decision(by="threshold", step=steps // 2, pi=pi, train_loss=0.5) if steps else Decision(by="given")
    record.write_json(records.DECISIONS, dict.fromkeys(architecture, by))
    if steps:
        rows = [
            (step, label, name, pi[name] if step > steps // 2 else 1 / 3, int(step > steps // 2))
            for step in range(steps)
            for label in architecture
            for name in NAMES
        ]
        record.write_csv(records.SEARCH, rows)
    curves = [(stage, e, e, n, 1 - 1 / (e + 1)) for stage, n in CURVES for e in range(1, 4)]
    record.write_csv(records.METRICS, curves)
    for stage in records.STAGES:
        record.finish_stage(stage, seconds=1.5, peak_memory_bytes=2**20)
    result = Result(
        top1=top1,
        top5=min(1.0, top1 + 0.05),
        params=1000 + sum(map(len, architecture.values())),
        madds=2_000_000,
        search_seconds=3.5,
        retrain_seconds=7.25,
        peak_memory_bytes=2**20,
        search={"fixed_by_threshold": len(architecture)} if steps else {},
        architecture=dict(architecture),
        names=names,
        label=label_of(config, architecture, names),
        record=str(record.path),
    )
    record.write_json(records.RESULT, result)
    record.set_status(state="finished")
    return unsealed(record.path)


def unsealed(path: Path) -> Path:
    """A record without SHA-256, as earlier versions wrote it: what a test changes is judged by what it says."""
    status = json.loads((path / records.STATUS).read_text())
    (path / records.STATUS).write_text(json.dumps({**status, "sha256": {}}))
    return path


def write_evidence(folder: Path, decisions: Mapping[str, Decision] | None = None, **options: Any) -> Path:
    """A finished record of a search of 600 steps by evidence.

    Args:
        folder: that receives it.
        decisions: label → decision, in the place of: one layer decided, one undecided between two of four candidates,
            and one between four that are level.
        **options: of the strategy, in the place of those of a search by evidence.
    """
    names = ("none", "avg3", "max3", "global")
    out = {
        "avg3": Exclusion(step=140, by="max3", odds=21.3),
        "none": Exclusion(step=310, by="max3", odds=1e300),
        "global": Exclusion(step=420, by="max3", odds=35.2),
    }
    pi = dict(zip(names, (0.2, 0.1, 0.4, 0.3), strict=True))
    doubt = Doubt(best="none", rival="global", mean=0.003, deviation=0.1, steps=590, needed=8954)
    some = {name: out[name].model_copy(update={"by": "none"}) for name in ("avg3",)}
    usual = {
        "block01.enhancer": Decision(by="evidence", step=420, pi=pi, survivors=["max3"], excluded=out),
        "block02.enhancer": Decision(
            **{"by": "undecided", "step": 600, "pi": pi, "halves": ["none", "global"]},
            **{"survivors": ["none", "max3", "global"], "excluded": some, "doubt": doubt},
        ),
        "block03.enhancer": Decision(
            **{"by": "undecided", "step": 600, "pi": pi, "halves": ["avg3", "avg3"], "survivors": [*names]},
            doubt=doubt.model_copy(update={"rival": "avg3", "mean": 0.0, "needed": None}),
        ),
    }
    found = dict(decisions or usual)
    chosen = {label: (d.survivors or ["none"])[0] for label, d in found.items()}
    path = write_run(folder, strategy="pmpl", architecture=chosen, steps=6)
    record = Record(path)
    given = {"fixing": "evidence", "delta": 0.05, "undecided": "cheapest", "supernets": 1, **options}
    config = record.config()
    changed = config.model_copy(update={"strategy_options": {**config.strategy_options, **given}})
    records.write_atomic(path / records.CONFIG, dump_config(changed))
    record.write_json(records.DECISIONS, found)
    rows = [
        (step, label, name, 0.25 + 0.0001 * i * step * (name in decision.survivors), int(step >= 420 and i == 0))
        for step in range(0, 601, 20)
        for i, (label, decision) in enumerate(found.items())
        for name in names
    ]
    record.write_csv(records.SEARCH, rows)
    return path
