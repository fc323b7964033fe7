"""The API of the profile ``due-soon``, with its habits: what it lists, and how it fails."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from aiohttp import web

from ai_task_processor.sandbox.answers import Response, answer, parsed
from ai_task_processor.sandbox.faults import reset

SECRET: Final = "sandbox-internal-secret"  # noqa: S105 - it guards nothing
#: minutes from which on its arithmetic fails
_TOO_MANY: Final = 10**10

_PAGE: Final = """\
ai-task-processor sandbox: the API of the profile due-soon.

{environment}

Use it:       env $(curl -s {url}/sandbox/environment) DATA_DIR=/tmp/sandbox-data ai-task-processor run
Add tasks:    curl {url}/sandbox/tasks -d '{{"count": 10, "due_in_s": 600}}'
Complete one: curl {url}/sandbox/complete -d '{{"id": 1, "completed": true}}'
Look:         curl {url}/sandbox/tasks
Break it:     curl {url}/sandbox/down -d 'true' (and false)
"""


@dataclass(slots=True)
class DueTask:
    """``due_at``: naive, UTC."""

    id: int
    user_id: str
    title: str
    due_at: datetime
    priority: str
    completed: bool = False

    def listed(self) -> Mapping[str, object]:
        return {
            "id": self.id,
            "user_id": self.user_id,
            "title": self.title,
            "due_date": self.due_at.isoformat(),
            "priority": self.priority,
        }


@dataclass(slots=True)
class DueSoonApi:
    """``async with DueSoonApi() as api``: on a free loopback port. While it is ``down``, connections are reset."""

    tasks: dict[int, DueTask] = field(default_factory=dict)
    #: e-mail addresses
    users: dict[str, str] = field(default_factory=dict)
    secret: str = SECRET
    down: bool = False
    #: requests so far
    lists: int = 0
    look_ups: list[str] = field(default_factory=list)
    url: str = ""
    _runner: web.AppRunner | None = None

    def user(self, email: str) -> str:
        """A new user; returns the id."""
        user_id = str(uuid.uuid4())
        self.users[user_id] = email
        return user_id

    def add(self, due_in_s: float, title: str = "", user_id: str | None = None) -> DueTask:
        number = len(self.tasks) + 1
        owner = user_id or self.user(f"user{number}@example.com")
        due_at = datetime.now(UTC).replace(tzinfo=None, microsecond=0) + timedelta(seconds=due_in_s)
        task = DueTask(number, owner, title or f"Task {number}", due_at, "medium")
        self.tasks[number] = task
        return task

    def due_soon(self, minutes: int) -> list[DueTask]:
        """Unordered, as the database has them."""
        now = datetime.now(UTC).replace(tzinfo=None)
        until = now + timedelta(minutes=minutes)
        tasks = [task for task in self.tasks.values() if now <= task.due_at <= until and not task.completed]
        return sorted(tasks, key=lambda task: hash(task.title))

    async def __aenter__(self) -> "DueSoonApi":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/api/internal/tasks/due-soon", self._list)
        app.router.add_get("/api/internal/users/{user_id}/email", self._email)
        app.router.add_get("/", self._page)
        app.router.add_route("*", "/sandbox/{what}", self._administer)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        self.url = f"http://{host}:{self._runner.addresses[0][1]}"

    async def aclose(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def environment(self) -> dict[str, str]:
        """The settings that make a daemon use this API."""
        return {"TASK_SOURCE": "due-soon", "API_BASE_URL": self.url, "API_SECRET": self.secret}

    def page(self) -> str:
        return _PAGE.format(environment=self._environment_text(), url=self.url)

    def _environment_text(self) -> str:
        return "\n".join(f"{name}={value}" for name, value in self.environment().items())

    def _refused(self, request: web.Request) -> Response | None:
        if self.down:
            return reset(request)
        return None if request.headers.get("x-internal-secret") == self.secret else _detail(403, "Forbidden")

    async def _list(self, request: web.Request) -> Response:
        self.lists += 1
        if refused := self._refused(request):
            return refused
        try:
            minutes = int(request.query.get("minutes", "30"))
        except ValueError:
            return _detail(422, [{"type": "int_parsing", "loc": ["query", "minutes"]}])
        if minutes > _TOO_MANY:
            return Response(status=500, text="Internal Server Error")
        tasks = [task.listed() for task in self.due_soon(minutes)]
        return answer({"tasks": tasks, "count": len(tasks), "checked_at": datetime.now(UTC).isoformat()[:26]})

    async def _email(self, request: web.Request) -> Response:
        user_id = request.match_info["user_id"]
        self.look_ups.append(user_id)
        if refused := self._refused(request):
            return refused
        try:
            email = self.users.get(str(uuid.UUID(user_id)))
        except ValueError:
            return reset(request)  # it answers 500 as well, and nobody can rely on that
        return _detail(404, "User not found") if email is None else answer({"email": email, "name": "Somebody"})

    async def _page(self, _: web.Request) -> Response:
        return Response(text=self.page())

    async def _administer(self, request: web.Request) -> Response:
        try:
            wanted = parsed(await request.read()) if request.method == "POST" else None
            match request.match_info["what"], wanted:
                case "environment", None:
                    return Response(text=f"{self._environment_text()}\n")
                case "tasks", None:
                    return answer([{**task.listed(), "completed": task.completed} for task in self.tasks.values()])
                case "tasks", {"count": int(count), "due_in_s": float(due_in_s) | int(due_in_s)}:
                    made = [self.add(due_in_s).id for _ in range(count)]
                    return answer({"ids": made}, 201)
                case "complete", {"id": int(number), "completed": bool(completed)}:
                    self.tasks[number].completed = completed
                    return answer({"completed": completed})
                case "down", bool(down):
                    self.down = down
                    return answer({"down": down})
        except (ValueError, TypeError, KeyError) as error:
            return _detail(400, str(error))
        return _detail(404, "Not Found")


def _detail(status: int, detail: object) -> Response:
    return answer({"detail": detail}, status)


async def serve(host: str, port: int, *, announce: Callable[[str], None]) -> None:
    """Run it until cancelled; ``announce`` is called with the text of its page."""
    api = DueSoonApi()
    await api.start(host, port)
    try:
        announce(api.page())
        await asyncio.Event().wait()
    finally:
        await api.aclose()
