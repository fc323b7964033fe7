"""The dashboards: an overview for the first ten seconds, and one board each for remotes, chat types and the process.

``python -m grafana.boards`` writes ``grafana/dashboards/*.json``, which Grafana is provisioned with. They are
code because a panel is a line here and forty in JSON, and what all panels share is said once.
"""

import json
from pathlib import Path

from grafana.panels import (
    Graph,
    Json,
    Number,
    Panel,
    Row,
    States,
    Table,
    board,
    constant,
    daemons,
    in_an_hour,
    in_range,
    largest,
    per_second,
    quantile,
    quantiles,
    ratio,
    series,
    smallest,
    steps,
    total,
)

DIRECTORY = Path(__file__).parent / "dashboards"
CIRCUITS = {"0": ("closed", "green"), "1": ("open", "red"), "2": ("half-open", "orange")}
STATE_COLOURS = {"degraded": "orange", "starting": "blue", "draining": "blue"}
YES_NO = {"0": ("no", "red"), "1": ("yes", "green")}
POLLS = 'endpoint="/api/ai-tasks/pending"'
PATCHES = 'endpoint="/api/ai-tasks/{id}"'
TOKENS = 'endpoint="/oauth2/token"'
OK = 'outcome="ok"'
NOT_OK = 'outcome!="ok"'
ACKNOWLEDGED = 'outcome="acknowledged"'
SETTLED = 'status!="released"'
CHARGED = 'type=~"prompt|completion"'
SUCCEEDED = 'status="succeeded"'
FAILED = 'status="failed"'
UNUSABLE = 'outcome!~"ok|repaired"'


#: the gauge stands still while nothing is read
OLDEST_PENDING = (
    f"({series('oldest_pending_age_seconds')} > 0) + (time() - {series('last_successful_poll_timestamp_seconds')})"
)


def circuits(*services: str, width: int = 8) -> Panel:
    matcher = f'service=~"{"|".join(services)}"' if services else 'service!="other"'
    return States(
        title="Circuits",
        text="Open: calls fail and are held back, one probe at a time looks whether the remote is back.",
        queries={"{{service}}": largest("circuit_breaker_state", matcher, by="service")},
        words=CIRCUITS,
        width=width,
    )


def transitions(*services: str) -> Panel:
    return Graph(
        title="Changes of the circuit",
        text="Many of them in a short time: the remote comes and goes.",
        queries={
            "{{service}} {{to}}": steps(
                "circuit_breaker_transitions_total", f'service=~"{"|".join(services)}"', by="service, to"
            )
        },
    )


def of_chat(query: str) -> str:
    """A query by model: only the models that chat tasks ask."""
    return f"{query} and on (model) {series('model_answers_total')}"


def answers(to: str, matcher: str, width: int = 8) -> Panel:
    return Graph(
        title=f"Answers to {to}",
        text="HTTP requests by status; none: no answer came.",
        queries={
            "{{method}} {{status_code}}": f"{per_second('api_requests_total', matcher, by='method, status_code')} > 0"
        },
        unit="reqps",
        width=width,
        stacked=True,
    )


def overview() -> Json:
    tokens = in_range("model_tokens_total", CHARGED)
    firing = 'ALERTS{alertstate="firing", alertname=~"AiTaskProcessor.+"}'
    working = Row(
        title="Is it working?",
        panels=[
            Number(
                title="Ready",
                text="A token is held, the task API answered, results can be kept. GET /ready says why not.",
                queries={"ready": f"{smallest('ready')} or vector(0)"},
                words=YES_NO,
                detail="process",
            ),
            Number(
                title="State",
                text="degraded: it runs, but something it needs is missing.",
                queries={"{{state}}": f"{largest('state', by='state')} == 1"},
                words={"1": ("", "green")},
                names=STATE_COLOURS,
                show="name",
                detail="process",
            ),
            Number(
                title="Tasks settled a minute",
                text="Succeeded or failed for a reason of their own, over the last five minutes.",
                queries={"settled": f"60 * {per_second('tasks_processed_total', SETTLED, over='5m')}"},
                decimals=1,
            ),
            Number(
                title="Since the last good poll",
                text="Five intervals without one fire an alert. Long while all slots are busy with long tasks.",
                queries={"age": f"time() - min({series('last_successful_poll_timestamp_seconds')} > 0)"},
                unit="s",
                bounds=(90, 150),
                detail="task-api",
            ),
            Number(
                title="Slots in use",
                text="All of them for long, with tasks waiting: raise CONCURRENCY_LIMIT, or look at the model.",
                queries={"used": f"{total('tasks_in_flight')} / {total('slots')}"},
                unit="percentunit",
                detail="process",
            ),
            Number(
                title="Model calls that fail",
                text="The share of all calls of the last ten minutes, 429s included. While the model API refuses us "
                "(key, quota) it is asked every five minutes, and this is 100 %, although Ready says yes.",
                queries={
                    "failed": ratio(
                        per_second("model_requests_total", NOT_OK, over="10m"),
                        per_second("model_requests_total", over="10m"),
                    )
                },
                unit="percentunit",
                bounds=(0.1, 0.5),
                detail="model",
            ),
        ],
    )
    behind = Row(
        title="How far behind?",
        panels=[
            Number(
                title="Pending upstream",
                text="Tasks in the part of the list that the last poll read; more may be behind them.",
                queries={"pending": largest("pending_tasks_seen")},
                detail="task-api",
            ),
            Number(
                title="Oldest pending",
                text="Age of the oldest task that the last good poll read, which goes on growing when polls fail.",
                queries={"age": f"max({OLDEST_PENDING}) or vector(0)"},
                unit="s",
                bounds=(120, 600),
                detail="task-api",
            ),
            Number(
                title="Start late",
                text="The share of the last hour's tasks that waited for more than two minutes. The objective is 1 %.",
                queries={"late": "max(job:ai_task_processor_task_wait_late:ratio_rate1h)"},
                unit="percentunit",
                bounds=(0.01, 0.144),
                decimals=1,
                detail="task-api",
            ),
            Number(
                title="Created to acknowledged, p95",
                text="What the users of the API wait, over the last five minutes.",
                queries={"p95": quantile(0.95, "task_end_to_end_seconds", over="5m")},
                unit="s",
                detail="task-api",
            ),
            Number(
                title="Results waiting",
                text="Finished, on disk, and not acknowledged yet.",
                queries={"records": total("outbox_records")},
                detail="process",
            ),
            Number(
                title="Oldest waiting result",
                text="Ten minutes fire an alert. Nothing is lost meanwhile.",
                queries={"age": largest("outbox_oldest_age_seconds")},
                unit="s",
                bounds=(60, 600),
                detail="process",
            ),
        ],
    )
    broken = Row(
        title="What is broken?",
        panels=[
            Number(
                title="Alerts",
                text="Firing now; the table names them.",
                queries={"firing": f"count({firing}) or vector(0)"},
                bounds=(1, 1),
            ),
            Number(
                title="Circuits not closed",
                text="Remotes that fail: task API (polls, deliveries), models, token endpoint, look-ups.",
                queries={"open": f"count({series('circuit_breaker_state')} > 0) or vector(0)"},
                bounds=(1, 1),
            ),
            Number(
                title="Dead letters",
                text="Results that the API refuses for good: outbox list --dead.",
                queries={"dead": total("dead_letters")},
                bounds=(1, 10),
                detail="process",
            ),
            Number(
                title="Quarantined or stuck",
                text="Tasks that kill the process, and tasks that hold a slot beyond their deadline.",
                queries={"tasks": f"{total('quarantined_tasks')} + {total('stuck_tasks')}"},
                bounds=(1, 1),
                detail="process",
            ),
            Number(
                title="Results lost in a day",
                text="Must be 0. The log line result.lost names the task.",
                queries={"lost": f"sum(max_over_time({series('results_lost_total')}[1d]))"},
                bounds=(1, 1),
                detail="process",
            ),
            Number(
                title="Failed tasks",
                text="The share of the settled tasks, over the time shown: bad content, or a processor's bug.",
                queries={
                    "failed": ratio(
                        in_range("tasks_processed_total", FAILED), in_range("tasks_processed_total", SETTLED)
                    )
                },
                unit="percentunit",
                bounds=(0.05, 0.5),
                decimals=1,
                detail="model",
            ),
            Table(
                title="Alerts that fire",
                text="What to do about each is in its description, and in docs/operations.md.",
                queries={"{{alertname}}": firing},
                columns=("alertname", "severity", "instance", "service", "task_type", "outcome"),
                width=12,
                height=5,
            ),
            Graph(
                title="Faults, by whom",
                text="What did not go well with each remote, a second. Nothing here is lost: it is repeated.",
                queries={
                    "polls": per_second("polls_total", 'outcome!~"tasks|empty"'),
                    "deliveries": per_second("deliveries_total", 'outcome!="acknowledged"'),
                    "model": per_second("model_requests_total", NOT_OK),
                    "token": per_second("token_requests_total", NOT_OK),
                },
                unit="ops",
                width=12,
                height=5,
                stacked=True,
            ),
        ],
    )
    cost = Row(
        title="What does it cost?",
        panels=[
            Number(
                title="Tokens charged",
                text="Over the time shown.",
                queries={"tokens": tokens},
                decimals=0,
                detail="model",
            ),
            Number(
                title="US dollars",
                text="Over the time shown, at the price above, which you may overwrite: one for all models. "
                "With MODEL_PRICES the model board has the cost of each, chat included.",
                queries={"cost": f"{tokens} / 1e6 * $price"},
                unit="currencyUSD",
                decimals=2,
                detail="model",
            ),
            Number(
                title="Tokens saved",
                text="Texts whose vector was remembered would have cost this, over the time shown.",
                queries={"saved": in_range("vector_cache_saved_tokens_total")},
                decimals=0,
                detail="model",
            ),
            Number(
                title="Tokens in the last hour",
                text="Charged, whatever time is shown.",
                queries={"tokens": in_an_hour("model_tokens_total", CHARGED)},
                decimals=0,
                detail="model",
            ),
            Number(
                title="Model calls in the last hour",
                text="Failed ones included, whatever time is shown.",
                queries={"calls": in_an_hour("model_requests_total")},
                decimals=0,
                detail="model",
            ),
            Number(
                title="Model calls a task",
                text="Below 1 when tasks share a call; over the time shown.",
                queries={
                    "calls": ratio(in_range("model_requests_total"), in_range("tasks_processed_total", SUCCEEDED))
                },
                decimals=2,
                detail="model",
            ),
        ],
    )
    course = Row(
        title="The course of it",
        panels=[
            Graph(
                title="Tasks settled",
                text="Succeeded, failed for a reason of their own, or released because somebody else was at fault.",
                queries={"{{status}}": per_second("tasks_processed_total", 'status!="other"', by="status")},
                unit="ops",
                width=12,
                stacked=True,
            ),
            Graph(
                title="Waiting",
                text="Tasks upstream, results here.",
                queries={
                    "pending upstream": largest("pending_tasks_seen"),
                    "in flight": total("tasks_in_flight"),
                    "results waiting": total("outbox_records"),
                },
                width=12,
            ),
            Graph(
                title="Tokens an hour",
                text="At the pace of each moment: what is charged, and what remembered vectors save.",
                queries={
                    "charged": f"3600 * {per_second('model_tokens_total', CHARGED)}",
                    "saved": f"3600 * {per_second('vector_cache_saved_tokens_total')}",
                },
                width=12,
                stacked=True,
            ),
            circuits(width=12),
        ],
    )
    price = constant("price", "US dollars for a million tokens", "0.02")
    return board("overview", "AI task processor", [working, behind, broken, cost, course], variables=[price])


def task_api() -> Json:
    polls = Row(
        title="Polls",
        panels=[
            Graph(
                title="Polls, by how they ended",
                text="tasks and empty are good. Beside them the calls for an immediate poll, by where they come from.",
                queries={
                    "{{outcome}}": f"{per_second('polls_total', by='outcome')} > 0",
                    "wake-up by {{origin}}": per_second("wakeups_total", by="origin"),
                    "push connected": largest("push_connected"),
                },
                unit="ops",
            ),
            Graph(
                title="Duration of a poll",
                text="To the end of what is read.",
                queries=quantiles("poll_duration_seconds"),
                unit="s",
            ),
            Graph(
                title="Bytes of a poll",
                text="The list is read only as far as needed.",
                queries={
                    "mean": ratio(per_second("poll_bytes_sum"), per_second("poll_bytes_count")),
                    "p95": quantile(0.95, "poll_bytes"),
                },
                unit="bytes",
            ),
            Graph(
                title="Since the last good poll",
                text="Beside it the longest pause between two polls.",
                queries={
                    "age": f"time() - min({series('last_successful_poll_timestamp_seconds')} > 0)",
                    "interval": largest("poll_interval_seconds"),
                },
                unit="s",
            ),
            Graph(
                title="Pending upstream",
                text="In the part of the list that the last good poll read; the age goes on growing when polls fail.",
                queries={
                    "tasks": largest("pending_tasks_seen"),
                    "age of the oldest": f"max({OLDEST_PENDING})",
                },
                right="age of the oldest",
                right_unit="s",
            ),
            States(
                title="Read to its end",
                text="No: more tasks are pending than the figures beside this one say.",
                queries={"list": smallest("pending_list_complete")},
                words={"0": ("no", "orange"), "1": ("yes", "green")},
            ),
            Graph(
                title="Listed for each task",
                text="Records looked at. Many: the API ignores the limit, or thousands of tasks are skipped.",
                queries={
                    "records": ratio(per_second("listed_records_total"), per_second("tasks_processed_total")),
                    "wait for slots": largest("read_ahead_tasks"),
                },
                right="wait for slots",
            ),
            Graph(
                title="Tasks skipped",
                text="Listed and not started, by reason; each poll counts them again.",
                queries={"{{reason}}": f"{per_second('tasks_skipped_total', by='reason')} > 0"},
                unit="ops",
                stacked=True,
            ),
            Graph(
                title="Created to started",
                text="The objective: 99 % within two minutes.",
                queries=quantiles("task_wait_seconds"),
                unit="s",
            ),
            Graph(
                title="Created to acknowledged",
                text="What users wait.",
                queries=quantiles("task_end_to_end_seconds"),
                unit="s",
            ),
            Graph(
                title="Start late",
                text="The share that waited for more than two minutes: 1 % is the objective, 14.4 % wake somebody.",
                queries={
                    "5 minutes": "max(job:ai_task_processor_task_wait_late:ratio_rate5m)",
                    "30 minutes": "max(job:ai_task_processor_task_wait_late:ratio_rate30m)",
                    "1 hour": "max(job:ai_task_processor_task_wait_late:ratio_rate1h)",
                    "6 hours": "max(job:ai_task_processor_task_wait_late:ratio_rate6h)",
                },
                unit="percentunit",
            ),
            answers("polls", POLLS),
            Graph(
                title="Latency of a GET",
                text="To the head of the answer, and until it is read.",
                queries=quantiles("api_request_duration_seconds", POLLS),
                unit="s",
            ),
        ],
    )
    deliveries = Row(
        title="Deliveries",
        panels=[
            Graph(
                title="Deliveries, by outcome",
                text="retried ones come again; refused, gone and conflict are dead letters.",
                queries={"{{outcome}}": per_second("deliveries_total", by="outcome")},
                unit="ops",
                stacked=True,
            ),
            Graph(
                title="Results waiting",
                text="On disk until the API acknowledges them.",
                queries={"results": total("outbox_records"), "age of the oldest": largest("outbox_oldest_age_seconds")},
                right="age of the oldest",
                right_unit="s",
            ),
            Graph(
                title="Answers lost",
                text="The PATCH may have been applied: it is repeated, and the callback may run twice.",
                queries={"ambiguous": steps("ambiguous_deliveries_total")},
            ),
            answers("deliveries", PATCHES),
            Graph(
                title="Latency of a PATCH",
                text="The callback included.",
                queries=quantiles("api_request_duration_seconds", PATCHES),
                unit="s",
            ),
            Graph(
                title="Dead letters",
                text="Refused for good and kept, until outbox retry or outbox drop.",
                queries={"dead letters": total("dead_letters")},
            ),
        ],
    )
    doors = Row(
        title="Circuits and repeats",
        panels=[
            circuits("api_poll", "api_delivery"),
            transitions("api_poll", "api_delivery"),
            Graph(
                title="Requests a delivery",
                text="PATCHes for each result that was acknowledged: above 1 the API fails or refuses.",
                queries={
                    "requests": ratio(
                        per_second("api_requests_total", PATCHES), per_second("deliveries_total", ACKNOWLEDGED)
                    )
                },
            ),
        ],
    )
    return board("task-api", "AI task processor: task API", [polls, deliveries, doors])


def model() -> Json:
    calls = Row(
        title="Calls",
        panels=[
            Graph(
                title="Calls, by outcome",
                text="unauthorized and quota last until somebody acts; the others are repeated, or a text's fault.",
                queries={"{{outcome}}": f"{per_second('model_requests_total', by='outcome')} > 0"},
                unit="reqps",
                stacked=True,
            ),
            Graph(
                title="Duration of a call",
                text="All models.",
                queries=quantiles("model_request_duration_seconds"),
                unit="s",
            ),
            Graph(
                title="Duration, by model",
                text="The slow end of each.",
                queries={"{{model}}": quantile(0.95, "model_request_duration_seconds", by="model")},
                unit="s",
            ),
            Graph(
                title="Texts in a call",
                text="Tasks that wait together share a call.",
                queries={
                    "{{model}}": ratio(
                        per_second("batch_size_sum", by="model"), per_second("batch_size_count", by="model")
                    )
                },
            ),
            Graph(
                title="Refused batches",
                text="Split until the input at fault stands alone; a few calls more for each.",
                queries={"splits": steps("batch_isolations_total")},
            ),
            circuits("model"),
        ],
    )
    limits = Row(
        title="Limits",
        panels=[
            Graph(
                title="Requests left",
                text="x-ratelimit-remaining-requests of the last answer; 0 when the provider does not say.",
                queries={"requests": smallest("model_ratelimit_remaining", 'kind="requests"')},
            ),
            Graph(
                title="Tokens left",
                text="x-ratelimit-remaining-tokens of the last answer; 0 when the provider does not say.",
                queries={"tokens": smallest("model_ratelimit_remaining", 'kind="tokens"')},
            ),
            Graph(
                title="Pace",
                text="Calls a second that 429s leave; no line where no limit is known.",
                queries={"{{model}}": f"{largest('model_pace_calls_per_second', by='model')} > 0"},
                unit="reqps",
            ),
            Graph(
                title="Calls that wait",
                text="Calls that are ready and wait for the model's pace.",
                queries={"{{model}}": f"{largest('model_waiting_calls', by='model')} > 0"},
            ),
            Graph(
                title="429s a second",
                text="Calls that the provider answered with 429.",
                queries={"{{model}}": per_second("model_throttled_total", by="model") + " > 0"},
                unit="reqps",
            ),
            Graph(
                title="Inputs of a call, at most",
                text="What a call may hold, as far as it was learnt; 2,048 where nothing was refused.",
                queries={"{{model}}": f"{largest('model_batch_cap', by='model')} > 0"},
            ),
        ],
    )
    cost = Row(
        title="Cost",
        panels=[
            Graph(
                title="Tokens charged a second",
                text="By model and kind.",
                queries={"{{model}} {{type}}": per_second("model_tokens_total", CHARGED, by="model, type") + " > 0"},
                width=8,
                stacked=True,
            ),
            Graph(
                title="Tokens saved a second",
                text="What texts whose vector was remembered would have cost.",
                queries={"saved": per_second("vector_cache_saved_tokens_total")},
                width=8,
            ),
            Graph(
                title="Tokens a task",
                text="Charged for each task that succeeded.",
                queries={
                    "tokens": ratio(
                        per_second("model_tokens_total", CHARGED), per_second("tasks_processed_total", SUCCEEDED)
                    )
                },
                width=8,
            ),
            Graph(
                title="Texts remembered",
                text="The share that cost nothing because it had come before.",
                queries={
                    "share": f"{per_second('vector_cache_hits_total')} / "
                    f"({per_second('vector_cache_hits_total')} + {per_second('batch_size_sum')})"
                },
                unit="percentunit",
                width=8,
            ),
            Graph(
                title="Prompts out of the cache",
                text="The share of the prompts' tokens that the provider had cached.",
                queries={
                    "{{model}}": ratio(
                        per_second("model_tokens_total", 'type="cached"', by="model"),
                        per_second("model_tokens_total", 'type="prompt"', by="model"),
                    )
                },
                unit="percentunit",
                width=8,
            ),
            Graph(
                title="Cost an hour",
                text="In the currency of MODEL_PRICES; nothing without it.",
                queries={"{{model}}": f"3600 * {per_second('model_cost_total', by='model')} > 0"},
                width=8,
                stacked=True,
            ),
        ],
    )
    tasks = Row(
        title="Tasks",
        panels=[
            Graph(
                title="Tasks, by type and end",
                text="released: given back, somebody else was at fault.",
                queries={
                    "{{task_type}} {{status}}": f"{per_second('tasks_processed_total', by='task_type, status')} > 0"
                },
                unit="ops",
                stacked=True,
            ),
            Graph(
                title="Started to settled",
                text="The model call, what it waited for, and the commit.",
                queries=quantiles("task_processing_duration_seconds"),
                unit="s",
            ),
            transitions("model"),
        ],
    )
    return board("model", "AI task processor: model", [calls, limits, cost, tasks])


def chat() -> Json:
    answered = Row(
        title="Answers",
        panels=[
            Graph(
                title="Answers, by type and outcome",
                text="repaired: text around the JSON was removed. truncated, filtered, refused and invalid_output are "
                "asked again a few times; then the task ends failed.",
                queries={
                    "{{task_type}} {{outcome}}": per_second("model_answers_total", by="task_type, outcome") + " > 0"
                },
                unit="reqps",
                stacked=True,
            ),
            Graph(
                title="Unusable answers, by type",
                text="The share of the answers that had to be asked for again; over 20 % for long fires an alert. "
                "A prompt or a schema that a model cannot follow shows here first.",
                queries={
                    "{{task_type}}": ratio(
                        per_second("model_answers_total", UNUSABLE, by="task_type"),
                        per_second("model_answers_total", by="task_type"),
                    )
                },
                unit="percentunit",
            ),
            Graph(
                title="Failed tasks, by type",
                text="The share of the settled tasks of each chat type; over 20 % for long fires an alert.",
                queries={
                    "{{task_type}}": ratio(
                        per_second("tasks_processed_total", FAILED, by="task_type"),
                        per_second("tasks_processed_total", SETTLED, by="task_type"),
                    )
                    + f" and on (task_type) {series('model_answers_total')}"
                },
                unit="percentunit",
            ),
        ],
    )
    calls = Row(
        title="Calls",
        panels=[
            Graph(
                title="Duration of a call, by model",
                text="Half of the calls are faster than p50, one of a hundred is slower than p99. other: all models "
                "but CHAT_MODEL and those of embeddings.",
                queries={
                    f"{{{{model}}}} p{100 * share:g}": of_chat(
                        quantile(share, "model_request_duration_seconds", by="model")
                    )
                    for share in (0.5, 0.99)
                },
                unit="s",
            ),
            Graph(
                title="Tokens a second, by model and kind",
                text="What is charged. Cached ones are a part of the prompt's.",
                queries={"{{model}} {{type}}": of_chat(f"{per_second('model_tokens_total', by='model, type')} > 0")},
            ),
            Graph(
                title="Cost an hour, by model",
                text="In the currency of MODEL_PRICES; nothing without that table.",
                queries={"{{model}}": of_chat(f"3600 * {per_second('model_cost_total', by='model')} > 0")},
            ),
        ],
    )
    beside = Row(
        title="Steps and look-ups",
        panels=[
            Graph(
                title="Steps",
                text="Calls inside tasks of several calls: made, or answered from the store after a crash or a retry.",
                queries={"{{outcome}}": f"{per_second('steps_total', by='outcome')} > 0"},
                unit="ops",
                width=6,
            ),
            Graph(
                title="Requests to Wikidata, by outcome",
                text="People, topics and areas of claims. While it fails their tasks wait; nothing is paid twice.",
                queries={"{{outcome}}": f"{per_second('wikidata_requests_total', by='outcome')} > 0"},
                unit="reqps",
                width=6,
                stacked=True,
            ),
            Graph(
                title="Requests to the search API, by outcome",
                text="Each ok is paid for; answers that are remembered make no request.",
                queries={"{{outcome}}": f"{per_second('search_requests_total', by='outcome')} > 0"},
                unit="reqps",
                width=6,
                stacked=True,
            ),
            circuits("chat", "wikidata", "search", width=6),
        ],
    )
    return board("chat", "AI task processor: chat models", [answered, calls, beside])


def token() -> Json:
    now = Row(
        title="Now",
        panels=[
            Number(
                title="Token",
                text="Until it expires; it is renewed when a fifth of its life is left. Nothing: there is none.",
                queries={"left": f"min({series('token_expiry_timestamp_seconds')} > 0) - time()"},
                unit="s",
                width=6,
            ),
            Number(
                title="Requests",
                text="Over the time shown; one for each life of a token when all is well.",
                queries={"requests": in_range("token_requests_total")},
                width=6,
                decimals=0,
            ),
            Number(
                title="Client refused",
                text="The client is wrong: doctor names the setting. Over the time shown.",
                queries={"rejected": in_range("token_requests_total", 'outcome="rejected"')},
                bounds=(0.5, 0.5),
                width=6,
                decimals=0,
            ),
            Number(
                title="Polls without a token",
                text="Polls that ended with 401 or 403, or found no token, over the time shown.",
                queries={"polls": in_range("polls_total", 'outcome="auth_error"')},
                bounds=(0.5, 0.5),
                width=6,
                decimals=0,
            ),
        ],
    )
    course = Row(
        title="The course of it",
        panels=[
            Graph(
                title="Requests, by outcome",
                text="rejected: the client is refused; error: no answer, or one that is no token.",
                queries={"{{outcome}}": per_second("token_requests_total", by="outcome")},
                unit="reqps",
                width=6,
                stacked=True,
            ),
            answers("token requests", TOKENS, width=6),
            Graph(
                title="Tokens refused",
                text="Requests that the task API answered with 401: each was repeated once under another token.",
                queries={"refused": steps("token_refusals_total")},
                width=6,
            ),
            Graph(
                title="Latency",
                text="Of a token request.",
                queries=quantiles("api_request_duration_seconds", TOKENS),
                unit="s",
                width=6,
            ),
            Graph(
                title="Life left of the token",
                text="A saw: it falls to a fifth of a token's life.",
                queries={"left": f"min({series('token_expiry_timestamp_seconds')} > 0) - time()"},
                unit="s",
            ),
            circuits("token"),
            transitions("token"),
        ],
    )
    return board("token", "AI task processor: token endpoint", [now, course])


def process() -> Json:
    running = Row(
        title="The process",
        panels=[
            Number(
                title="Version",
                text="What runs.",
                queries={"{{version}}, Python {{python}}": f"max by (version, python) ({series('build_info')})"},
                show="name",
            ),
            Number(
                title="Up for",
                text="Since the youngest start.",
                queries={"up": f"time() - max({daemons(series('process_start_time_seconds'))})"},
                unit="s",
            ),
            Number(title="Slots", text="CONCURRENCY_LIMIT.", queries={"slots": total("slots")}),
            Number(
                title="Stuck tasks",
                text="They hold a slot beyond their deadline: a restart frees it.",
                queries={"stuck": total("stuck_tasks")},
                bounds=(1, 1),
            ),
            Number(
                title="Quarantined tasks",
                text="Three of their isolated runs killed the process: outbox list --dead.",
                queries={"quarantined": total("quarantined_tasks")},
                bounds=(1, 1),
            ),
            Number(
                title="Results lost",
                text="In a day. Must be 0.",
                queries={"lost": f"sum(max_over_time({series('results_lost_total')}[1d]))"},
                bounds=(1, 1),
            ),
            States(
                title="State",
                text="Which of the four it is in; whether /ready answers 200, and whether an operator has paused it.",
                queries={
                    "{{state}}": largest("state", by="state"),
                    "ready": smallest("ready"),
                    "paused": largest("paused"),
                },
                words={"0": ("no", "transparent"), "1": ("yes", "green")},
                names=STATE_COLOURS,
                width=12,
            ),
            Graph(
                title="Slots in use",
                text="All of them for long: raise CONCURRENCY_LIMIT, or look at the model.",
                queries={"in flight": total("tasks_in_flight"), "slots": total("slots"), "stuck": total("stuck_tasks")},
                width=12,
            ),
            Graph(
                title="Event-loop lag",
                text="How late timers run. A second means that something blocks the loop.",
                queries=quantiles("event_loop_lag_seconds"),
                unit="s",
                width=6,
            ),
            Graph(
                title="CPU",
                text="Cores.",
                queries={"{{instance}}": daemons(f"rate({series('process_cpu_seconds_total')}[$__rate_interval])")},
                width=6,
            ),
            Graph(
                title="Memory",
                text="Resident.",
                queries={"{{instance}}": daemons(series("process_resident_memory_bytes"))},
                unit="bytes",
                width=6,
            ),
            Graph(
                title="Open files",
                text="Connections included; beside them the limit.",
                queries={
                    "open": f"max({daemons(series('process_open_fds'))})",
                    "limit": f"max({daemons(series('process_max_fds'))})",
                },
                right="limit",
                width=6,
            ),
            Graph(
                title="Log lines dropped",
                text="Nobody read the log fast enough. Work went on; the log has gaps.",
                queries={"{{instance}}": daemons(f"rate({series('log_lines_dropped_total')}[$__rate_interval])")},
                width=6,
            ),
        ],
    )
    outbox = Row(
        title="The outbox",
        panels=[
            Graph(
                title="What it holds",
                text="Results that wait, results that were refused, tasks set aside.",
                queries={
                    "waiting": total("outbox_records"),
                    "dead letters": total("dead_letters"),
                    "quarantined": total("quarantined_tasks"),
                },
                width=6,
            ),
            Graph(
                title="Oldest waiting result",
                text="Ten minutes fire an alert.",
                queries={"age": largest("outbox_oldest_age_seconds")},
                unit="s",
                width=6,
            ),
            Graph(
                title="Bytes",
                text="At OUTBOX_MAX_BYTES claiming stops.",
                queries={"{{instance}}": largest("outbox_bytes", by="instance")},
                unit="bytes",
                width=6,
            ),
            Graph(
                title="Recovered and lost",
                text="Results found on disk at a start, and results that are gone, which must stay 0.",
                queries={
                    "recovered": f"sum(max_over_time({series('results_recovered_total')}[$__range]))",
                    "lost": f"sum(max_over_time({series('results_lost_total')}[$__range]))",
                },
                width=6,
            ),
        ],
    )
    return board("process", "AI task processor: process and outbox", [running, outbox])


def boards() -> dict[str, str]:
    """The text of each file, by its name."""
    built = {
        "overview": overview(),
        "task-api": task_api(),
        "model": model(),
        "chat": chat(),
        "token": token(),
        "process": process(),
    }
    return {f"{name}.json": f"{json.dumps(board, indent=2)}\n" for name, board in built.items()}


def main() -> None:
    """Write the files, and take away those that no board stands for any more."""
    written = boards()
    for name, text in written.items():
        (DIRECTORY / name).write_text(text)
    for file in DIRECTORY.glob("*.json"):
        if file.name not in written:
            file.unlink()


if __name__ == "__main__":
    main()
