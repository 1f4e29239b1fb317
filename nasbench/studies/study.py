from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nasbench.config import KINDS, RESULT, RunConfig, read_config
from nasbench.errors import NasbenchError, OptionError, unknown
from nasbench.presets import layer, resolve_config

if TYPE_CHECKING:
    from nasbench.studies.plan import Known

VARIANT = "variant"  # the parameter that says which variant a run is of
RANGE = ("from", "to", "step", "count", "scale")
# NNI's distributions, and how many numbers each takes; `choice` takes a list.
DISTRIBUTIONS = {
    "choice": None,
    **dict.fromkeys(("randint", "uniform", "loguniform", "normal", "lognormal"), 2),
    **dict.fromkeys(("quniform", "qloguniform"), 3),
}
MAX_RUNS = 10_000


class Algorithm(BaseModel):
    """One of NNI's tuners or assessors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # as NNI calls it, e.g. `TPE`, `Evolution`, `Medianstop`
    # Its arguments; `optimize_mode` is `maximize`, since every measure here is an accuracy.
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    label: str  # what a reader sees, e.g. `pmpl, seed 0`
    parameters: Mapping[str, Any]  # what varies, as NNI's portal shows it
    config: RunConfig  # the run's complete configuration
    interrupted: Known | None = None  # the record with which it goes on
    seconds: float | None = None  # that it is expected to take; `None` where no finished run is like it


class Study(BaseModel):
    """A set of runs: every combination of rows, seeds and other settings, or as many as a tuner may try."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="sweep", min_length=1, max_length=80)  # in NNI's portal
    # `RunConfig` fields of every run. Options of a space, strategy or evaluator are for runs with the same.
    base: dict[str, Any] = Field(default_factory=dict)
    # The rows: named groups of `RunConfig` fields over the base; each is combined with the whole grid.
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    # Field of `RunConfig`, options with a dot (`strategy_options.rho`) → list of values, or `{from, to, step}` or
    # `{from, to, count, scale}` (both ends belong to it; `scale` is `linear` or `log`).
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    # Combinations that are left out: each a mapping of what varies (`variant`, too) to a value or a list of values.
    exclude: list[dict[str, Any]] = Field(default_factory=list)
    # Field → distribution, e.g. `{loguniform: [0.003, 0.3]}`, from which a tuner draws
    search: dict[str, dict[str, list[Any]]] = Field(default_factory=dict)
    tuner: Algorithm = Algorithm(name="TPE")  # of NNI, for `search`
    assessor: Algorithm | None = None  # of NNI; may stop runs early by their accuracy so far
    trials: int = Field(default=20, ge=1, le=MAX_RUNS)  # how many runs a tuner may try
    # Runs at a time; where `None`, one for every two cores, or one a GPU.
    concurrency: int | None = Field(default=None, ge=1, le=1000)

    @field_validator("grid", mode="before")
    @classmethod
    def _expand_ranges(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        return {key: _values(str(key), value) for key, value in given.items()}

    @field_validator("search")
    @classmethod
    def _check_distributions(cls, given: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        for key, distribution in given.items():
            if len(distribution) != 1:
                raise ValueError(f"{key} must have exactly one distribution, e.g. {{uniform: [0.1, 0.3]}}")
            ((name, numbers),) = distribution.items()
            if name not in DISTRIBUTIONS:
                raise ValueError(unknown("distribution", name, DISTRIBUTIONS))
            if DISTRIBUTIONS[name] not in (None, len(numbers)) or not numbers:
                raise ValueError(f"{key}: {name} takes {DISTRIBUTIONS[name] or 'some'} values, not {len(numbers)}")
        return given

    @model_validator(mode="after")
    def _check_keys(self) -> Study:
        fields = RunConfig.model_fields
        for key in (*self.grid, *self.search):
            field, dot, option = key.partition(".")
            if field not in fields:
                raise OptionError(unknown("setting", field, fields))
            if dot and (not field.endswith("_options") or not option):
                raise OptionError(f"{key!r}: only options have a dot, e.g. strategy_options.rho")
            if not dot and field.endswith("_options"):
                raise OptionError(f"{key!r}: name the option that varies, e.g. {field}.NAME")
        for where, given in (("base", self.base), *((f"variant {k!r}", v) for k, v in self.variants.items())):
            for key in given:
                if key not in fields:
                    raise OptionError(f"{where}: {unknown('setting', key, fields)}")
        if self.search and (self.grid or self.variants or self.exclude):
            raise ValueError("a sweep has either a search or a grid (with variants): a choice fits into a search, too")
        for key in (key for combination in self.exclude for key in combination):
            if key not in self._varied:
                raise ValueError(f"exclude: {unknown('varied setting', key, self._varied)}")
        return self

    @property
    def _varied(self) -> dict[str, list[Any]]:
        return {**({VARIANT: list(self.variants)} if self.variants else {}), **self.grid}

    def runs(self) -> list[Planned]:
        """Every run of the grid; none where a tuner chooses. OptionError: one is wrong, or two are the same."""
        if self.search:
            return []
        count = math.prod(map(len, self._varied.values()))
        if count > MAX_RUNS:
            raise OptionError(f"the grid has {count} combinations; at most {MAX_RUNS} are possible")
        # The seed varies slowest, so that an early stop leaves whole rounds behind.
        order = sorted(self._varied, key=lambda key: key != "seed")
        products = itertools.product(*(self._varied[key] for key in order))
        picked = (dict(zip(order, values, strict=True)) for values in products)
        combinations = [{key: combination[key] for key in self._varied} for combination in picked]
        for pattern in self.exclude:
            if not any(_matches(parameters, pattern) for parameters in combinations):
                raise OptionError(f"exclude: no combination of the grid has {_text(pattern)}")
        chosen = [p for p in combinations if not any(_matches(p, pattern) for pattern in self.exclude)]
        if not chosen:
            raise OptionError("every combination of the grid is excluded")
        seen: dict[str, Planned] = {}
        for run in map(self.run, chosen):
            same = seen.setdefault(run.config.digest(*RESULT), run)
            if same is not run:
                raise OptionError(f"the runs {same.label!r} and {run.label!r} are the same: name each value once")
        return list(seen.values())

    def run(self, parameters: Mapping[str, Any]) -> Planned:
        """The run of a set of parameters. Raises OptionError: a setting is wrong; the message names the run."""
        label = self.label(parameters)
        varied: dict[str, Any] = {}
        for key, value in parameters.items():
            field, dot, option = key.partition(".")
            if dot:
                varied.setdefault(field, {})[option] = value
            elif key != VARIANT:
                varied[key] = value
        settings = layer(layer(self.base, self.variants.get(parameters.get(VARIANT, ""), {})), varied)
        try:
            return Planned(label, dict(parameters), resolve_config(settings))
        except OptionError as e:
            raise OptionError(f"run {label!r}: {e}") from e

    def parameters_of(self, config: RunConfig) -> dict[str, Any] | None:
        """The parameters by which a tuner may have come to a configuration; `None` where it is none of its runs."""
        settings = {**config.model_dump(mode="json"), "strategy": config.method}
        parameters = {}
        for key in self.search:
            field, dot, option = key.partition(".")
            parameters[key] = settings[field].get(option) if dot else settings[field]
        if None in parameters.values():
            return None
        try:
            same = self.run(parameters).config.digest(*RESULT) == config.digest(*RESULT)
        except NasbenchError:
            return None
        return parameters if same else None

    def label(self, parameters: Mapping[str, Any]) -> str:
        """What a run is called, e.g. `pmpl, seed 0`."""
        if not parameters:
            return self.name
        last = [key.rpartition(".")[2] for key in parameters]
        parts = []
        for (key, value), short in zip(parameters.items(), last, strict=True):
            plain = key in (VARIANT, *KINDS, "preset")
            name = short if last.count(short) == 1 else key
            parts.append(str(value) if plain else f"{name} {value:.4g}" if type(value) is float else f"{name} {value}")
        return ", ".join(parts)

    def search_space(self) -> dict[str, Any]:
        """`search` as NNI writes it."""
        chosen = {key: next(iter(distribution.items())) for key, distribution in self.search.items()}
        return {key: {"_type": name, "_value": list(values)} for key, (name, values) in chosen.items()}

    def samples(self) -> list[Planned]:
        """Every run of the grid; or runs that a tuner could choose, with every end of every range. See `runs`."""
        if not self.search:
            return self.runs()
        found = {key: _ends(*next(iter(d.items()))) for key, d in self.search.items()}
        first = {key: values[0] for key, values in found.items()}
        others = [{**first, key: value} for key, values in found.items() for value in values[1:]]
        return [self.run(parameters) for parameters in (first, *others)]


def read_study(path: Path) -> Study:
    """Read a YAML file of `Study` fields, named after the file by default; OptionError where it is none."""
    return make_study({"name": path.stem, **read_config(path)}, str(path))


def make_study(given: Mapping[str, Any], where: str = "sweep") -> Study:
    """Build a sweep from plain values. Raises OptionError: one line that says what is wrong."""
    known = Study.model_fields
    for key in given:
        if key not in known:
            hint = "; settings of every run belong under base" if key in RunConfig.model_fields else ""
            raise OptionError(f"{where}: {unknown('part of a sweep', key, known)}{hint}")
    try:
        return Study.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as e:
        first = e.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise OptionError(f"{where}: {place + ': ' if place else ''}{reason[0].lower()}{reason[1:]}") from e
    except NasbenchError as e:
        raise OptionError(f"{where}: {e}") from e


def _values(key: str, given: Any) -> Any:
    """A list, or the numbers of a range."""
    if isinstance(given, list):
        if not given:
            raise ValueError(f"{key} has no values")
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"{key} must be a list of values or a range such as {{from: 0.1, to: 0.3, step: 0.1}}")
    for name in given:
        if name not in RANGE:
            raise ValueError(f"{key}: {unknown('part of a range', name, RANGE)}")
    low, high, step, count = (given.get(name) for name in RANGE[:4])
    scale = given.get("scale", "linear")
    numbers = [n for n in (low, high, step, count) if n is not None]
    if low is None or high is None or (step is None) == (count is None):
        raise ValueError(f"{key}: a range has from, to, and either step or count")
    if any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers) or not low < high:
        raise ValueError(f"{key}: a range goes from a number to a larger one, not {_text(given)}")
    if scale not in ("linear", "log") or (scale == "log" and (low <= 0 or count is None)):
        raise ValueError(f"{key}: scale is linear or log; log needs from > 0 and a count")
    if count is not None and (not isinstance(count, int) or not 2 <= count <= MAX_RUNS):
        raise ValueError(f"{key}: count must be a whole number from 2 to {MAX_RUNS}")
    if step is not None and (step <= 0 or (high - low) / step > MAX_RUNS):
        raise ValueError(f"{key}: step {step} does not lead from {low} to {high}")
    if step is not None:
        found = [low + i * step for i in range(int((high - low) / step * (1 + 1e-9) + 1e-9) + 1)]
    else:
        found = (np.geomspace if scale == "log" else np.linspace)(low, high, count or 0).tolist()
    # 0.1 + 2 · 0.1 is 0.30000000000000004
    return [n if isinstance(n, int) else float(f"{n:.12g}") for n in found]


def _ends(name: str, values: list[Any]) -> list[Any]:
    if name == "choice":
        return list(values)
    if name == "randint":
        return [int(values[0]), int(values[1]) - 1]
    if name in ("normal", "lognormal"):  # unbounded: only the middle is certain to be possible
        return [float(values[0])] if name == "normal" else [2.718281828459045 ** float(values[0])]
    return [float(values[0]), float(values[1])]


def _matches(parameters: Mapping[str, Any], pattern: Mapping[str, Any]) -> bool:
    return all(parameters[k] in v if isinstance(v, list) else parameters[k] == v for k, v in pattern.items())


def _text(pattern: Mapping[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in pattern.items())
