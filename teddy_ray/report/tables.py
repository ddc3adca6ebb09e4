"""What the scores say: one logic for the HTML page, scores.md, the dataset card and the terminal.

    rows(results)        every score as a row of formatted strings, by student, then regime
    verdicts(results)    a sentence per student and regime: whether distilled beats its controls, and by how much

A lead counts only where it exceeds the sum of both spreads (sample standard deviations over seeds). One seed has no
spread, so nothing is claimed from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from teddy_ray.report.text import Markdown, count, duration, listed, markdown_table
from teddy_ray.report.text import markdown as escape

Results = Mapping[str, Any]
Score = Mapping[str, Any]

SETS = ("distilled", "random", "coreset", "full")
SETS_MEAN = {
    "distilled": "the synthetic images of this run",
    "random": "as many random real images, drawn anew for each seed",
    "coreset": "as many real images, chosen by their difficulty",
    "full": "all real training images with their own labels: the base itself",
}
REGIMES_MEAN = {
    "views": "a fresh soft label for every view",
    "fixed": "one soft label an image",
    "hard": "the class alone",
}
RANK_MEANS = (
    "HLR: full minus distilled with hard labels, what is lost without soft labels; lower is better. IOR: distilled"
    " minus random with equal labels, student and steps, what the images add; higher is better. Both in points, by the"
    " definitions of DD-Ranking v0.2 (arXiv 2505.13300)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """One score. ``value`` and ``deviation`` are numbers in points; the rest is ready to print."""

    student: str
    regime: str
    set: str
    accuracy: str
    """``84.1``: top-1 after the last epoch, on the real test set, in percent."""
    spread: str
    """``± 0.4 (n=2)``, or ``(n=1)``."""
    steps: str
    construction: str
    best: bool
    """Ahead of every other set of its size by more than both spreads together."""
    value: float
    deviation: float | None

    @property
    def score(self) -> str:
        """``84.1 ± 0.4 (n=2)``."""
        return f"{self.accuracy} {self.spread}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rows of one student and regime, with what they say."""

    student: str
    regime: str
    means: str
    rows: tuple[ScoreRow, ...]
    verdict: str
    """Whether distilled beats its controls."""
    winner: str
    """Which row is ahead of all others, or that none is, and why."""


def groups(results: Results) -> list[Group]:
    """The scores by student, then regime; each group ends with the base's full-data score."""
    return [_group(results, student, regime) for student in students(results) for regime in regimes(results, student)]


def rows(results: Results) -> list[ScoreRow]:
    """Every score as a row, in the order of ``groups``."""
    return [row for group in groups(results) for row in group.rows]


def verdicts(results: Results) -> list[str]:
    """A sentence per student and regime."""
    return [f"{group.student}, {group.regime}: {group.verdict}" for group in groups(results)]


def students(results: Results) -> list[str]:
    """The students' architectures, in the order in which they were scored."""
    return list(dict.fromkeys(score["student"] for score in results["scores"] if score["set"] != "full"))


def regimes(results: Results, student: str) -> list[str]:
    """The label regimes in which ``student`` was scored on anything but the full data."""
    scored = [score for score in results["scores"] if score["student"] == student and score["set"] != "full"]
    return list(dict.fromkeys(score["regime"] for score in scored))


def summary(results: Results, student: str) -> str:
    """One sentence: in which regimes distilled is ahead of each control, level with it, or behind."""
    found: dict[str, list[str]] = {}
    for control in ("random", "coreset"):
        for regime in regimes(results, student):
            scores = _scores(results, student, regime)
            if control in _controls(scores):
                one, other = scores["distilled"], scores[control]
                where = _stands(one, other).format(control)
                found.setdefault(where, []).append(f"{regime} ({_points(one['accuracy'] - other['accuracy'])})")
    if not found:
        return f"With {student} students, distilled has no control to be compared with."
    said = "; ".join(f"{where} {listed(gaps)}" for where, gaps in found.items())
    return f"With {student} students, distilled is {said}.".replace(")", " points)", 1)


def rank_table(results: Results) -> tuple[list[str], list[list[str]]]:
    """DD-Ranking's HLR and the IOR of each regime, a row per student: the header, the rows (points, or ``not run``)."""
    labels = list(dict.fromkeys(regime for rank in results["rank"] for regime in rank["ior"]))
    rows = [
        [rank["student"], _points(rank["hlr"]), *(_points(rank["ior"].get(regime)) for regime in labels)]
        for rank in results["rank"]
    ]
    return ["Student", "HLR", *(f"IOR, {regime}" for regime in labels)], rows


def seconds_rows(results: Results) -> list[tuple[str, float, str]]:
    """(stage, seconds, what was reused) in the order in which the stages ran."""
    reused, units = results["reused"]["stages"], results["reused"]["units"]
    found = []
    for stage, seconds in results["seconds"].items():
        note = "reused" if stage in reused else ""
        if stage == "distill" and units and not note:
            note = f"{len(units)} of {count(len(results['units']), 'unit')} reused"
        found.append((stage, seconds, note))
    return found


def title(results: Results) -> str:
    """``digits, 1 image per class``."""
    return f"{results['dataset']['source']}, {count(results['spec']['distill']['ipc'], 'image')} per class"


def how_to_read(results: Results) -> str:
    """What an accuracy and a spread are, and how fine the test set can tell."""
    tested = results["dataset"]["test_images"]
    return (
        "Accuracy is top-1 in percent after the last epoch (no epoch was chosen by it), on the real test set of"
        f" {count(tested, 'image')}, where one image is {100 / tested:.2g} points. The spread is the sample standard"
        " deviation over n seeds; one seed has none, and decides nothing. Ahead and behind mean by more than both"
        " spreads together. The set that is so ahead of every other of its size is bold."
    )


def markdown(results: Results) -> str:
    """scores.md: the page's tables."""
    parts = [
        f"# {escape(title(results))}",
        f"Recipe {escape(results['spec']['recipe'])}, run {escape(results['run'])}.",
    ]
    parts += ["## Scores", *scores_markdown(results)]
    if results["rank"]:
        parts += ["## DD-Ranking", rank_markdown(results), RANK_MEANS]
    cells = [(stage, duration(seconds), note) for stage, seconds, note in seconds_rows(results)]
    parts += ["## Time of this attempt", markdown_table(("Stage", "Time", "Reused"), cells, right=[1])]
    return "\n\n".join(parts) + "\n"


def scores_markdown(results: Results) -> list[str]:
    """The score tables as Markdown blocks, a heading and a table per student."""
    parts = []
    for student in students(results):
        own = [group for group in groups(results) if group.student == student]
        cells = [_markdown_cells(row) for group in own for row in group.rows]
        header = ("Labels", "Trained on", "Accuracy", "Student steps", "Construction")
        parts += [f"### {escape(student)}", summary(results, student), markdown_table(header, cells, right=[2, 3, 4])]
        parts.append("\n".join(f"- {group.regime} ({group.means}): {group.verdict} {group.winner}" for group in own))
    return [*parts, how_to_read(results)]


def rank_markdown(results: Results) -> Markdown:
    """HLR and IOR as a Markdown table."""
    header, rows = rank_table(results)
    return markdown_table(header, rows, right=range(1, len(header)))


def _markdown_cells(row: ScoreRow) -> tuple[object, ...]:
    score = Markdown(f"**{row.accuracy}** {row.spread}" if row.best else row.score)
    return row.regime, row.set, score, row.steps, row.construction


def _group(results: Results, student: str, regime: str) -> Group:
    scores = _scores(results, student, regime)
    best = _best(scores)
    return Group(
        student=student,
        regime=regime,
        means=REGIMES_MEAN[regime],
        rows=tuple(_row(scores[name], regime, best=name == best) for name in SETS if name in scores),
        verdict=_verdict(scores),
        winner=_winner(scores, best),
    )


def _scores(results: Results, student: str, regime: str) -> dict[str, Score]:
    """By set: the scores of ``student`` in ``regime``, and full data's, which is the base's own for every student."""
    own = [score for score in results["scores"] if (score["student"], score["regime"]) == (student, regime)]
    full = [score for score in results["scores"] if score["set"] == "full"]
    return {score["set"]: score for score in (*own, *full)}


def _row(score: Score, regime: str, *, best: bool) -> ScoreRow:
    runs, spread = len(score["runs"]), score["spread"]
    return ScoreRow(
        student=score["student"],
        regime=regime,
        set=score["set"],
        accuracy=f"{score['accuracy']:.1f}",
        spread=f"(n={runs})" if spread is None else f"± {spread:.1f} (n={runs})",
        steps=f"{score['steps']:,}",
        construction="–" if score["set"] == "full" else duration(score["construction_seconds"]),
        best=best,
        value=score["accuracy"],
        deviation=spread,
    )


def _controls(scores: Mapping[str, Score]) -> list[str]:
    return [name for name in ("random", "coreset") if name in scores and "distilled" in scores]


def _noise(one: Score, other: Score) -> float | None:
    """Both spreads together, in points; None where a single seed leaves one unknown."""
    if one["spread"] is None or other["spread"] is None:
        return None
    return float(one["spread"] + other["spread"])


def _outcome(one: Score, other: Score) -> str:
    noise, gap = _noise(one, other), one["accuracy"] - other["accuracy"]
    if noise is None:
        return "unknown"
    if abs(gap) <= noise:
        return "level"
    return "ahead" if gap > 0 else "behind"


def _best(scores: Mapping[str, Score]) -> str | None:
    """The set that is clearly ahead of every other of its size."""
    rivals = {name: score for name, score in scores.items() if name != "full"}
    for name, score in rivals.items():
        others = [other for key, other in rivals.items() if key != name]
        if others and all(_outcome(score, other) == "ahead" for other in others):
            return name
    return None


def _winner(scores: Mapping[str, Score], best: str | None) -> str:
    rivals = [score for name, score in scores.items() if name != "full"]
    if len(rivals) < 2:
        return "Nothing was scored beside it."
    if best:
        return f"{best.capitalize()} is clearly ahead."
    one_seed = any(score["spread"] is None for score in rivals)
    return "No clear winner: one seed has no spread to judge by." if one_seed else "No clear winner."


def _verdict(scores: Mapping[str, Score]) -> str:
    if "distilled" not in scores:
        return "the distilled images were not scored."
    said = [_comparison(scores["distilled"], scores[control], control) for control in _controls(scores)]
    return f"distilled {listed(said)}." if said else "distilled has no control to be compared with."


def _stands(distilled: Score, control: Score) -> str:
    """A summary's words, with a place for the control's name."""
    outcome = _outcome(distilled, control)
    if outcome == "unknown":
        side = "ahead of" if distilled["accuracy"] > control["accuracy"] else "behind"
        return f"{side} {{}} in one seed with"
    return {"ahead": "ahead of {} with", "level": "level with {} with", "behind": "behind {} with"}[outcome]


def _comparison(distilled: Score, control: Score, name: str) -> str:
    """A verdict's words, such as ``beats random by 13.9 points (spreads together 1.4)``."""
    outcome, noise = _outcome(distilled, control), _noise(distilled, control)
    gap = distilled["accuracy"] - control["accuracy"]
    points = f"{abs(gap):.1f} points"
    side = "ahead" if gap > 0 else "behind"
    if outcome == "unknown":
        return f"is {points} {side}{' of' if gap > 0 else ''} {name} in one seed"
    if outcome == "level":
        return f"is level with {name} ({points} {side}, spreads together {noise:.1f})"
    return f"{'beats' if gap > 0 else 'loses to'} {name} by {points} (spreads together {noise:.1f})"


def _points(value: float | None) -> str:
    # A rounded nothing keeps no sign.
    return (
        "not run" if value is None else f"{value:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0").replace("-", "−")
    )


def controls_mean(results: Results) -> Sequence[tuple[str, str]]:
    """(set, what it is) for the sets that were scored."""
    there = {score["set"] for score in results["scores"]}
    return [(name, SETS_MEAN[name]) for name in SETS if name in there]
