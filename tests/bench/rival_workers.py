"""Other workers doing the same work: ``python -m tests.bench.rival_workers``.

Runs in the benchmark's own environment, started by ``tests.bench.rivals``. A job of arq and taskiq embeds its text
and PATCHes the result over aiohttp. It asks the model over aiohttp too, which is the least that it can cost, or by
the official client, as most would. Conductor's worker reports through Conductor's protocol.
"""

import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import orjson
import uvloop

from tests.bench import book
from tests.bench.loops import MODEL, Send, embedded, over_aiohttp, vector

Job = Callable[[str, str], Awaitable[None]]
Embed = Callable[[str], Awaitable[list[float]]]
#: where jobs lie until they are released
WAITING = "waiting"


async def connected(stack: AsyncExitStack) -> Job:
    """What a job of arq or taskiq does with a task's id and text."""
    url = os.environ["UPSTREAM"]
    send = await over_aiohttp(url, int(os.environ["CONCURRENCY"]), stack)
    embed = {"aiohttp": over_http, "openai": over_openai}[os.environ["CLIENT"]](url, send)

    async def job(task_id: str, content: str) -> None:
        result = {"state": "succeeded", "result": await embed(content)}
        await send("PATCH", f"{url}/api/ai-tasks/{task_id}", orjson.dumps(result))

    return job


def over_http(url: str, send: Send) -> Embed:
    async def embed(content: str) -> list[float]:
        return vector((await embedded([content], url, send))[0])

    return embed


def over_openai(url: str, _send: Send) -> Embed:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="bench-key")

    async def embed(content: str) -> list[float]:
        answer = await client.embeddings.create(model=MODEL, input=[content])
        return answer.data[0].embedding

    return embed


async def run_arq() -> None:
    from arq.connections import RedisSettings
    from arq.worker import Worker, func

    async with AsyncExitStack() as stack:
        job = await connected(stack)

        async def embed(_context: dict[str, object], task_id: str, content: str) -> None:
            await job(task_id, content)

        worker = Worker(
            functions=[func(embed, name="embed")],
            redis_settings=RedisSettings.from_dsn(os.environ["REDIS"]),
            max_jobs=int(os.environ["CONCURRENCY"]),
            keep_result=0,
        )
        await worker.async_run()


async def enqueue_arq(first: int, count: int, length: int) -> None:
    from arq import create_pool
    from arq.connections import RedisSettings

    pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS"]))
    for number in range(first, first + count):
        await pool.enqueue_job("embed", f"{number:024x}", book.text(number, length), _queue_name=WAITING)
    await pool.aclose()


def taskiq_broker(queue: str = "taskiq") -> Any:
    """What ``taskiq worker`` runs. Without acknowledgements, which is the cheapest of its brokers."""
    from taskiq import TaskiqEvents
    from taskiq_redis import ListQueueBroker

    stack, jobs = AsyncExitStack(), []
    broker = ListQueueBroker(os.environ["REDIS"], queue_name=queue)

    async def connect(_state: object) -> None:
        jobs.append(await connected(stack))

    async def leave(_state: object) -> None:
        await stack.aclose()

    async def embed(task_id: str, content: str) -> None:
        await jobs[0](task_id, content)

    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, connect)
    broker.add_event_handler(TaskiqEvents.WORKER_SHUTDOWN, leave)
    broker.register_task(embed, task_name="embed")
    return broker


async def enqueue_taskiq(first: int, count: int, length: int) -> None:
    broker = taskiq_broker(WAITING)
    await broker.startup()
    job = broker.find_task("embed")
    for number in range(first, first + count):
        await job.kiq(f"{number:024x}", book.text(number, length))
    await broker.shutdown()


OWN = threading.local()


def embed_in_a_thread(text: str) -> dict[str, object]:
    """Conductor's job, called with the task's input; each thread has a connection of its own to the model."""
    import requests

    if not hasattr(OWN, "session"):
        OWN.session = requests.Session()
    request = {"model": MODEL, "input": [text], "encoding_format": "base64"}
    answer = OWN.session.post(f"{os.environ['UPSTREAM']}/v1/embeddings", data=orjson.dumps(request))
    return {"result": vector(orjson.loads(answer.content)["data"][0]["embedding"])}


def run_conductor() -> None:
    from conductor.client.automator.task_handler import TaskHandler
    from conductor.client.configuration.configuration import Configuration
    from conductor.client.worker.worker import Worker

    workers = [Worker("embed", embed_in_a_thread, thread_count=int(os.environ["CONCURRENCY"]))]
    configuration = Configuration(server_api_url=f"{os.environ['UPSTREAM']}/api", log_level="WARNING")
    with TaskHandler(workers, configuration, scan_for_annotated_workers=False) as handler:
        handler.start_processes()
        handler.join_processes()


RUN: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "arq": run_arq,
    "enqueue-arq": enqueue_arq,
    "enqueue-taskiq": enqueue_taskiq,
}

if __name__ == "__main__":
    given = [int(number) for number in sys.argv[2:]]
    if sys.argv[1] == "conductor":
        run_conductor()
    else:
        uvloop.run(RUN[sys.argv[1]](*given))
