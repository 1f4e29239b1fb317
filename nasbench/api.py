"""What `import nasbench` offers to programs and notebooks: the same as the command line, with the same names."""

from __future__ import annotations

import io
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import nn

from nasbench import networks, pipeline
from nasbench.architecture import Architecture
from nasbench.config import RunConfig
from nasbench.errors import RecordError
from nasbench.facts import Decision, Result
from nasbench.presets import resolve_config
from nasbench.record import METRICS, SEARCH, Record
from nasbench.results import collect as collecting
from nasbench.results import figures
from nasbench.show import summary
from nasbench.terminal import plain_console, say

Options = Mapping[str, Any]


def run(
    *,
    out: str | PathLike[str] = "runs",
    space: str | None = None,
    space_options: Options | None = None,
    strategy: str | None = None,
    strategy_options: Options | None = None,
    architecture: str | Mapping[str, Any] | None = None,
    dataset: str | None = None,
    dataset_options: Options | None = None,
    preset: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    retrain_epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    train_images: int | None = None,
    data_root: str | PathLike[str] | None = None,
    download: bool | None = None,
    workers: int | None = None,
    logger: str | None = None,
    weights: str | PathLike[str] | None = None,
    weights_partial: bool | None = None,
    retrain: str | None = None,
    device: str | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    skip_broken: bool | None = None,
    precision: str | None = None,
    deterministic: bool | None = None,
    evaluator: str | None = None,
    evaluator_options: Options | None = None,
    max_trials: int | None = None,
    max_epochs: int | None = None,
    max_minutes: float | None = None,
    limits: Mapping[str, str | float] | None = None,
) -> Run:
    """Search a space, train the network that was found, and test it, as `nasbench run` does; returns the finished run.

    Every argument is the field of `RunConfig` of its name; one that is `None` comes from the preset or from the part
    that it is an option of. Only `out` is none: the folder that receives the record, or the record of an interrupted
    run, which goes on. Raises NasbenchError: something is wrong with the settings or the data; there is no record then.
    """
    settings = {name: value for name, value in locals().items() if name != "out" and value is not None}
    return Run(pipeline.run(resolve_config(settings, say), Path(out)))


def collect(*folders: str | PathLike[str]) -> pd.DataFrame:
    """All finished runs, one row each, see `nasbench.results.collect.Collection`; damaged ones are left out.

    `folders` are records, packs, or folders with either at any depth; `runs` where none is given.
    """
    return collecting.collect([Path(folder) for folder in folders or ("runs",)]).frame


class Run:
    """A run, by its `record`, see `nasbench.record.Record`."""

    def __init__(self, record: str | PathLike[str] | Record) -> None:
        """Open a run by its folder, `FILE.records.xz/NAME` in a pack, or its record. RecordError: there is none."""
        self.record = record if isinstance(record, Record) else Record(Path(record))

    @property
    def path(self) -> Path:
        """The record's folder."""
        return self.record.path

    @property
    def config(self) -> RunConfig:
        """Its complete settings."""
        return self.record.config()

    @property
    def result(self) -> Result:
        """What came out: accuracies as fractions, plain counts, seconds, bytes."""
        return self.record.result()

    @property
    def architecture(self) -> Architecture:
        """Label → candidate."""
        return self.record.architecture()

    @property
    def decisions(self) -> dict[str, Decision]:
        """Label → why it has its candidate."""
        return self.record.decisions()

    @property
    def alphas(self) -> pd.DataFrame:
        """π over the search; columns step, label, candidate, pi, fixed. RecordError: there is none, or damaged."""
        return self._curves(SEARCH)

    @property
    def metrics(self) -> pd.DataFrame:
        """Every measure of every epoch; columns stage, epoch, step, name, value. RecordError as `alphas`."""
        return self._curves(METRICS)

    def model(self, trust: bool = False) -> nn.Module:
        """The trained network, see `nasbench.networks.load_model`."""
        return networks.load_model(self.path, trust)

    def plot(self, what: str = "architecture", trust: bool = False) -> Figure:
        """Draw the run: one of `nasbench.results.figures.WHAT`; `trust` as in `nasbench.networks.load_model`.

        Raises OptionError: unknown kind of figure. RecordError: the run is not finished, or has nothing of the kind.
        """
        found = collecting.collect([self.path])
        if found.problems:
            raise RecordError(f"{self.path}: {found.problems[0].reason}")
        return next(iter(figures.plot(found.frame, what, trust=trust).values()))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """The tables of `nasbench show`, for a notebook."""
        console = plain_console(file=io.StringIO(), record=True)
        console.print(summary(self.record))
        return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def _curves(self, name: str) -> pd.DataFrame:
        if self.record.file(name) is None:
            raise RecordError(f"{self.path} has no {name}")
        return collecting.curves(self.record, name)
