"""What a record says of its evidence: in `show`, in the figure of the search, in the report, and explained."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, visit
from matplotlib.collections import PolyCollection
from records import write_evidence, write_run
from typer.testing import CliRunner, Result

from nasbench.cli import app
from nasbench.config import dump_config
from nasbench.errors import NasbenchError, RecordError
from nasbench.facts import Decision, Doubt, Exclusion
from nasbench.reasons import about, evidence, odds, why
from nasbench.record import ARCHITECTURE, CONFIG, DECISIONS, STATUS, Record
from nasbench.results.collect import collect
from nasbench.results.explain import Explanation, explain, page
from nasbench.results.figures import plot
from nasbench.results.report import report
from nasbench.results.seen import see

HOSTILE = "</p><script>alert(1)</script>\x1b[31m\ud800"
LEFT = ("none", "max3", "global")
CLOSE = Doubt(best="none", rival="global", mean=0.1, deviation=1.0, steps=590, needed=700)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def flat(text: str) -> str:
    """Text without the ends of its lines."""
    return " ".join(text.split())


def told(explanation: Explanation) -> str:
    """All that it says of the outcome and the layers."""
    sentences = [sentence for layer in explanation.layers for sentence in (*layer.sentences, *layer.excluded)]
    return " ".join([*explanation.answer, *sentences])


def undecided(**changes: Any) -> Decision:
    usual: dict[str, Any] = {"by": "undecided", "step": 600, "survivors": [*LEFT], "doubt": CLOSE}
    return Decision(**{**usual, **changes})


# In a line


@pytest.mark.parametrize(
    ("value", "shown"),
    [(35.4, "35 to 1"), (123.0, "120 to 1"), (2.04, "2 to 1"), (1e-9, "1e-09 to 1"), (1e300, "over 1,000,000 to 1")],
)
def test_odds_have_two_digits(value: float, shown: str) -> None:
    assert odds(value) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(7, "about 7"), (42, "about 42"), (8954, "about 9,000"), (2**62, "over 1,000,000,000")],
)
def test_estimated_steps_have_two_digits(count: int, shown: str) -> None:
    assert about(count) == shown


def test_why_names_the_last_exclusion_or_who_is_left() -> None:
    out = {name: Exclusion(step=step, by="max3", odds=35.2) for name, step in (("none", 420), ("avg3", 140))}
    assert why(Decision(by="evidence", excluded=out), "max3") == (
        "evidence: max3 better than none at step 420, odds 35 to 1"
    )
    assert why(Decision(by="evidence", survivors=["max3"]), "max3") == "evidence"
    assert why(undecided(), "none") == "undecided: none, max3, global left; would take about 700 new batches"
    assert why(undecided(survivors=["none"] * 4, doubt=None), "none") == "undecided: 4 left"
    level = CLOSE.model_copy(update={"mean": 0.0, "needed": None})
    assert why(undecided(doubt=level), "none").endswith("left; no number of steps would tell")


def test_show_tells_why_of_every_layer_and_what_the_evidence_comes_to(tmp_path: Path) -> None:
    shown = call("show", write_evidence(tmp_path)).stdout
    assert "evidence: max3 better than global at step 420, odds 35 to 1" in shown
    assert "undecided: none, max3, global left; would take about 9,000 new batches" in shown
    assert "undecided: 4 left; no number of steps would tell" in shown
    assert "1 of 3 layers decided by evidence, 4 of 9 alternatives excluded, at 5 % error for the network" in shown
    assert "threshold" not in shown
    assert "arbitrary" not in shown


@pytest.mark.parametrize("delta", ["often", 0, 7, None, [1]])
def test_an_error_that_is_none_is_left_out(tmp_path: Path, delta: Any) -> None:
    found = evidence(Record(write_evidence(tmp_path, delta=delta)))
    assert str(found) == "1 of 3 layers decided by evidence, 4 of 9 alternatives excluded"


def test_a_search_by_lead_is_shown_as_ever(tmp_path: Path) -> None:
    path = write_run(tmp_path, strategy="pmpl", architecture={"a": "global", "b": "global"}, steps=6)
    assert evidence(Record(path)) is None
    shown = call("show", path).stdout
    assert "a       global     0.60  none 0.20  led by ρ at step 3 (training loss 0.50)" in shown
    assert "2 of 2 choices fixed by the threshold" in shown
    assert "evidence" not in shown


# The figure and the report


def test_a_line_ends_with_a_cross_where_its_candidate_was_excluded(tmp_path: Path) -> None:
    path = write_evidence(tmp_path)
    (figure,) = plot(collect([path]).frame, "alphas").values()
    decided, two, four = figure.axes[:3]
    drawn = {line: list(zip(*line.get_data(), strict=True)) for line in decided.lines}
    crosses = sorted(points[0] for line, points in drawn.items() if line.get_marker() == "x" and points)
    assert [step for step, _ in crosses] == [140, 310, 420]
    ends = sorted(points[-1] for points in drawn.values() if len(points) > 2)
    assert ends[:3] == crosses
    assert [step for step, _ in ends[3:]] == [600]
    assert [line.get_marker() for line in two.lines].count("x") == 1
    assert "x" not in [line.get_marker() for line in four.lines]
    assert "excluded" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_undecided_layers_differ_from_decided_ones_in_more_than_colour(tmp_path: Path) -> None:
    (figure,) = plot(collect([write_evidence(tmp_path)]).frame, "alphas").values()
    decided, two, four = figure.axes[:3]
    assert [axes.get_title() for axes in (decided, two, four)] == [
        "block01: max3",
        "block02: none (3)",
        "block03: none (4)",
    ]
    shaded = [bool(axes.patches or axes.findobj(PolyCollection)) for axes in (decided, two, four)]
    assert shaded == [True, False, False]


def test_a_figure_of_a_search_by_lead_has_no_crosses(tmp_path: Path) -> None:
    write_run(tmp_path, strategy="pmpl", architecture={"a": "global"}, steps=6)
    (figure,) = plot(collect([tmp_path]).frame, "alphas").values()
    assert "excluded" not in [text.get_text() for text in figure.legends[0].get_texts()]
    assert figure.axes[0].get_title() == "a: global"


def test_the_report_has_the_evidence_of_each_set_up_in_a_table(tmp_path: Path) -> None:
    write_evidence(tmp_path / "runs")
    write_evidence(tmp_path / "runs")
    write_run(tmp_path / "runs", strategy="darts", architecture={"a": "global"}, steps=6)
    content = report(collect([tmp_path / "runs"]).frame, tmp_path / "out").read_text(encoding="utf-8")
    assert content.count("1 of 3 layers decided by evidence") == 1
    section = content[content.index('<section id="layers">') : content.index('<section id="reproduce">')]
    assert section.count("<tr>") == 1 + 3
    assert "avg3 at step 140 (max3 is better, odds 21 to 1); none at step 310 (max3 is better, odds over" in section
    write_run(tmp_path / "lead", strategy="pmpl", architecture={"a": "global"}, steps=6)
    assert 'id="layers"' not in report(collect([tmp_path / "lead"]).frame, tmp_path / "out").read_text()


# Explained


def test_the_answer_comes_first_and_counts_what_is_decided(tmp_path: Path) -> None:
    found = explain(Record(write_evidence(tmp_path)))
    first, second, third = found.answer
    assert first.startswith("The network has “none” in 2 layers, “max3” in 1 layer. It gets 90.00 % of the test images")
    assert second == (
        "The evidence of this search decides 1 of 3 layers. In 2 it cannot tell which of the remaining candidates is "
        "best; there a default was taken: the cheapest of those left."
    )
    assert third.startswith("4 of 9 alternatives were ruled out.")
    assert "at most 5 % of cases" in third


def test_every_layer_says_how_sure_it_is(tmp_path: Path) -> None:
    decided, two, four = explain(Record(write_evidence(tmp_path))).layers
    assert (decided.label, decided.candidate, decided.verdict) == ("block01.enhancer", "max3", "decided")
    assert decided.sentences == (
        "All 3 alternatives were ruled out, the last at step 420. How sure: 21 to 1 or more for each.",
    )
    assert decided.excluded == (
        "avg3 at step 140 (max3 is better, odds 21 to 1)",
        "none at step 310 (max3 is better, odds over 1,000,000 to 1)",
        "global at step 420 (max3 is better, odds 35 to 1)",
    )
    assert two.verdict == four.verdict == "undecided"
    assert two.sentences == (
        "Not ruled out: none, max3, global.",
        "No difference seen between “none” and “global”: the mean preference is 0.03 of its step-to-step deviation; "
        "about 9,000 steps of new images would tell, and this search had 590.",
        "The two halves of the search disagree: the first prefers “none”, the second “global”.",
        "“none” was taken as the cheapest of those left.",
    )
    assert "they are level; no number of steps would tell" in four.sentences[1]
    assert four.sentences[2] == "Each half of the search, taken by itself, prefers “avg3”."


@pytest.mark.parametrize(
    ("doubt", "sentence"),
    [
        (
            {},
            "“none” looks better than “global”, but that may be chance: the mean preference is 0.1 of its step-to-step "
            "deviation; about 700 steps of new images would tell, and this search had 590.",
        ),
        ({"steps": 800}, "deviation; about 700 steps of new images would tell."),
        ({"mean": -1e-6}, "No difference seen between “none” and “global”: the mean preference is under 0.001 of"),
        ({"deviation": 0.0}, "No difference seen"),
        ({"mean": 1e308, "deviation": 1e-308, "steps": 2**62, "needed": 2**62}, "is inf of its"),
    ],
)
def test_doubt_is_told_by_its_size(tmp_path: Path, doubt: dict[str, Any], sentence: str) -> None:
    decisions = {"a": undecided(doubt=CLOSE.model_copy(update=doubt))}
    assert sentence in told(explain(Record(write_evidence(tmp_path, decisions))))


def test_a_default_that_is_not_among_the_best_two_is_called_so(tmp_path: Path) -> None:
    doubt = CLOSE.model_copy(update={"best": "max3"})
    found = explain(Record(write_evidence(tmp_path, {"a": undecided(doubt=doubt)})))
    assert "“none” was taken as the cheapest of those left, though it is neither of these two." in told(found)
    assert "In all it cannot tell which" in told(found)


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ("cheapest", "as the cheapest of those left."),
        ("largest_pi", "as the one of those left with the largest π."),
        ("dice", "as a default of the strategy (dice)."),
        (["dice"], "as a default of the strategy (['dice'])."),
    ],
)
def test_the_rule_for_undecided_layers_is_named(tmp_path: Path, rule: Any, taken: str) -> None:
    found = explain(Record(write_evidence(tmp_path, undecided=rule)))
    assert f"“none” was taken {taken}" in told(found)
    assert any(heading.startswith("Why ") for heading, _ in found.reading)


def test_all_and_none_decided_are_said_so(tmp_path: Path) -> None:
    out = {"none": Exclusion(step=9, by="max3", odds=20.0)}
    all_of_them = {"a": Decision(by="evidence", survivors=["max3"], excluded=out), "b": Decision(by="evidence")}
    found = explain(Record(write_evidence(tmp_path, all_of_them)))
    assert "The evidence of this search decides all of 2 layers." in found.answer
    assert "The only alternative was ruled out, at step 9. How sure: 20 to 1." in told(found)
    assert "There was nothing to choose from." in told(found)
    assert "decides none of 1 layers" in told(explain(Record(write_evidence(tmp_path, {"a": undecided()}))))


def test_a_lead_is_called_no_certainty(tmp_path: Path) -> None:
    path = write_run(tmp_path, strategy="pmpl", architecture={"a": "global", "b": "global"}, steps=6)
    found = explain(Record(path))
    assert "2 of 2 layers were fixed because one candidate led by ρ. A lead of ρ is no measure of certainty" in told(
        found
    )
    assert "It led by ρ = 0.2 at step 3 (π 0.6; none, the next, 0.2). How sure: not known." in told(found)
    assert "Why a lead is no certainty" in dict(found.reading)
    halves = {label: Decision(by="threshold", halves=["none", "max3"]) for label in ("a", "b")}
    Record(path).write_json(DECISIONS, halves)
    assert "The two halves of the search disagree: the first prefers “none”" in told(explain(Record(path)))
    assert "odds" not in told(found)


@pytest.mark.parametrize(
    ("strategy", "by", "sentence"),
    [
        (None, "given", "Nothing was searched: the architecture was given"),
        ("random", "drawn at random", "How the architecture was chosen as a whole: drawn at random."),
        (
            "darts",
            "limit",
            "1 of 1 layers have what had the largest π when the search ended. The largest π is no measure",
        ),
    ],
)
def test_every_other_way_to_an_architecture_is_explained(
    tmp_path: Path, strategy: str | None, by: str, sentence: str
) -> None:
    path = write_run(tmp_path, strategy=strategy, architecture="global" if strategy is None else {"a": "global"})
    Record(path).write_json(DECISIONS, dict.fromkeys(Record(path).architecture(), Decision(by=by)))
    assert sentence in told(explain(Record(path)))
    assert call("explain", path).exit_code == 0


def test_what_a_limit_took_is_said_beside_what_it_took_it_from(tmp_path: Path) -> None:
    path = write_run(tmp_path, strategy="pmpl", architecture={"a": "none"}, limits={"madds": "9M"})
    Record(path).write_json(DECISIONS, {"a": Decision(by="budget", wanted="global")})
    found = explain(Record(path))
    assert "Without the limits (madds 9M) it would be “global”" in told(found)
    assert [layer.verdict for layer in found.layers] == ["below the limit"]


def test_a_run_whose_network_is_not_trained_yet_is_explained_by_its_search(tmp_path: Path) -> None:
    path = write_evidence(tmp_path)
    status = json.loads((path / STATUS).read_text())
    (path / STATUS).write_text(json.dumps({**status, "stages": {"search": status["stages"]["search"]}}))
    assert explain(Record(path)).answer[0] == "The network has “none” in 2 layers, “max3” in 1 layer."
    (path / ARCHITECTURE).unlink()
    with pytest.raises(RecordError, match="has not come that far"):
        explain(Record(path))


def test_a_longer_search_is_advised_where_it_may_help(tmp_path: Path) -> None:
    far = explain(Record(write_evidence(tmp_path)))
    assert far.advice[0] == (
        "Searching longer will hardly help: block02.enhancer, the nearest to a decision, would take about 9,000 steps, "
        "and had 590.",
        (),
    )
    near = explain(Record(write_evidence(tmp_path, {"a": undecided(doubt=CLOSE.model_copy(update={"needed": 1180}))})))
    (text, (command,)) = near.advice[0]
    assert text == "Search longer: a, the nearest to a decision, would take about 1,200 steps, and had 590."
    assert command.endswith("--epochs 24")  # twice the 12 of the preset
    never = explain(Record(write_evidence(tmp_path, {"a": undecided(doubt=None)})))
    assert never.advice[0] == ("Searching longer would not help: there is no difference to be seen.", ())


def test_more_networks_are_advised_than_there_were(tmp_path: Path) -> None:
    commands = [explain(Record(write_evidence(tmp_path, supernets=n))).advice[1][1][0] for n in (1, 3, "many")]
    assert [command.rpartition(" ")[2] for command in commands] == ["supernets=3", "supernets=6", "supernets=3"]


def test_an_option_that_the_strategy_lacks_is_not_advised(tmp_path: Path) -> None:
    path = write_evidence(tmp_path)
    config = Record(path).config()
    own = {name: value for name, value in config.strategy_options.items() if name != "supernets"}
    changed = config.model_copy(update={"strategy": "somebody:Strategy", "strategy_options": own})
    (path / CONFIG).write_text(dump_config(changed))
    assert "supernets" not in str(explain(Record(path)).advice)


@pytest.mark.parametrize("strategy", [None, "pmpl", "darts", "random"])
def test_the_advised_commands_are_understood(tmp_path: Path, strategy: str | None) -> None:
    (tmp_path / "a b").mkdir()
    path = write_run(tmp_path / "a b", strategy=strategy, architecture={"block01.enhancer": "global"})
    check_advice(path, tmp_path, count=3 if strategy is None else 4)


def test_the_advised_commands_after_a_search_by_evidence_are_understood(tmp_path: Path) -> None:
    near = {"block01.enhancer": undecided()}
    check_advice(write_evidence(tmp_path, near, supernets=3), tmp_path, count=5)


def test_the_advised_commands_can_be_copied_from_a_narrow_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_evidence(tmp_path)
    monkeypatch.setattr("nasbench.terminal.WIDTH", 60)
    told = CliRunner().invoke(app, ["explain", str(path)]).stdout.splitlines()
    commands = [command for _, found in explain(Record(path)).advice for command in found]
    assert [line.strip() for line in told if line.startswith("    nasbench")] == commands


def check_advice(path: Path, folder: Path, count: int) -> None:
    """Check that `nasbench` takes every command that is advised for a record."""
    (folder / "other.json").write_text(json.dumps(Record(path).architecture()))
    commands = [command for _, found in explain(Record(path)).advice for command in found]
    assert len(commands) == count
    for command in commands:
        name, *words = shlex.split(command.replace("other.json", str(folder / "other.json")))
        assert name == "nasbench"
        asked = call(*words, "--print-config")
        assert asked.exit_code == 0, (command, asked.exception)
        assert "fixing: evidence" in asked.stdout or "fixing" not in command
    assert "architecture:\n  block01.enhancer: " in asked.stdout


def test_a_record_in_a_pack_is_explained_and_run_again(tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs", strategy="pmpl", architecture={"block01.enhancer": "global"}, steps=6)
    pack = tmp_path / "all.records.xz"
    assert call("pack", tmp_path / "runs", "-o", pack).exit_code == 0
    assert call("explain", pack / path.name).exit_code == 0
    again = call("run", "--config", pack / path.name / CONFIG, "--seed", "7", "--print-config")
    assert "seed: 7" in again.stdout


def test_the_terminal_says_what_the_page_says(tmp_path: Path) -> None:
    path = write_evidence(tmp_path)
    written = tmp_path / "deep" / "page.html"
    shown = flat(call("explain", path).stdout)
    assert call("explain", path, "-o", written).exit_code == 0
    content = flat(re.sub("<[^>]*>", "", written.read_text(encoding="utf-8")).replace("\u00a0", " "))
    found = explain(Record(path))
    for text in (
        *found.answer,
        *(paragraph for _, paragraph in found.reading),
        *(text for text, _ in found.advice),
        "All 3 alternatives were ruled out, the last at step 420.",
        "avg3 at step 140 (max3 is better, odds 21 to 1)",
    ):
        assert flat(text) in content.replace("&#39;", "'")
        assert flat(text) in shown


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    failed = call("explain", write_evidence(tmp_path), "-o", tmp_path / "file" / "page.html")
    assert isinstance(failed.exception, NasbenchError)
    assert "page.html cannot be written" in str(failed.exception)


def test_what_a_stranger_wrote_is_text(tmp_path: Path) -> None:
    out = {HOSTILE: Exclusion(step=2**62, by=HOSTILE, odds=1e300)}
    doubt = Doubt(best=HOSTILE, rival=HOSTILE, mean=-1.0, deviation=1.0, steps=1, needed=1)
    decisions = {
        HOSTILE: Decision(by="undecided", survivors=[HOSTILE], excluded=out, doubt=doubt, halves=[HOSTILE, "x"]),
        "b": Decision(by=HOSTILE, step=-1),
        "c": Decision(by="evidence", survivors=[HOSTILE], excluded=out),
    }
    path = write_evidence(tmp_path, {"a": undecided()}, undecided="<b>")
    (path / ARCHITECTURE).write_text(json.dumps(dict.fromkeys(decisions, HOSTILE)))
    plain = {label: decision.model_dump(mode="json") for label, decision in decisions.items()}
    (path / DECISIONS).write_text(json.dumps(plain))
    content = page(explain(Record(path)), see(Record(path)))
    content.encode("utf-8")
    assert "<script" not in content
    assert "<b>" not in content
    assert "&lt;script&gt;" in content
    assert "over 1,000,000 to 1" in content
    for command in ("show", "explain"):
        shown = call(command, path)
        assert shown.exit_code == 0
        assert "\x1b" not in shown.stdout


@pytest.mark.skipif(chromium() is None, reason="chromium is not installed")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    written = tmp_path / "page.html"
    path = write_evidence(tmp_path / ("a long name of a folder " * 4))
    written.write_text(page(explain(Record(path)), see(Record(path))), encoding="utf-8")
    for width in (360, 1200):
        seen = visit(written.as_uri(), tmp_path / f"profile{width}", width)
        assert [r for r in seen.requests if not r.startswith("data:")] == [written.as_uri()]
        assert seen.errors == []
        assert seen.overflow <= 0
