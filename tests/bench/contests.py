"""The workloads in which workers compete, and what has to hold in each."""

from dataclasses import replace

from tests.bench.contest import Plan, compete
from tests.bench.report import BASE, DAEMON, Bound, Runs, Section, at_least, at_most
from tests.bench.rivals import conductor, queue_worker
from tests.bench.runner import Start, Workload, daemon, daemon_as_shipped, loop

#: tasks for workers that are so slow that fewer are enough: cost is per task
FEWER, FEWEST = 5_000, 2_000
SIZES = (1_000, 10_000, 100_000)
#: how much more CPU time others need at least, each at its best
RIVALS = {"taskiq over aiohttp": 2.0, "arq over aiohttp": 2.5, "conductor-python": 7.0}


def throughput(plan: Plan) -> list[Section]:
    """No latency: what a task costs."""
    workload = Workload(20_000, 256)
    section = Section("a", "no latency, 220 characters, 1,536 floats, CONCURRENCY_LIMIT=256")
    entries = _bare(workload)
    if plan.rivals:
        entries += _rivals(workload)
    runs = _fill(section, compete(plan, "a", entries))
    section.bounds += [
        at_most("model calls per 1,000 tasks", runs.median(DAEMON, lambda run: run.calls_per_1000), 10, "{:,.1f}"),
        at_most("peak RSS of the daemon, MB", runs.median(DAEMON, lambda run: run.rss_mb), 100, "{:,.0f}"),
    ]
    if plan.rivals:
        section.bounds += [
            at_least(f"CPU of {name} to that of the daemon", runs.cheapest_us(name) / runs.cpu_us(DAEMON), least)
            for name, least in RIVALS.items()
        ]
    return [section]


def encrypted(plan: Plan) -> list[Section]:
    """The same over TLS."""
    section = Section("e", "as (a), over TLS")
    _fill(section, compete(plan, "e", _bare(Workload(20_000, 256, tls=True))))
    return [section]


def latencies(plan: Plan) -> list[Section]:
    """How close to what the remotes allow."""
    sections = []
    for slots, tasks in ((32, 1_280), (256, 10_240)):
        workload = Workload(tasks, slots, model_s=0.2, api_s=0.02)
        most = slots / (workload.api_s + workload.model_s)
        section = Section(
            f"b {slots}", f"model 200 ms, API 20 ms, CONCURRENCY_LIMIT={slots}: at most {most:,.0f} tasks/s"
        )
        runs = compete(replace(plan, quick=False), section.name, [(daemon, workload), (loop("aiohttp"), workload)])
        section.rows, section.figures = runs.rows(), runs.figures()
        rate = runs.median(DAEMON, lambda run: run.tasks_per_s)
        section.bounds = [*runs.correct(), at_least("of the most that latencies allow", rate / most, 0.9, "{:.1%}")]
        sections.append(section)
    return sections


def defaults(plan: Plan) -> list[Section]:
    """Nothing is set that need not be."""
    section = Section("f", "defaults as shipped, as (a) otherwise: CONCURRENCY_LIMIT=5")
    workload = Workload(2_000, 5)
    runs = compete(plan, "f", [(daemon_as_shipped, workload), *_bare(workload)[1:]])
    section.rows, section.figures, section.bounds = runs.rows(), runs.figures(), runs.correct()
    return [section]


def growth(plan: Plan) -> list[Section]:
    """A task costs the same however many wait. Small lists are measured several times, all after a warm-up."""
    section = Section("growth", "as (a), with so many tasks pending at once")
    sizes = [
        (daemon, Workload(size, 256, warm_up=1_000, batches=max(1, 5_000 // size)))
        for size in (SIZES[:2] if plan.quick else SIZES)
    ]
    runs = compete(replace(plan, quick=False), "growth", sizes)
    runs = Runs(replace(run, worker=f"{DAEMON}, {run.pending:,} pending") for run in runs.all)
    costs = [runs.cpu_us(each) for each in runs.labels]
    section.rows, section.figures = runs.rows(), runs.figures()
    section.bounds = [*runs.correct(), at_most("largest CPU per task to the smallest", max(costs) / min(costs), 1.1)]
    return [section]


def _bare(workload: Workload) -> list[tuple[Start, Workload]]:
    few = replace(workload, tasks=min(workload.tasks, FEWER))
    return [(daemon, workload), (loop("aiohttp"), workload), (loop("httpx2"), few)]


def _rivals(workload: Workload) -> list[tuple[Start, Workload]]:
    """What takes jobs out of Redis, with few and with many at once; Conductor's threads."""
    few, many = (replace(workload, tasks=FEWER, concurrency=jobs) for jobs in (32, 256))
    fewest = replace(few, tasks=FEWEST)
    entries: list[tuple[Start, Workload]] = [(conductor, fewest)]
    for queue in ("taskiq", "arq"):
        over_aiohttp = queue_worker(queue, "aiohttp")
        entries += [(over_aiohttp, few), (over_aiohttp, many), (queue_worker(queue, "openai"), fewest)]
    return entries


def _fill(section: Section, runs: Runs) -> Runs:
    section.rows, section.figures = runs.rows(), runs.figures()
    ratio: Bound = at_most(f"CPU of the daemon to that of the {BASE}", runs.ratio(DAEMON), 2.0)
    section.bounds = [*runs.correct(), ratio]
    return runs
