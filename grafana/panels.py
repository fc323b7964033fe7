"""Grafana's JSON for what the boards need of it: numbers, graphs, states and tables over one data source.

``boards.py`` says what is shown; here stands how. A query is PromQL over the instances that the board's
variable selects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PREFIX = "ai_task_processor_"
SOURCE = {"type": "prometheus", "uid": "prometheus"}  # as provisioned
WIDTH = 24
#: colours of a number: below the first bound, from it on, from the second on
GOOD_TO_BAD = ("green", "orange", "red")

Json = dict[str, Any]


def series(name: str, *matchers: str) -> str:
    """A selector: the daemon's metric ``name``, or a ``process_…`` one, on the chosen instances."""
    full = name if name.startswith("process_") else PREFIX + name
    chosen = ", ".join(('instance=~"$instance"', *matchers))
    return f"{full}{{{chosen}}}"


def daemons(query: str) -> str:
    """A query about ``process_…`` metrics, which Prometheus has of itself, too: only those of the daemon."""
    return f"{query} and on (instance, job) {series('build_info')}"


def total(name: str, *matchers: str, by: str = "") -> str:
    return f"sum{_by(by)}({series(name, *matchers)})"


def largest(name: str, *matchers: str, by: str = "") -> str:
    return f"max{_by(by)}({series(name, *matchers)})"


def smallest(name: str, *matchers: str) -> str:
    return f"min({series(name, *matchers)})"


def per_second(name: str, *matchers: str, by: str = "", over: str = "$__rate_interval") -> str:
    return f"sum{_by(by)}(rate({series(name, *matchers)}[{over}]))"


def steps(name: str, *matchers: str, by: str = "") -> str:
    """Where a counter grew, and by how much: for what is rare."""
    return f"sum{_by(by)}(increase({series(name, *matchers)}[$__rate_interval]))"


def in_range(name: str, *matchers: str, by: str = "") -> str:
    """How much a counter grew over the time that the board shows."""
    return f"sum{_by(by)}(increase({series(name, *matchers)}[$__range]))"


def in_an_hour(name: str, *matchers: str) -> str:
    """How much a counter grew in the last hour."""
    return f"sum(increase({series(name, *matchers)}[1h]))"


def ratio(part: str, whole: str) -> str:
    return f"{part} / {whole}"


def quantile(share: float, name: str, *matchers: str, by: str = "", over: str = "$__rate_interval") -> str:
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({share:g}, sum by ({groups}) (rate({series(f'{name}_bucket', *matchers)}[{over}])))"


def quantiles(name: str, *matchers: str) -> dict[str, str]:
    """Queries by their legends: the usual, the slow and the slowest."""
    return {f"p{100 * share:g}": quantile(share, name, *matchers) for share in (0.5, 0.95, 0.99)}


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture. ``queries``: PromQL by its legend, which may name labels as ``{{label}}``.

    ``text`` is what the reader needs beside the title; ``detail`` the board to go on to.
    ``instant``: one value of now instead of one for each moment.
    """

    title: str
    text: str
    queries: Mapping[str, str]
    unit: str = "short"
    width: int = 8
    height: int = 8
    detail: str = ""
    instant: bool = False

    def json(self) -> Json:
        targets = [
            {"refId": ref, "datasource": SOURCE, "expr": query, "legendFormat": legend, **self._mode()}
            for ref, (legend, query) in zip("ABCDEFGH", self.queries.items(), strict=False)
        ]
        panel = {"title": self.title, "description": self.text, "datasource": SOURCE, "targets": targets}
        if self.detail:
            url = f"/d/ai-task-processor-{self.detail}?${{__url_time_range}}&${{instance:queryparam}}"
            panel["links"] = [{"title": "details", "url": url}]
        return panel

    def _mode(self) -> Json:
        return {"instant": True, "range": False} if self.instant else {}


@dataclass(frozen=True, kw_only=True)
class Number(Panel):
    """One value of now in large letters, or the names of a few with ``show``; ``none`` when there is nothing to tell.

    ``bounds``: from the first on it is orange, from the second on red; equal ones skip orange. ``words``: texts and
    colours for values; ``names``: the colour of a series, by its legend, in place of green.
    """

    width: int = 4
    height: int = 4
    bounds: Sequence[float] = ()
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    show: str = "value"
    decimals: int | None = None
    instant: bool = True

    def json(self) -> Json:
        steps: list[Json] = [{"color": "green" if self.bounds else "text", "value": None}]
        steps += [
            {"color": colour, "value": bound} for colour, bound in zip(GOOD_TO_BAD[1:], self.bounds, strict=False)
        ]
        defaults: Json = {
            "unit": self.unit,
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": "thresholds"},
        }
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        defaults["mappings"] = [*_mappings(self.words), _NOTHING]
        return super().json() | {
            "type": "stat",
            "fieldConfig": {"defaults": defaults, "overrides": _colours(self.words, self.names)},
            "options": {
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "colorMode": "background" if self.bounds or self.words else "value",
                "graphMode": "none",
                "textMode": self.show,
            },
        }


@dataclass(frozen=True, kw_only=True)
class Graph(Panel):
    """Lines over time; ``stacked`` when their sum says something. ``right``: the legend whose line has its own axis."""

    stacked: bool = False
    right: str = ""
    right_unit: str = "short"

    def json(self) -> Json:
        custom: Json = {"fillOpacity": 40 if self.stacked else 8, "lineWidth": 1, "showPoints": "never"}
        if self.stacked:
            custom["stacking"] = {"mode": "normal", "group": "A"}
        overrides = []
        if self.right:
            properties: list[Json] = [
                {"id": "unit", "value": self.right_unit},
                {"id": "custom.axisPlacement", "value": "right"},
                {"id": "custom.stacking", "value": {"mode": "none", "group": "B"}},
                {"id": "custom.fillOpacity", "value": 0},
            ]
            overrides.append({"matcher": {"id": "byName", "options": self.right}, "properties": properties})
        return super().json() | {
            "type": "timeseries",
            "fieldConfig": {"defaults": {"unit": self.unit, "min": 0, "custom": custom}, "overrides": overrides},
            "options": {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
        }


@dataclass(frozen=True, kw_only=True)
class States(Panel):
    """One bar for each series, in the colours of its states. ``words``: text and colour for each value.

    ``names``: the colour of a series, by its legend, in place of green.
    """

    words: Mapping[str, tuple[str, str]]
    names: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Json:
        return super().json() | {
            "type": "state-timeline",
            "fieldConfig": {
                "defaults": {"unit": self.unit, "mappings": _mappings(self.words)},
                "overrides": _colours(self.words, self.names),
            },
            "options": {"mergeValues": True, "showValue": "never", "legend": {"showLegend": True}},
        }


@dataclass(frozen=True, kw_only=True)
class Table(Panel):
    """The labels of what a query finds now, as rows. ``columns``: the labels that are shown, in this order."""

    columns: Sequence[str]
    instant: bool = True

    def json(self) -> Json:
        panel = super().json()
        for target in panel["targets"]:
            target["format"] = "table"
        order = {name: place for place, name in enumerate(self.columns)}
        return panel | {
            "type": "table",
            "fieldConfig": {"defaults": {"unit": self.unit}, "overrides": []},
            "options": {"showHeader": True},
            "transformations": [
                {"id": "filterFieldsByName", "options": {"include": {"names": list(self.columns)}}},
                {"id": "organize", "options": {"indexByName": order}},
            ],
        }


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels under one heading, from left to right."""

    title: str
    panels: Sequence[Panel]


def board(uid: str, title: str, rows: Sequence[Row], *, variables: Sequence[Json] = ()) -> Json:
    """A whole dashboard: the rows, each laid out in lines of ``WIDTH``, and what all boards share."""
    placed: list[Json] = []
    top = 0
    for row in rows:
        placed.append({"type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": _at(0, top)})
        left, top, height = 0, top + 1, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, height = 0, top + height, 0
            placed.append(panel.json() | {"gridPos": _at(left, top, panel.width, panel.height)})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return {
        "uid": f"ai-task-processor-{uid}",
        "title": title,
        "tags": ["ai-task-processor"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "graphTooltip": 1,
        "links": [
            {
                "title": "Boards",
                "type": "dashboards",
                "tags": ["ai-task-processor"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_INSTANCES, *variables]},
        "annotations": {"list": [_STARTS]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(placed, 1)],
    }


def constant(name: str, label: str, value: str) -> Json:
    """A variable that the reader may overwrite."""
    current = {"selected": True, "text": value, "value": value}
    return {"name": name, "label": label, "type": "textbox", "query": value, "current": current, "options": [current]}


def _mappings(words: Mapping[str, tuple[str, str]]) -> list[Json]:
    options = {value: {"text": text, "color": colour} for value, (text, colour) in words.items()}
    return [{"type": "value", "options": options}] if words else []


def _colours(words: Mapping[str, tuple[str, str]], names: Mapping[str, str]) -> list[Json]:
    """The same words for some series, with another colour where it is green for the others."""
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {
                    "id": "mappings",
                    "value": _mappings({v: (text, named if of == "green" else of) for v, (text, of) in words.items()}),
                }
            ],
        }
        for name, named in names.items()
    ]


def _at(left: int, top: int, width: int = WIDTH, height: int = 1) -> Json:
    return {"h": height, "w": width, "x": left, "y": top}


#: a share of nothing, or no series
_NOTHING: Json = {"type": "special", "options": {"match": "null+nan", "result": {"text": "none", "color": "text"}}}
_INSTANCES: Json = {
    "name": "instance",
    "label": "Instance",
    "type": "query",
    "datasource": SOURCE,
    "query": {"query": f"label_values({PREFIX}build_info, instance)", "refId": "instances"},
    "refresh": 2,
    "multi": True,
    "includeAll": True,
    "allValue": ".*",
    "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    "sort": 1,
}
_STARTS: Json = {
    "name": "Starts",
    "enable": True,
    "iconColor": "blue",
    "datasource": SOURCE,
    "expr": f"changes({series('process_start_time_seconds')}[1m]) > 0 and on (instance, job) {PREFIX}build_info",
    "titleFormat": "start of {{instance}}",
}
