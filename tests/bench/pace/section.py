"""The pace benchmark as a section of ``make bench`` (``ARGS=pace``)."""

from tests.bench.contest import Plan
from tests.bench.pace.__main__ import cell, missed, runs
from tests.bench.pace.scenes import SCENES
from tests.bench.report import Bound, Section


def pace(plan: Plan) -> list[Section]:
    """Virtual time: neither the machine nor the plan's tasks matter, only its rounds."""
    section = Section("pace", "limiter and size of calls against simulated providers, virtual time")
    section.rows.append(("scene", "goodput / best, 429s"))
    for scene in SCENES:
        measured = runs(scene, "Limiter", plan.rounds)
        section.rows.append((scene.name, cell(measured, full=False).strip()))
        section.bounds += [Bound(scene.name, what, "see tests/bench/pace", False) for what in missed(scene, measured)]
    section.bounds.append(Bound("scenes", str(len(SCENES)), "all bounds hold", not section.bounds))
    return [section]
