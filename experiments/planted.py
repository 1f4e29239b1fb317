"""How often strategies find a planted truth, and how often what they decide is wrong; the same command goes on.

    python experiments/planted.py

Searches space `planted` on data set `planted` at several noise levels, writes one row a search to `planted.csv`, prints
a table and draws the figure. Every strategy takes as many steps on the same images; nothing is retrained, since the
right answers are known. A row that is there is not run again: remove it after a change.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from pytorch_lightning import seed_everything
from scipy.stats import binomtest

from nasbench import registry
from nasbench.contracts import Deciding
from nasbench.errors import NasbenchError
from nasbench.files import write_atomic
from nasbench.pipeline import prepare
from nasbench.presets import resolve_config
from nasbench.quiet import quiet_libraries
from nasbench.results.style import PAGE, SETTINGS, encode, new_figure, series
from nasbench.spaces.planted import CANDIDATES, Planted

Row = dict[str, str]
Share = tuple[int, int]  # how many of how many

STRATEGIES: dict[str, dict[str, Any]] = {
    "random": {"strategy": "random"},
    **{name: {"strategy": name} for name in ("darts", "darts_pt", "drnas", "gdas", "proxyless", "spos")},
    "pmpl, hasty lead": {"strategy": "pmpl", "strategy_options": {"fixing": "lead", "eta": 0.1}},
    "pmpl, paper's lead": {"strategy": "pmpl", "strategy_options": {"fixing": "lead", "eta": 3e-4}},
    "pmpl, lead": {"strategy": "pmpl", "strategy_options": {"fixing": "lead"}},
    "pmpl, evidence": {"strategy": "pmpl", "strategy_options": {"fixing": "evidence", "undecided": "cheapest"}},
    "pmpl, evidence, largest π": {
        "strategy": "pmpl",
        "strategy_options": {"fixing": "evidence", "undecided": "largest_pi"},
    },
}
# 600 steps each, the first 200 for θ alone. α sees each image of its half about twice, or 20 times.
DATA: dict[str, dict[str, Any]] = {
    "25,600 images": {"epochs": 3},
    "2,560 images": {"epochs": 30, "train_images": 2560},
}
WARMUP_SHARE = 1 / 3
NOISE = ("0.0", "0.5", "0.8", "0.9", "0.95", "1.0")
# Lines of the figure's panels; chance and the rule of the presets are in all.
PANELS = {
    "PMPL": ["random", *(name for name in STRATEGIES if name.startswith("pmpl, "))],
    "other strategies": [*(name for name in STRATEGIES if not name.startswith("pmpl, ")), "pmpl, evidence, largest π"],
}
SPREAD = 0.5  # of a panel's lines at one noise, in steps of noise
LEGEND = 5  # names in a line
DELTA = 0.05  # what `evidence` may be wrong in
DECIDED = ("evidence", "threshold")  # anything else was chosen, and nothing claimed of it
COLUMNS = ("strategy", "data", "noise", "seed", "seconds", "found", "by", "excluded")
KEY = COLUMNS[:4]
SEPARATOR = ";"  # between layers, in the space's order
TRUTH = list(Planted.truth().values())


def main() -> int:
    """Search what is missing, print the table and draw the figure; 1 when a search failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"), help="one row a search")
    parser.add_argument("--figure", type=Path, default=Path(__file__).parents[1] / "docs/images/planted.png")
    parser.add_argument("--rows", nargs="+", choices=list(STRATEGIES), default=list(STRATEGIES))
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--noise", nargs="+", choices=NOISE, default=list(NOISE))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    given = parser.parse_args()
    rows = read(given.csv)
    failed = 0
    # A whole seed at a time: what is there after an interruption has all strategies.
    for seed, data, noise, strategy in itertools.product(given.seeds, given.data, given.noise, given.rows):
        key = (strategy, data, noise, str(seed))
        if key in rows:
            continue
        try:
            rows[key] = dict(zip(KEY, key, strict=True)) | searched(strategy, data, float(noise), seed)
        except NasbenchError as e:
            failed += 1
            print(f"{', '.join(key)}: failed: {e}", file=sys.stderr, flush=True)
            continue
        write(given.csv, rows.values())
        print(f"{', '.join(key)}: {rows[key]['seconds']} s", file=sys.stderr, flush=True)
    print(table(rows.values()))
    write_atomic(given.figure, figure(rows.values()))
    return 1 if failed else 0


def searched(strategy: str, data: str, noise: float, seed: int) -> Row:
    """Search once, without retraining; returns the columns behind the key."""
    settings: dict[str, Any] = {"space": "planted", "dataset": "planted", "preset": "quick", "device": "cpu"}
    settings |= {**DATA[data], **STRATEGIES[strategy], "seed": seed, "dataset_options": {"noise": noise, "draw": seed}}
    if "warmup_epochs" in registry.parameters(registry.load("strategy", settings["strategy"])):
        warmup = {"warmup_epochs": round(WARMUP_SHARE * settings["epochs"])}
        settings["strategy_options"] = {**warmup, **settings.get("strategy_options", {})}
    start = time.perf_counter()
    with quiet_libraries():
        chosen: Any = prepare(resolve_config(settings)).strategy
        seed_everything(seed, workers=True, verbose=False)
        chosen.run()
    architecture = next(iter(chosen.list_models(limit=1))).sample
    reasons = chosen.decisions if isinstance(chosen, Deciding) else {}
    why = [reasons.get(label, {}) for label in Planted.truth()]
    return {
        "seconds": f"{time.perf_counter() - start:.1f}",
        "found": SEPARATOR.join(architecture[label] for label in Planted.truth()),
        "by": SEPARATOR.join(reason.get("by", "") for reason in why),
        "excluded": SEPARATOR.join(" ".join(reason.get("excluded", {})) for reason in why),
    }


def layers(row: Row) -> Iterable[tuple[frozenset[str], str, str, list[str]]]:
    """Of every layer: the right candidates, the one that was found, by what, and those that were excluded."""
    columns = (row[name].split(SEPARATOR) for name in ("found", "by", "excluded"))
    for right, found, by, excluded in zip(TRUTH, *columns, strict=True):
        # At noise 1 no image tells anything: nothing matters in any layer.
        yield frozenset(CANDIDATES) if float(row["noise"]) == 1 else right, found, by, excluded.split()


def hits(rows: Iterable[Row]) -> Share:
    """Layers with a right candidate among those that need one; at noise 1, those that would need it."""
    needing = [
        found in right
        for row in rows
        for right, found in zip(TRUTH, row["found"].split(SEPARATOR), strict=True)
        if len(right) < len(CANDIDATES)
    ]
    return sum(needing), len(needing)


def errors(rows: Iterable[Row]) -> Share:
    """Wrong decisions among all: another candidate than a right one, or any where nothing matters."""
    decided = [(right, found) for row in rows for right, found, by, _ in layers(row) if by in DECIDED]
    return sum(found not in right or len(right) == len(CANDIDATES) for right, found in decided), len(decided)


def wrong_exclusions(rows: Iterable[Row]) -> Share:
    """Right candidates among those excluded; where nothing matters all are right."""
    gone = [name in right for row in rows for right, _, _, excluded in layers(row) for name in excluded]
    return sum(gone), len(gone)


def grouped(rows: Iterable[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Rows by data, strategy and noise, in the order of the tables above."""
    kept = list(rows)
    groups = {
        (data, strategy, noise): [row for row in kept if [row[k] for k in KEY[:3]] == [strategy, data, noise]]
        for data, strategy, noise in itertools.product(DATA, STRATEGIES, NOISE)
    }
    return {key: group for key, group in groups.items() if group}


def table(rows: Iterable[Row]) -> str:
    """All shares as a Markdown table."""
    titles = ("data", "strategy", "noise", "seeds", "found", "decided wrongly", "excluded wrongly", "seconds")
    lines = [titles, ("--",) * len(titles)]
    for key, group in grouped(rows).items():
        shares = [percent(share(group)) for share in (hits, errors, wrong_exclusions)]
        seconds = sum(float(row["seconds"]) for row in group) / len(group)
        lines.append((*key, str(len(group)), *shares, f"{seconds:.1f}"))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: Share) -> str:
    """A share in words."""
    part, whole = share
    return f"{100 * part / whole:.0f} % ({part} of {whole})" if whole else "–"


def figure(rows: Iterable[Row]) -> bytes:
    """Found and wrongly decided against noise: PMPL's rules beside other strategies, and on fewer images; PNG."""
    groups = grouped(rows)
    shown = [
        (f"{data}, {title}", {s: of for s in strategies if (of := _by_noise(groups, data, s))})
        for data in DATA
        for title, strategies in PANELS.items()
    ]
    shared = set.intersection(*map(set, PANELS.values()))
    shown = [(title, lines) for title, lines in shown if lines.keys() - shared]
    levels = [noise for noise in NOISE if any(noise == key[2] for key in groups)]
    needing = [len(right) for right in TRUTH if len(right) < len(CANDIDATES)]
    chance = sum(needing) / len(CANDIDATES) / len(needing)
    with matplotlib.rc_context(fname=SETTINGS):
        drawn = new_figure(PAGE, 4.2)
        panels = drawn.subplots(2, len(shown), sharex=True, sharey="row", squeeze=False)
        for (title, lines), (found, wrong) in zip(shown, panels.T, strict=True):
            found.set_title(title, fontsize="medium")
            found.axhline(100 * chance, color="#808080", linewidth=0.8, linestyle=(0, (2, 2)))
            wrong.axhline(100 * DELTA, color="#808080", linewidth=0.8, linestyle=(0, (2, 2)))
            wrong.set_xticks(range(len(levels)), levels)
            wrong.set_xlabel("noise: share of the bits drawn by lot")
            for place, (strategy, by_noise) in enumerate(lines.items()):
                shift = SPREAD * (place / (len(lines) - 1) - 0.5)
                at = {levels.index(noise) + shift: kept for noise, kept in by_noise.items()}
                for axes, share in ((found, hits), (wrong, errors)):
                    line(axes, list(STRATEGIES).index(strategy), strategy, at, share)
        panels[0][0].set_ylabel("right candidates (%)\ndashed: by chance")
        panels[1][0].set_ylabel(f"decided wrongly (%)\ndashed: δ = {DELTA:g}")
        for axes in panels.flat:
            axes.set_ylim(-3, 103)
            axes.grid(axis="y")
        named = {}
        for axes in panels[0]:
            handles, labels = axes.get_legend_handles_labels()
            named.update(zip(labels, handles, strict=True))
        ordered = [name for name in STRATEGIES if name in named]
        drawn.legend([named[name] for name in ordered], ordered, loc="outside lower center", ncols=LEGEND)
    return encode(drawn, "png")


def _by_noise(groups: Mapping[tuple[str, str, str], list[Row]], data: str, strategy: str) -> dict[str, list[Row]]:
    return {noise: groups[data, strategy, noise] for noise in NOISE if (data, strategy, noise) in groups}


def line(
    axes: Any,
    number: int,
    label: str,
    at: Mapping[float, list[Row]],
    share: Callable[[Iterable[Row]], Share],
) -> None:
    """One strategy's share at places of noise, with exact binomial 95 % intervals; nothing where it is of nothing."""
    places, middles, below, above = [], [], [], []
    for place, rows in at.items():
        part, whole = share(rows)
        if whole:
            interval = binomtest(part, whole).proportion_ci(0.95, "exact")
            places.append(place)
            middles.append(100 * part / whole)
            below.append(max(middles[-1] - 100 * interval.low, 0.0))
            above.append(max(100 * interval.high - middles[-1], 0.0))
    axes.errorbar(places, middles, (below, above), label=label, elinewidth=0.7, **series(number))


def read(path: Path) -> dict[tuple[str, ...], Row]:
    """The rows of an earlier call by their key."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in KEY): row for row in csv.DictReader(file)}


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue())


if __name__ == "__main__":
    sys.exit(main())
