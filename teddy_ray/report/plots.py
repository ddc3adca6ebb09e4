"""The report's curves: small SVG panels that stand inline in the page and take their colours from its CSS.

A page shows panels side by side, each with its own title, so that on a phone they stack and stay legible.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from teddy_ray.report.tables import Results, regimes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What matplotlib draws in, and what the page's CSS makes of it.
INKS = {"ink": "#010101", "muted": "#020202", "line": "#030303"}
INKS |= {"distilled": "#040404", "random": "#050505", "coreset": "#060606", "full": "#070707"}
DASHES = {"distilled": "-", "random": (0, (1, 1.3)), "coreset": (0, (4, 1.5)), "full": (0, (6, 3))}
WIDTH, HEIGHT = 3.3, 1.95  # inches at 72 units each
LINES, POINTS = 24, 120
"""A panel draws at most so many lines of one kind, of so many points: more is not seen, and is sent all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve, in one of INKS; ``faint`` for one of many."""

    x: Sequence[float]
    y: Sequence[float]
    ink: str = "distilled"
    faint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A titled drawing."""

    title: str
    svg: str


def base_panels(results: Results) -> list[Panel]:
    """The base model's accuracy and loss by epoch; nothing where it was handed in."""
    curve = results["base"]["curve"]
    if not curve:
        return []
    return [
        _panel("Accuracy, %", "epoch", [_line(curve, "epoch", "accuracy")], name="base-accuracy"),
        _panel("Training loss", "epoch", [_line(curve, "epoch", "loss")], name="base-loss"),
    ]


def distill_panels(results: Results) -> list[Panel]:
    """The units' loss and its two parts by iteration, faint, and their mean."""
    traces = [unit["trace"] for unit in results["units"] if unit["trace"]]
    if not traces:
        return []
    titles = {"loss": "Loss (Eq. 7)", "statistics": "Statistics term", "class": "Class term"}
    return [
        _panel(title, "iteration", [*_units(traces, key)], name=f"distill-{key}", log=True)
        for key, title in titles.items()
    ]


def student_panels(results: Results, student: str) -> list[Panel]:
    """Test accuracy by epoch, a panel per regime, a line per set and seed; the full-data score as a level."""
    own = [run for run in results["students"] if run["student"] == student and run["curve"]]
    full = next((s["accuracy"] for s in results["scores"] if s["set"] == "full"), None)
    own = [run for run in own if run["set"] != "full"]
    # Distilled last, so that it lies on top.
    own.sort(key=lambda run: run["set"] == "distilled")
    lines: dict[str, list[Line]] = {regime: [] for regime in regimes(results, student)}
    for run in own:
        lines[run["regime"]].append(_line(run["curve"], "epoch", "accuracy", ink=run["set"]))
    seen = [y for drawn in lines.values() for line in drawn for y in line.y] + ([] if full is None else [full])
    return [
        _panel(regime, "epoch", drawn, name=f"{student}-{regime}", level=full, limits=(min(seen), max(seen)))
        for regime, drawn in lines.items()
        if drawn
    ]


def _line(curve: Sequence[Mapping[str, float]], x: str, y: str, *, ink: str = "distilled") -> Line:
    curve = _thin(curve, POINTS)
    return Line(x=[point[x] for point in curve], y=[point[y] for point in curve], ink=ink)


def _units(traces: Sequence[Sequence[Mapping[str, float]]], key: str) -> Iterable[Line]:
    """Some units' traces, and the mean over all at the iterations that all of them recorded."""
    if len(traces) > 1:
        for trace in _thin(traces, LINES):
            thin = _thin(trace, POINTS)
            yield Line(x=[point["iteration"] for point in thin], y=[point[key] for point in thin], faint=True)
    values: dict[float, list[float]] = defaultdict(list)
    for trace in traces:
        for point in trace:
            values[point["iteration"]].append(point[key])
    shared = _thin([x for x, ys in sorted(values.items()) if len(ys) == len(traces)], POINTS)
    yield Line(x=shared, y=[sum(values[x]) / len(traces) for x in shared])


def _thin(items: Sequence[Any], most: int) -> Sequence[Any]:
    """At most ``most`` of ``items``, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _panel(
    title: str,
    xlabel: str,
    lines: Sequence[Line],
    *,
    name: str,
    log: bool = False,
    level: float | None = None,
    limits: tuple[float, float] | None = None,
) -> Panel:
    """Draws ``lines``, over ``limits`` where panels share a scale, with a dashed line at ``level``.

    ``name`` is unique in a page, since it keeps the drawings' inner names apart.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()  # or a matplotlibrc of the machine's would change the bytes
        for key, value in _style(name).items():
            mpl.rcParams[key] = value
        figure = Figure(figsize=(WIDTH, HEIGHT))
        figure.subplots_adjust(left=0.14, right=0.98, top=0.96, bottom=0.22)  # alike in all panels, so that they align
        axes = figure.add_subplot()
        for line in lines:
            _draw(axes, line)
        if level is not None:
            axes.axhline(level, color=INKS["full"], linestyle=DASHES["full"], linewidth=1)
        if limits is not None:
            margin = 0.04 * (limits[1] - limits[0]) + 0.1
            axes.set_ylim(limits[0] - margin, limits[1] + margin)
        _finish(axes, xlabel, lines, log=log)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Panel(title=title, svg=_inline(buffer.getvalue()))


def _style(name: str) -> dict[Any, Any]:
    return {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "text.parse_math": False,
        "font.size": 8.5,
        "text.color": INKS["muted"],
        "axes.labelcolor": INKS["muted"],
        "axes.edgecolor": INKS["line"],
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": INKS["line"],
        "grid.linewidth": 0.7,
        "xtick.color": INKS["line"],
        "ytick.color": INKS["line"],
        "xtick.labelcolor": INKS["muted"],
        "ytick.labelcolor": INKS["muted"],
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "xtick.major.size": 3,
    }


def _draw(axes: Axes, line: Line) -> None:
    width, alpha = (0.7, 0.3) if line.faint else (1.5, 1.0)
    # A single point is no line, and a few are seen better with their marks.
    marker = "o" if len(line.x) <= 5 and not line.faint else None
    dash: Any = DASHES[line.ink]
    axes.plot(
        line.x,
        line.y,
        color=INKS[line.ink],
        linestyle=dash,
        linewidth=width,
        alpha=alpha,
        marker=marker,
        markersize=2.6,
    )


def _finish(axes: Axes, xlabel: str, lines: Sequence[Line], *, log: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xlabel(xlabel, loc="right")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    values = [y for line in lines for y in line.y]
    if log and min(values) > 0 and max(values) / min(values) > 5:
        axes.set_yscale("log")
        wide = max(values) / min(values) > 100
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(_tick))


def _tick(value: float, _: int | None = None) -> str:
    return f"{value / 1000:,g}k" if abs(value) >= 10_000 else f"{value:,g}"


def _inline(svg: str) -> str:
    """matplotlib's SVG file as an element of a page: no prolog, no size, no names, fonts and colours from the CSS."""
    svg = svg[svg.index("<svg") :]
    cuts = [r"<metadata>.*?</metadata>", r"<defs>\s*<style.*?</style>\s*</defs>", r"<!--.*?-->"]
    cuts += [r' (?:width|height)="[\d.]+pt"', r' xmlns(?::\w+)?="[^"]*"', r' version="1.1"', r'(?<=<g) id="[^"]*"']
    cuts.append(r"font-family: [^;\"]*;? ?")
    for cut in cuts:
        svg = re.sub(cut, "", svg, flags=re.DOTALL)
    svg = re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", svg)
    for ink, colour in INKS.items():
        svg = svg.replace(colour, f"var(--{ink})")
    return re.sub(r"\s+", " ", svg).replace("> <", "><").strip()
