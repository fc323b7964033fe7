"""``ai-task-processor types …``: shows prompt types, and tries one on a single task without reporting anything."""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from ai_task_processor import __version__
from ai_task_processor.core import codec, plugins
from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.errors import ConfigurationError, RemoteError, TaskError
from ai_task_processor.core.settings import PartsSettings, Settings, load_group, load_settings
from ai_task_processor.engine.daemon import alive
from ai_task_processor.engine.faults import Faults
from ai_task_processor.models.task import Task, Usage
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.net.services import Services
from ai_task_processor.ops import logs
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat.aletheia.processor import AletheiaProcessor, built_in_types
from ai_task_processor.processors.chat.aletheia.settings import AletheiaSettings
from ai_task_processor.processors.chat.caller import chat_caller
from ai_task_processor.processors.chat.processor import ChatProcessor, PromptProcessor
from ai_task_processor.processors.chat.prompt_type import PromptType, load_prompt_types
from ai_task_processor.processors.chat.settings import PromptSettings
from ai_task_processor.processors.context import ProcessorContext
from ai_task_processor.providers.circuits import ModelCircuits
from ai_task_processor.providers.settings import ChatSettings, ModelSettings

EX_OK, EX_FAILED, EX_NOINPUT, EX_UNAVAILABLE = 0, 1, 66, 69
_ROW = "{:<28} {:<24} {:<16} {}"


def main(arguments: argparse.Namespace) -> int:
    """Carry out the action; returns the exit code."""
    actions = {"list": _list, "show": _show, "try": _try}
    return actions[arguments.action](arguments)


def _list(_arguments: argparse.Namespace) -> int:
    types = _types()
    model = load_group(PromptSettings).model
    _say(_ROW.format("TYPE", "MODEL", "RESULT", "TEXT"))
    for name, each in types.items():
        result = each.result or ("text" if each.answer_schema is None else "whole answer")
        _say(_ROW.format(name, each.model or model, result, each.text or "none"))
    return EX_OK


def _show(arguments: argparse.Namespace) -> int:
    found = _types().get(arguments.name)
    if found is None:
        return _unknown(arguments.name)
    _say(json.dumps(found.model_dump(by_alias=True, exclude_none=True), ensure_ascii=False, indent=2))
    return EX_OK


def _try(arguments: argparse.Namespace) -> int:
    settings = load_settings(groups=(ChatSettings, ModelSettings, PromptSettings, AletheiaSettings))
    processor: ChatProcessor = PromptProcessor()
    processor.configure(settings)
    if arguments.name not in processor.types:
        processor = AletheiaProcessor()
    if arguments.name not in processor.task_types:
        return _unknown(arguments.name)
    try:
        content = _content(arguments.file)
    except (OSError, ValueError) as error:
        _complain(f"{arguments.file} cannot be read as JSON: {error}")
        return EX_NOINPUT
    logs.configure(level="WARNING", format=settings.log.format, secrets=settings.secrets())
    try:
        return asyncio.run(_tried(settings, processor, Task(id="try", type=arguments.name, content=content)))
    finally:
        logs.flush()


def _types() -> Mapping[str, PromptType]:
    """Those of TASK_TYPES, then the built-in ones that they do not replace."""
    own = load_prompt_types(load_group(PartsSettings).task_types)
    built_in = {name: each for name, each in sorted(built_in_types().items()) if name not in own}
    return dict(sorted(own.items())) | built_in


async def _tried(settings: Settings, processor: ChatProcessor, task: Task) -> int:
    clock, began_at = SystemClock(), time.perf_counter()
    mode, types, remotes = settings[ChatSettings].mode, processor.task_types, processor.services
    metrics = Metrics(version=__version__, provider=mode, task_types=types, services=remotes)
    services = Services(
        settings=settings,
        secrets=Secrets(settings),
        clock=clock,
        metrics=metrics,
        rng=random.Random(),  # noqa: S311 - jitter, not secrets
        source="none",
        lost=lambda _: None,
    )
    provider = plugins.find("providers", settings.parts.chat_provider).build(services, "build_chat")
    if provider is None:
        raise ConfigurationError("OPENAI_API_KEY is missing: set it to the key of the model API; or set CHAT_BASE_URL")
    threshold = settings.worker.circuit_breaker_threshold
    circuits = ModelCircuits(threshold=threshold, clock=clock, metrics=metrics, service="chat")
    chat = chat_caller(provider, services, circuits, opened=lambda: None)
    processor.equip(
        ProcessorContext(
            clock=clock,
            settings=settings,
            metrics=metrics,
            wait_s=settings.worker.task_timeout_s,
            chat=chat,
            chat_is_mock=provider.name == "mock",
            services=services,
            model_aliases=settings[ModelSettings].aliases,
        )
    )
    if provider.name == "mock":
        _complain("OPENAI_API_KEY is the placeholder: the answer is made up, no model is called")
    async with AsyncExitStack() as stack:
        for component in (provider, chat, processor):
            await stack.enter_async_context(alive(component, Faults()))
        try:
            result = await processor.process(task)
        except TaskError as error:
            _say(codec.dumps({"error": {"code": error.code, "message": error.message}}).decode())
            return EX_FAILED
        except RemoteError as error:
            _complain(f"a remote: {error}")
            return EX_UNAVAILABLE
    usage = result.usage or Usage()
    shown = {
        "result": result.output,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "seconds": round(time.perf_counter() - began_at, 2),
    }
    if (prices := settings[ModelSettings].prices) is not None and provider.name != "mock":
        cost = prices.cost(processor.model(task), usage)
        shown |= {"cost": None if cost is None else round(cost, 9), "currency": prices.currency}
    _say(json.dumps(shown, ensure_ascii=False, indent=2))
    return EX_OK


def _content(file: str) -> object:
    """The content of a task: the file itself, or the ``content`` of a whole task record. ``-`` is standard input."""
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    value = codec.loads(data)
    return value["content"] if isinstance(value, dict) and "content" in value and "type" in value else value


def _unknown(name: str) -> int:
    _complain(f"there is no prompt type {name!r}: look at `ai-task-processor types list`")
    return EX_NOINPUT


def _complain(text: str) -> None:
    print(f"ai-task-processor: {text}", file=sys.stderr)


def _say(text: str) -> None:
    print(text, flush=True)
