"""Draws each board as one PNG out of the answers that a run left: ``draw.py answers.json DIRECTORY``.

Grafana itself cannot be had everywhere; this shows what the queries really answer, with the board's titles, units
and legends. It needs matplotlib, which ``run`` installs beside the project's environment.
"""

import json
import re
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib  # type: ignore[import-not-found]  # in the environment that run makes

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes  # type: ignore[import-not-found]

COLUMNS = 4
UNITS = {"s": "s", "bytes": "bytes", "ops": "/s", "reqps": "/s", "percentunit": "share", "currencyUSD": "USD"}

Json = dict[str, Any]


def legend(query: Json, labels: dict[str, str]) -> str:
    text = re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), query["legend"])
    return text.strip() or "value"


def lines(axes: Axes, queries: Sequence[Json], began: float) -> None:
    for query in queries:
        for series in query["series"]:
            seconds = [at - began for at, _ in series["points"]]
            values = [value for _, value in series["points"]]
            axes.plot(seconds, values, ".-", markersize=2, linewidth=1, label=legend(query, series["labels"]))
    axes.legend(fontsize=5, loc="best")
    axes.tick_params(labelsize=6)
    axes.set_ylim(bottom=0)


def numbers(axes: Axes, queries: Sequence[Json]) -> None:
    """The last value in large, as Grafana shows it; by name when it has names."""
    axes.axis("off")
    found = [(legend(query, s["labels"]), s["points"]) for query in queries for s in query["series"]]
    latest = max((points[-1][0] for _, points in found), default=0)
    current = [(name, points[-1][1]) for name, points in found if points[-1][0] == latest]
    text = "\n".join(name if value == 1 and "{{" in queries[0]["legend"] else f"{value:.4g}" for name, value in current)
    axes.text(0.5, 0.55, text, ha="center", va="center", fontsize=20 if len(text) < 12 else 9)
    peaks = ", ".join(f"{min(v for _, v in p):.3g} to {max(v for _, v in p):.3g}" for _, p in found[:1])
    axes.text(0.5, 0.1, f"in this run: {peaks}", ha="center", fontsize=6, color="gray")


def rows(axes: Axes, queries: Sequence[Json]) -> None:
    """What a table listed at any time of the run."""
    axes.axis("off")
    listed = [" ".join(sorted(s["labels"].values())) for query in queries for s in query["series"]]
    axes.text(0, 0.9, "\n".join(listed), va="top", fontsize=5)


def draw(board: str, panels: Sequence[tuple[str, Sequence[Json]]], began: float, file: Path) -> None:
    height = -(-len(panels) // COLUMNS)
    figure, grid = pyplot.subplots(height, COLUMNS, figsize=(5 * COLUMNS, 2.6 * height), squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes, (title, queries) in zip(grid.flat, panels, strict=False):
        unit = UNITS.get(queries[0]["unit"], "")
        axes.set_title(f"{title} [{unit}]" if unit else title, fontsize=8)
        match queries[0]["kind"]:
            case "stat":
                numbers(axes, queries)
            case "table":
                rows(axes, queries)
            case _:
                lines(axes, queries, began)
    figure.suptitle(board, fontsize=12)
    figure.tight_layout(rect=(0, 0, 1, 0.98))
    figure.savefig(file, dpi=80)
    pyplot.close(figure)


def main(answers: str, directory: str) -> None:
    asked: list[Json] = json.loads(Path(answers).read_text())
    began = min(at for query in asked for series in query["series"] for at, _ in series["points"])
    for board, queries in groupby(asked, key=lambda query: str(query["board"])):
        shown = [query for query in queries if query["kind"] != "annotation"]
        panels = [(title, list(group)) for title, group in groupby(shown, key=lambda query: str(query["panel"]))]
        draw(board, panels, began, Path(directory) / f"{board}.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
