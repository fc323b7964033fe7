"""Draws each board as one PNG out of the answers that a run left: ``draw.py answers.json DIRECTORY``.

Grafana itself cannot be had everywhere; this shows what the queries really answer, in the board's own layout, titles,
units, thresholds and colours. It needs matplotlib, which ``run`` installs beside the project's environment.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found]  # in the environment that run makes

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes  # type: ignore[import-not-found]
from matplotlib.figure import Figure  # type: ignore[import-not-found]
from matplotlib.ticker import FuncFormatter  # type: ignore[import-not-found]

BOARDS = Path(__file__).parents[2] / "grafana/dashboards"
#: inches of one column and one line of Grafana's grid
COLUMN, LINE = 0.75, 0.36
COLOURS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c", "blue": "#5794f2", "text": "white"}
SCALES = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1), ("ms", 1e-3)]

Json = dict[str, Any]
Series = tuple[str, list[tuple[float, float]]]


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """A value as Grafana writes it."""
    match unit:
        case "percentunit":
            return f"{100 * value:.{decimals or 0}f} %"
        case "s":
            name, size = next((scale for scale in SCALES if abs(value) >= scale[1]), ("s", 1.0))
            return f"{value / size:.3g} {name}"
        case "bytes":
            return f"{value / 2**20:.3g} MiB" if value >= 2**20 else f"{value / 2**10:.3g} KiB"
        case "ops" | "reqps":
            return f"{value:.3g} /s"
        case "currencyUSD":
            return f"${value:.{decimals or 0}f}"
    return f"{value:,.{decimals}f}" if decimals is not None else f"{value:,.4g}"


def series(panel: Json, answers: Mapping[str, list[Json]]) -> Iterator[Series]:
    """The lines of a panel by their legends."""
    for target in panel["targets"]:
        for one in answers[target["expr"]]:
            labels = defaultdict(str, one["labels"])
            legend = re.sub(r"{{(\w+)}}", r"{\1}", target["legendFormat"]).format_map(labels)
            yield legend.strip() or "value", one["points"]


def words(defaults: Json, overrides: list[Json], legend: str) -> dict[str, Json]:
    """Text and colour by value, for one line."""
    mappings = defaults.get("mappings", [])
    for override in overrides:
        if override["matcher"]["options"] == legend:
            mappings = next((p["value"] for p in override["properties"] if p["id"] == "mappings"), mappings)
    return next((dict(m["options"]) for m in mappings if m["type"] == "value"), {})


def number(axes: Axes, panel: Json, lines: list[Series]) -> None:
    """The last value in large; by name when the names say it."""
    defaults, overrides = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"]
    latest = max((points[-1][0] for _, points in lines), default=0)
    shown, colour = [], "white"
    for legend, points in lines:
        if points[-1][0] < latest:
            continue
        value = points[-1][1]
        known = words(defaults, overrides, legend).get(f"{value:g}", {})
        steps = [
            step["color"] for step in defaults["thresholds"]["steps"] if step["value"] is None or value >= step["value"]
        ]
        colour = COLOURS[known.get("color", steps[-1])]
        text = known.get("text") or written(value, defaults["unit"], defaults.get("decimals"))
        shown.append(legend if panel["options"]["textMode"] == "name" else text)
    axes.set_facecolor(colour)
    axes.text(0.5, 0.5, "\n".join(shown) or "none", ha="center", va="center", fontsize=20 if len(shown) < 2 else 8)
    axes.set(xticks=[], yticks=[])


def graph(axes: Axes, panel: Json, lines: list[Series], began: float) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    right = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}
    other = axes.twinx() if right else axes
    stacked = "stacking" in defaults["custom"]
    base: dict[float, float] = {}
    for index, (legend, points) in enumerate(lines):
        on = other if legend in right else axes
        lower = [base.get(at, 0.0) if stacked else 0.0 for at, _ in points]
        upper = [low + value for low, (_, value) in zip(lower, points, strict=True)]
        if stacked:
            base.update({at: high for (at, _), high in zip(points, upper, strict=True)})
        seconds, colour = [at - began for at, _ in points], f"C{index % 10}"
        on.plot(seconds, upper, ".-", markersize=1, linewidth=1, color=colour, label=legend)
        on.fill_between(seconds, lower, upper, color=colour, alpha=0.3 if stacked else 0.05)
    units = {axes: defaults["unit"]}
    if right:
        units[other] = panel["fieldConfig"]["overrides"][0]["properties"][0]["value"]
    for each, unit in units.items():
        each.set_ylim(bottom=0)
        each.yaxis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: written(value, unit)))
        each.tick_params(labelsize=6)
    handles = [handle for each in units for handle in each.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, fontsize=5, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=6, frameon=False)


def states(axes: Axes, panel: Json, lines: list[Series], began: float) -> None:
    """One bar for each line."""
    for height, (legend, points) in enumerate(lines):
        known_words = words(panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"], legend)
        for at, value in points:
            known = known_words.get(f"{value:g}", {})
            colour = "none" if known.get("color") == "transparent" else COLOURS.get(known.get("color", ""), "grey")
            axes.barh(height, 1, left=at - began, color=colour)
    axes.set_yticks(range(len(lines)), [legend for legend, _ in lines], fontsize=6)
    axes.tick_params(labelsize=6)


def table(axes: Axes, panel: Json, answers: Mapping[str, list[Json]]) -> None:
    """What it listed at any time of the run."""
    columns = panel["transformations"][1]["options"]["indexByName"]
    found = [one["labels"] for target in panel["targets"] for one in answers[target["expr"]]]
    rows = [[labels.get(column, "") for column in columns] for labels in found]
    axes.axis("off")
    axes.table(cellText=rows, colLabels=list(columns), loc="upper left", cellLoc="left").set_fontsize(7)


def place(figure: Figure, panel: Json, lines_in_all: int) -> Axes:
    """A panel's part of the board, less a margin for its title and its legend."""
    at = panel["gridPos"]
    width, height = figure.get_size_inches()
    left, top = at["x"] * COLUMN, at["y"] * LINE
    pad = {"row": (0.1, 0.0, 0.0), "stat": (0.06, 0.28, 0.06)}.get(panel["type"], (0.55, 0.28, 0.45))
    side, above, below = pad
    bottom = lines_in_all * LINE - top - at["h"] * LINE + below
    box = (left + side, bottom, at["w"] * COLUMN - 2 * side, at["h"] * LINE - above - below)
    axes: Axes = figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
    return axes


def draw(board: Json, answers: Mapping[str, list[Json]], began: float, file: Path) -> None:
    lines_in_all = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = pyplot.figure(figsize=(24 * COLUMN, lines_in_all * LINE))
    for panel in board["panels"]:
        axes = place(figure, panel, lines_in_all)
        if panel["type"] == "row":
            axes.axis("off")
            axes.text(0, 0.3, panel["title"], fontsize=12, weight="bold")
            continue
        axes.set_title(panel["title"], fontsize=8, loc="left")
        lines = list(series(panel, answers))
        match panel["type"]:
            case "stat":
                number(axes, panel, lines)
            case "table":
                table(axes, panel, answers)
            case "state-timeline":
                states(axes, panel, lines, began)
            case _:
                graph(axes, panel, lines, began)
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def main(answers: str, directory: str) -> None:
    asked: list[Json] = json.loads(Path(answers).read_text())
    began = min(at for query in asked for one in query["series"] for at, _ in one["points"])
    found = {query["query"]: query["series"] for query in asked}
    for file in sorted(BOARDS.glob("*.json")):
        draw(json.loads(file.read_text()), found, began, Path(directory) / f"{file.stem}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
