"""The picture of a tuning study: what each trial came to, two objectives at a time, and the front among them."""

from io import BytesIO
from itertools import combinations
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lattice_sim.pictures import BLUE, GREEN, GREY, ORANGE, SKY, STYLE
from lattice_sim.study.document import Objective, Tune
from lattice_sim.study.pictures import PLAIN, unit
from lattice_sim.study.search import DEFAULTS

_ASIDE = [(7, 6), (7, -13), (-7, 6), (-7, -13), (0, 12), (0, -18), (13, -4), (-13, -4)]
"""Where a label may stand beside its mark, in points."""


def pareto(trials: pd.DataFrame, asked: Tune) -> bytes:
    """trials.parquet as an SVG: a panel for each pair of objectives; for one objective, against the trial's number."""
    aims = asked.objectives
    pairs: list[tuple[Objective | None, Objective]] = list(combinations(aims, 2)) or [(None, aims[0])]
    columns = min(len(pairs), 2)
    lines = -(-len(pairs) // columns)
    file = BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.2 if columns == 1 else 4.2 * lines), layout="constrained")
        for place, (a, b) in enumerate(pairs, 1):
            _panel(figure.add_subplot(lines, columns, place), trials, asked, a, b)
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _panel(axes: Axes, trials: pd.DataFrame, asked: Tune, a: Objective | None, b: Objective) -> None:
    x, y = "trial" if a is None else a.metric, b.metric
    ended = trials[trials["status"].isin(["complete", "broken"])]
    ended = ended.assign(**{aim.metric: ended[aim.metric] / unit(aim.metric).divisor for aim in asked.objectives})
    front = ended[ended["on_front"]].sort_values([x, y])
    special = ended["on_front"] | ended["chosen"] | (ended["trial"] == DEFAULTS)
    groups: list[tuple[pd.DataFrame, str, dict[str, Any]]] = [
        (ended[(ended["status"] == "broken") & ~special], "breaks a constraint", {"marker": "x", "c": GREY, "s": 26}),
        (
            ended[(ended["status"] == "complete") & ~special],
            "beaten by another",
            {"marker": "o", "c": SKY, "s": 26, "alpha": 0.55},
        ),
        (front, "on the front", {"marker": "o", "c": BLUE, "s": 34, "zorder": 3}),
        (ended[ended["trial"] == DEFAULTS], "defaults", {"marker": "D", "c": ORANGE, "s": 62, "zorder": 4, "ec": "black"}),
        (ended[ended["chosen"]], "chosen", {"marker": "*", "c": GREEN, "s": 190, "zorder": 5, "ec": "black"}),
    ]
    for rows, label, style in groups:
        if len(rows):
            axes.scatter(rows[x], rows[y], label=f"{label} ({len(rows)})" if len(rows) > 1 else label, linewidth=0.8, **style)
    if len(asked.objectives) == 2:
        axes.plot(front[x], front[y], color=BLUE, linewidth=0.7, alpha=0.6)
    axes.set_xlabel(_aim(a) if a else "trial")
    axes.set_ylabel(_aim(b))
    axes.xaxis.set_major_formatter(PLAIN)
    axes.yaxis.set_major_formatter(PLAIN)
    axes.margins(0.08)
    _label(axes, [(float(row[x]), float(row[y]), str(row["trial"])) for _, row in front.iterrows()])


def _aim(objective: Objective) -> str:
    return f"{unit(objective.metric).label} ({'less' if objective.minimise else 'more'} is better)"


def _label(axes: Axes, marks: list[tuple[float, float, str]]) -> None:
    """Numbers beside marks, where they cover neither a mark nor each other; where there is no such place, none."""
    figure = axes.figure
    figure.draw_without_rendering()  # type: ignore[union-attr]  # sets the scale from data to pixels
    scale = figure.dpi / 72
    spots = [axes.transData.transform((x, y)) for x, y, _ in marks]
    taken = [(x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale) for x, y in spots]
    for (px, py), (x, y, text) in zip(spots, marks, strict=True):
        wide, high = 6 * len(text) * scale, 9 * scale
        for dx, dy in _ASIDE:
            left = px + dx * scale - (wide if dx < 0 else 0 if dx > 0 else wide / 2)
            box = (left, py + dy * scale, left + wide, py + dy * scale + high)
            if not any(box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3] for other in taken):
                taken.append(box)
                align = "right" if dx < 0 else "left" if dx > 0 else "center"
                axes.annotate(text, (x, y), (dx, dy), textcoords="offset points", ha=align, va="bottom", fontsize=8, color=BLUE)
                break
