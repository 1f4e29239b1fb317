from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nasbench.facts import Decision
from nasbench.limits.kind import parse
from nasbench.reasons import LEAD, evidence, runner_up, why
from nasbench.record import STAGES, Record
from nasbench.terminal import plain_table

if TYPE_CHECKING:
    from nasbench.profile import Profile

UNEQUAL = 1.5  # times the images of another class: from here on the balanced accuracy is worth a word
IMAGES = {"train_images": "training", "meta_images": "meta", "held_out_images": "held out"}  # of a stage
COUNTS = ("parameters", "multiply-adds")
UNDECIDED = 0.1  # share of 1 / K by which π may differ from uniform and still say nothing


def summary(record: Record) -> RenderableType:
    """What a run, finished or not, chose and why, how good and large the network is, and what each stage took."""
    config, status = record.config(), record.status()
    run = f"{config.space} · {config.method} on {config.dataset} (preset {config.preset}, seed {config.seed})"
    parts: list[RenderableType] = [Text(f"{run}: {status.state}", style="bold")]
    gathered = evidence(record) if record.finished("search") else None
    if record.finished("search"):
        parts.append(_choices(record))
        if gathered:
            parts += ["", Text(str(gathered))]
        elif told := doubt(list(record.decisions().values())):
            parts += ["", Text(told, style="yellow")]
    if record.finished("test"):
        parts.append(_result(record, by_lead=gathered is None))
    stages = plain_table("stage", "time", "peak memory", "images")
    for name in STAGES:
        if facts := status.stages.get(name):
            took, memory = duration(facts.seconds), _bytes(facts.peak_memory_bytes)
            known = {text: (facts.model_extra or {}).get(key) for key, text in IMAGES.items()}
            images = [f"{count:,} {text}" for text, count in known.items() if isinstance(count, int)]
            stages.add_row(name, took, memory, ", ".join(images))
    if status.stages:
        parts += ["", stages]
    ended, best = (getattr(status.stages.get("retrain"), name, None) for name in ("epochs", "best_epoch"))
    if isinstance(ended, int) and isinstance(best, int):
        told = f"trained for {ended} of {config.retrain_epochs} epochs; the weights are those of epoch {best}"
        parts.append(Text(f"{told}, which had the lowest held-out loss"))
    if status.error:
        parts.append(Text(f"failed: {status.error}", style="red"))
    parts += ["", Text(f"record: {record.path}")]
    return Group(*parts)


def _choices(record: Record) -> Table:
    decisions = record.decisions()
    table = plain_table("choice", "candidate", "π", "runner-up", "why")
    for label, candidate in record.architecture().items():
        decision = decisions[label]
        chosen, other = (decision.pi or {}).get(str(candidate)), runner_up(decision, candidate)
        digits = 2  # as many decimals as tell the two apart
        if other and chosen is not None:
            digits = next((d for d in range(2, 7) if f"{chosen:.{d}f}" != f"{other[1]:.{d}f}"), 2)
        pi = "" if chosen is None else f"{chosen:.{digits}f}"
        second = f"{other[0]} {other[1]:.{digits}f}" if other else ""
        table.add_row(label, str(candidate), pi, second, why(decision, candidate))
    return table


def doubt(decisions: Sequence[Decision]) -> str:
    """What to think of a search that has learnt nothing; empty where it has learnt something."""
    known = [d for d in decisions if d.pi and len(d.pi) > 1]
    left = [d.pi for d in known if d.by != LEAD and d.pi]
    if not left or any(abs(p * len(pi) - 1) > UNDECIDED for pi in left for p in pi.values()):
        return ""
    spread = max(abs(p - 1 / len(pi)) for pi in left for p in pi.values())
    which = "choice" if len(left) == len(known) else "choice of the others"
    fixed = f"{len(known) - len(left)} of {len(known)} fixed"
    return f"{fixed}; π within {spread:.1g} of uniform: the {which} is arbitrary"


def _result(record: Record, by_lead: bool) -> Text:
    result = record.result()
    top5 = "" if result.top5 is None else f", top-5 {100 * result.top5:.2f} %"
    size = f"{result.params:,} parameters, {result.madds / 1e6:,.2f} M multiply-adds"
    count = result.search.get("fixed_by_threshold") if by_lead else None
    fixed = f", {count} of {len(result.architecture)} choices fixed by the threshold" if count is not None else ""
    text = Text("\ntest accuracy: ")
    text.append(f"top-1 {100 * result.top1:.2f} %", style="bold")
    text.append(f"{top5}{balanced(record)}\nnetwork: {size}{fixed}")
    for limit in parse(record.config().limits):
        facts = result.limits.get(limit.name)
        if facts is not None:
            found, told = limit.text(facts.measured), limit.text(facts.predicted)
            text.append(f"\nlimit {limit}: {found} when measured again" + f", {told} by the table" * (found != told))
    return text


def balanced(record: Record) -> str:
    """The accuracy that every class has an equal part in, where some have many more test images than others."""
    balanced = record.result().balanced_accuracy
    images = Counter[int]()
    for (true, _), count in record.confusion().items():
        images[true] += count
    if balanced is None or not images or max(images.values()) < UNEQUAL * min(images.values()):
        return ""
    return (
        f"\nbalanced accuracy: {100 * balanced:.2f} % (mean over the classes, which have "
        f"{min(images.values()):,} to {max(images.values()):,} test images)"
    )


def duration(seconds: float) -> str:
    """A time in words, such as `1 min 20 s`."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"


def _bytes(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def profile_table(counts: Profile) -> RenderableType:
    """Parameters and multiply-adds by block, with the sums, and the latency where it was measured."""
    table = plain_table("block", "output", *COUNTS, right=("output", *COUNTS))
    for part in counts.parts:
        table.add_row(part.name, "×".join(map(str, part.output)), f"{part.params:,}", f"{part.madds:,}")
    table.add_section()
    table.add_row("all", "", f"{counts.params:,}", f"{counts.madds:,}", style="bold")
    table.add_row("", "", f"{counts.params / 1e6:.3f} M", f"{counts.madds / 1e6:.1f} M")
    latency = []
    if (time := counts.latency) is not None:
        median, low, high = (_measure(1e3 * s, "ms") for s in (time.median_seconds, *time.spread_seconds))
        how = f"batch {time.batch}, {time.threads} thread{'s' if time.threads > 1 else ''}, {time.runs} runs"
        latency = ["", f"CPU latency: {median} (quartiles {low} – {high}), {how}"]
    return Group(table, *latency, *(Text(f"\n{note}") for note in counts.notes))


def front_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """What the named architectures of a space cost, with a mark at those that none of the others undercuts."""
    table = plain_table("named", *COUNTS, right=COUNTS)
    for row in rows:
        mark = Text(f"{'●' if row['front'] else '○'} {row['name']}")
        table.add_row(mark, f"{row['params']:,}", f"{row['madds']:,}")
    return Group("", table, "● on the Pareto front: none of the others has fewer of one and no more of the other")


def benchmark_table(name: str, measured: dict[str, Any] | list[dict[str, Any]]) -> RenderableType:
    """Medians, ratios and quartiles of one benchmark; beside them what is wanted, where it says so."""
    table = Table("what", "median", "quartiles", "goal", title=name, title_justify="left", box=None, header_style="dim")
    for entry in measured if isinstance(measured, list) else [measured]:
        if "shape" in entry:
            table.add_row("×".join(map(str, entry["shape"])), style="bold")
        quartiles, goals = entry["spread"], entry.get("goals", {})
        for key, value in entry.items():
            if not isinstance(value, float):
                continue
            contender, _, unit = key.rpartition("_")
            if contender in quartiles:
                low, high = (_measure(v, unit) for v in quartiles[contender])
                table.add_row(contender, _measure(value, unit), f"{low} – {high}", goals.get(key, ""))
            else:
                table.add_row(key, f"{value:.2f}×", "", goals.get(key, ""))
    return Group(table, "")


def _measure(value: float, unit: str) -> str:
    if unit == "rate":
        return f"{value:,.0f} images/s"
    return _bytes(round(value)) if unit == "bytes" else f"{value:.3g} {unit}"
