"""The sandbox's own paths: tasks and faults are added and looked at, in JSON, as text and as a page."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from aiohttp import web

from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox import admin_requests, playground
from ai_task_processor.sandbox.answers import Response, answer, nest_error, parsed, rendered
from ai_task_processor.sandbox.corpus import numbered_text
from ai_task_processor.sandbox.faults import Fault
from ai_task_processor.sandbox.page import POLICY, template
from ai_task_processor.sandbox.rows import newest

if TYPE_CHECKING:
    from ai_task_processor.sandbox.app import Sandbox

#: rows of the page
_SHOWN: Final = 50
#: fields of a task, and its states, by profile
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "aletheia": ("text", "type", "model", "id", "content", "raw"),
    "agents-playground": ("text", "type", "input", "user_id", "tenant_id"),
}
_STATES: Final[Mapping[str, tuple[str, ...]]] = {
    "aletheia": tuple(TaskStatus),
    "agents-playground": playground.STATES,
}

_HELP: Final = """\
ai-task-processor sandbox: a token endpoint, a task API, a model API and a Wikidata that cost nothing.

{environment}

Use it:       env $(curl -s {url}/sandbox/environment) DATA_DIR=/tmp/sandbox-data ai-task-processor run
{adding}
Look:         {url}/sandbox in a browser
              curl '{url}/sandbox/tasks?limit=5', curl {url}/sandbox/stats
Break things: curl {url}/sandbox/faults -d '{{"endpoint": "patch", "status": 503, "times": 20}}'
              curl {url}/sandbox/faults -d '{{"endpoint": "model", "hang": true, "probability": 0.1}}'
              endpoint is token, pending, patch, callback, read, model or wikidata; beside status: delay_s, hang,
              reset, truncate, drip_s, after, content, headers, times, every, probability, task_id, text
              curl {url}/sandbox/chat -d '{{"prose": 0.2, "truncated": 0.1}}'
              habits of the chat model: prose, fence, truncated, refusal, filtered, wrong, unlisted,
              tool_call, empty
Mend them:    curl -X DELETE {url}/sandbox/faults
"""

_ADDING: Final[Mapping[str, str]] = {
    "aletheia": """\
Add tasks:    curl {url}/sandbox/tasks -d '{{"count": 100}}'
              curl {url}/sandbox/tasks -d '[{{"text": "Hello"}}]'
              curl {url}/sandbox/tasks -d '[{{"type": "my_type", "content": {{"text": "Hello"}}}}]'
              curl {url}/sandbox/tasks -d '{{"claims": 10}}' (each a chain of five tasks)""",
    "agents-playground": """\
Add tasks:    curl {url}/tasks -H 'Content-Type: application/json' \\
                -d '{{"type": "summarize", "input": {{"text": "Hello"}}}}'
              curl {url}/sandbox/tasks -d '{{"count": 100}}'
List them:    curl '{url}/tasks?status_filter=done&limit=5'""",
}


def administer(sandbox: "Sandbox", request: web.BaseRequest, body: bytes) -> Response:
    """The answer to a request that is for none of the remotes."""
    path = request.raw_path.partition("?")[0].removesuffix("/")
    match request.method, path:
        case "GET", _ if (found := _shown(sandbox, request, path)) is not None:
            return found
        case "POST", "/sandbox/tasks":
            return _tried(lambda: {"ids": _add_tasks(sandbox, parsed(body))})
        case "POST", "/sandbox/faults":
            return _tried(lambda: {"faults": _add_fault(sandbox, parsed(body))})
        case "POST", "/sandbox/chat":
            return _tried(lambda: {"habits": _set_habits(sandbox, parsed(body))})
        case "DELETE", "/sandbox/faults":
            sandbox.faults.clear()
            sandbox.chat.habits.clear()
            return answer({"faults": 0})
    return nest_error(404, f"Cannot {request.method} {path or '/'}")


def _shown(sandbox: "Sandbox", request: web.BaseRequest, path: str) -> Response | None:
    """What there is to look at; None when there is nothing at this path."""
    match path:
        case "" if "text/html" not in request.headers.get("Accept", ""):
            return Response(text=help_text(sandbox))
        case "" | "/sandbox":
            return _page(sandbox)
        case "/sandbox/environment":
            return Response(text=f"{environment_text(sandbox)}\n")
        case "/sandbox/stats":
            return answer(asdict(sandbox.stats) | {"tasks": sandbox.store.outcomes()})
        case "/sandbox/tasks":
            return _tried(lambda: _list(sandbox, request.query), 200)
        case "/sandbox/faults":
            return answer({"faults": [fault.document for fault in sandbox.faults], "habits": sandbox.chat.habits})
    return None


def help_text(sandbox: "Sandbox") -> str:
    """What this is and how to use it, with the environment to copy."""
    adding = _ADDING[sandbox.profile].format(url=sandbox.url)
    return _HELP.format(environment=environment_text(sandbox), adding=adding, url=sandbox.url)


def environment_text(sandbox: "Sandbox") -> str:
    """The settings of a daemon that uses this sandbox, as ``.env`` has them."""
    return "\n".join(f"{name}={value}" for name, value in sandbox.environment().items())


def _page(sandbox: "Sandbox") -> Response:
    text = template().render(
        profile=sandbox.profile,
        counts=dict(sorted(sandbox.store.outcomes().items())),
        stats=sandbox.stats,
        faults=[{"endpoint": each.endpoint, "how": _how(each), "hits": each.hits} for each in sandbox.faults],
        habits=sandbox.chat.habits,
        rows=newest(sandbox.store, None, _SHOWN),
        states=_STATES[sandbox.profile],
        help=help_text(sandbox),
    )
    return Response(text=text, content_type="text/html", headers={"Content-Security-Policy": POLICY})


def _how(fault: Fault) -> str:
    how = {name: value for name, value in fault.document.items() if name not in ("endpoint", "hits")}
    return rendered(how).decode()


def _list(sandbox: "Sandbox", query: Mapping[str, str]) -> object:
    state, limit = admin_requests.rows_of(query, _STATES[sandbox.profile])
    counts = sandbox.store.outcomes()
    count = counts.total() if state is None else counts[state]
    return {"count": count, "tasks": [asdict(row) for row in newest(sandbox.store, state, limit)]}


def _add_tasks(sandbox: "Sandbox", wanted: object) -> list[str]:
    match admin_requests.tasks_of(wanted, _FIELDS[sandbox.profile]):
        case admin_requests.Claims(claims=count):
            return sandbox.verifications.add_claims(count)
        case admin_requests.NumberedTasks(count=count):
            made = len(sandbox.store)
            return [sandbox.store.add(numbered_text(made + n)) for n in range(count)]
        case tasks:
            return [sandbox.store.add(**task) for task in tasks]


def _add_fault(sandbox: "Sandbox", wanted: object) -> int:
    sandbox.faults.activate(admin_requests.fault_of(wanted))
    return len(sandbox.faults)


def _set_habits(sandbox: "Sandbox", wanted: object) -> object:
    sandbox.chat.behave(admin_requests.habits_of(wanted))
    return sandbox.chat.habits


def _tried(work: Callable[[], object], status: int = 201) -> Response:
    """The answer to a request for administration, or 400 with the error."""
    try:
        return answer(work(), status)
    except (ValueError, TypeError, KeyError) as error:
        return nest_error(400, str(error))
