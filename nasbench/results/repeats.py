from collections.abc import Sequence

import pandas as pd

from nasbench.errors import RecordError
from nasbench.record import Record
from nasbench.results.cells import Cell, Column, Table
from nasbench.results.collect import RunRow, architecture_of, grouped, is_searched
from nasbench.results.statistics import Share, chance, kappa, share, tally, votes
from nasbench.results.tables import by_seed, describe, named, records

DECIDED = ("evidence", "threshold")  # what decides a layer before the search is over; the rest is what was left then
COLUMNS = (
    Column("search", "search"),
    Column("between", "between"),
    Column("seeds", "seeds", "count"),
    Column("layers", "layers", "count"),
    Column("candidates", "candidates"),
    Column("all", "all agree (%)", "percent", 1),
    Column("agreeing", "same", "count"),
    Column("pairs", "of", "count"),
    Column("agreement", "agreement (%)", "percent", 1),
    Column("low", "from (%)", "percent", 1),
    Column("high", "to (%)", "percent", 1),
    Column("chance", "by chance (%)", "percent", 1),
    Column("kappa", "κ", "count", 2),
)
NOTES = (
    "Agreement: of all pairs of searches in all layers, those with the same candidate. From – to: 95 % interval "
    "(Clopper and Pearson) in which a layer counts once, however many pairs it has. All agree: share of the layers.",
    f"Decided: by {' or '.join(DECIDED)}, before the search ended.",
    "By chance: two choices drawn like all choices together, Σ p² (Fleiss 1971); between halves 1 / candidates.",
    "κ = (agreement − chance) / (1 − chance), ± half the 95 % jackknife interval over the layers: 1 is perfect, 0 is "
    "chance; below 0, seeds differ even in which candidates they like.",
)


def repeats(frame: pd.DataFrame) -> Table:
    """In how many layers searches of one setting agree; RecordError: nothing can be compared.

    Up to three rows a setting: between its seeds in all layers, likewise in the layers that both of two searches
    decided, and between the halves of each search where the strategy tells them.
    """
    runs = records(frame)
    groups = grouped(filter(is_searched, runs), lambda run: str(run["setting"]))
    rows: list[dict[str, Cell]] = []
    rules: list[int] = []
    notes: list[str] = []
    for name, found in zip(named(list(groups.values())), groups.values(), strict=True):
        chosen, said = by_seed(name, found)
        block, why = _rows([chosen[seed] for seed in sorted(chosen)])
        notes += [*said, *(f"{name}: {reason}." for reason in why)]
        rules += [len(rows)] if rows and block else []
        rows += [{"search": Cell(name), **cells} for cells in block]
    given = sum(not is_searched(run) for run in runs)
    if given:
        notes.append(f"{given} run(s) of an architecture that was given left out: nothing was searched.")
    if not rows:
        raise RecordError(f"nothing can be compared: {' '.join(notes)} Search a setting again with another --seed")
    shared = {describe([run]) for found in groups.values() for run in found}
    where = f", on {shared.pop()}" if len(shared) == 1 else ""
    caption = f"Searches of the same setting under several seeds{where}."
    return Table("agreement", caption, COLUMNS, tuple(rows), (*NOTES, *notes), tuple(rules))


def _rows(runs: Sequence[RunRow]) -> tuple[list[dict[str, Cell]], list[str]]:
    """The rows of one setting, of which there is one run a seed, and what could not be said of it."""
    chosen = votes([architecture_of(run) for run in runs])
    if not chosen:
        return [], ["its architectures are not of the same layers"]
    decisions = [Record(run["path"]).decisions() for run in runs]
    every = {label: [made[label] for made in decisions] for label in chosen}
    candidates = {k: {n for d in of for n in (*(d.pi or ()), *d.survivors, *d.excluded)} for k, of in every.items()}
    sizes = sorted({len(known) for known in candidates.values()} - {0})
    rows: list[dict[str, Cell]] = []
    if len(runs) > 1:
        beyond = kappa(chosen)
        why = [beyond.why] if beyond.why else []
        decided = [
            [vote for vote, decision in zip(of_layer, every[label], strict=True) if decision.by in DECIDED]
            for label, of_layer in chosen.items()
        ]
        rows = [
            {"between": Cell("seeds"), **_between([*chosen.values()]), "kappa": Cell(beyond.value, beyond.half)},
            {"between": Cell("seeds, decided by both"), **_between([made for made in decided if len(made) > 1])},
        ]
    else:
        why = [f"only seed {int(runs[0]['seed'])} is known, so no seeds are compared"]
    halves = {label: [d.halves for d in of_layer if len(d.halves) == 2] for label, of_layer in every.items()}
    tallies = {label: (sum(a == b for a, b in pairs), len(pairs)) for label, pairs in halves.items() if pairs}
    if tallies:
        drawn = [1 / len(candidates[label]) for label in tallies for _ in halves[label] if candidates[label]]
        guessed = sum(drawn) / len(drawn) if drawn else None
        between = _cells(share(tallies.values()), len(tallies))
        rows.append({"between": Cell("halves of each search"), **between, "chance": Cell(guessed)})
    several = Cell("–".join(map(str, dict.fromkeys([*sizes[:1], *sizes[-1:]]))) or None)
    return [{"seeds": Cell(len(runs)), "candidates": several, **row} for row in rows], why


def _between(layers: Sequence[Sequence[str]]) -> dict[str, Cell]:
    tallies = [tally(chosen) for chosen in layers]
    everywhere = sum(same == pairs for same, pairs in tallies) / len(tallies) if tallies else None
    return {**_cells(share(tallies), len(layers)), "all": Cell(everywhere), "chance": Cell(chance(layers))}


def _cells(found: Share | None, layers: int) -> dict[str, Cell]:
    if found is None:
        return {"layers": Cell(0), "agreeing": Cell(0), "pairs": Cell(0)}
    counts = {"layers": Cell(layers), "agreeing": Cell(found.agreeing), "pairs": Cell(found.pairs)}
    return {**counts, "agreement": Cell(found.value), "low": Cell(found.low), "high": Cell(found.high)}
