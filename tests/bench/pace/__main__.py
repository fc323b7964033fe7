# ruff: noqa: T201 - a script that prints its figures
"""Pace controllers against simulated providers, in virtual time and seeded: ``python -m tests.bench.pace``.

``make bench ARGS=pace`` plays the product's alone.
For each scene and controller: goodput as a share of the best possible, and the share of calls refused with 429
after the warm-up. Exit code 1 when a bound does not hold for the product's own.
"""

import argparse
import sys
from statistics import fmean, median

from tests.bench.contest import Plan
from tests.bench.pace.controllers import CONTROLLERS
from tests.bench.pace.play import Figures, Scene, Stage, figures
from tests.bench.pace.scenes import SCENES
from tests.bench.report import Bound, Section


def runs(scene: Scene, controller: str, seeds: int) -> list[Figures]:
    return [figures(scene, Stage(scene, CONTROLLERS[controller], seed).play()) for seed in range(1, seeds + 1)]


def missed(scene: Scene, measured: list[Figures]) -> list[str]:
    """The bounds that do not hold, in words. An average is no average of one run."""
    bounds = scene.bounds
    used, least = fmean(one.used for one in measured), min(one.used for one in measured)
    refused, back_s = fmean(one.refused for one in measured), median(one.back_s for one in measured)
    large, again = max(one.too_large for one in measured), max(one.too_large_again for one in measured)
    late = max(one.too_large_late for one in measured)
    enough = used >= bounds.used or (len(measured) == 1 and bounds.used_any > 0)
    checks = (
        (enough, f"{used:.2f} used, at least {bounds.used:.2f}"),
        (least >= bounds.used_any, f"{least:.2f} used in a run, at least {bounds.used_any:.2f}"),
        (refused <= bounds.refused, f"{refused:.1%} refused, at most {bounds.refused:.0%}"),
        (back_s <= bounds.back_s, f"back after {back_s:.1f} s, at most {bounds.back_s:.0f}"),
        (large <= bounds.too_large, f"{large} calls too large, at most {bounds.too_large:.1f}"),
        (late <= bounds.too_large_late, f"{late:.1%} too large in the second thousand, at most 2 %"),
        (again <= bounds.too_large_again, f"{again} too large after a restart"),
    )
    return [what for holds, what in checks if not holds]


def cell(measured: list[Figures], full: bool = False) -> str:
    text = f"{fmean(one.used for one in measured):5.2f} {fmean(one.refused for one in measured):5.1%}"
    if full:
        large = max((one.too_large, one.too_large_late, one.too_large_again) for one in measured)
        text += (
            f"  worst {min(one.used for one in measured):4.2f}"
            f"  90% {median(one.back_s for one in measured):5.1f} s"
            f"  too large {large[0]}, late {large[1]:.1%}, again {large[2]}"
        )
    return f"{text:>13s}"


def pace(plan: Plan) -> list[Section]:
    """For ``make bench``. Virtual time: neither the machine nor the plan's tasks matter, only its rounds."""
    section = Section("pace", "limiter and size of calls against simulated providers, virtual time")
    section.rows.append(("scene", "goodput / best, 429s"))
    for scene in SCENES:
        measured = runs(scene, "Limiter", plan.rounds)
        section.rows.append((scene.name, cell(measured).strip()))
        section.bounds += [Bound(scene.name, what, "see tests/bench/pace", False) for what in missed(scene, measured)]
    section.bounds.append(Bound("scenes", str(len(SCENES)), "all bounds hold", not section.bounds))
    return [section]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=CONTROLLERS, default=list(CONTROLLERS), help="these controllers")
    parser.add_argument("--scene", default="", help="scenes whose name has this in it")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (3)")
    parser.add_argument("--full", action="store_true", help="also the worst run, the time back, calls too large")
    options = parser.parse_args()
    print(f"{'goodput / best, 429s':42s}", *(f"{name:>13s}" for name in options.only))
    misses = []
    for scene in (one for one in SCENES if options.scene in one.name):
        measured = {name: runs(scene, name, options.seeds) for name in options.only}
        wrong = missed(scene, measured["Limiter"]) if "Limiter" in measured else []
        misses += [f"MISSED {scene.name}: {what}" for what in wrong]
        print(f"{scene.name:42s}", *(cell(one, options.full) for one in measured.values()), *wrong[:1], flush=True)
    print(*misses, sep="\n", end="\n" if misses else "")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
