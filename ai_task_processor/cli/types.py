"""``ai-task-processor types …``: shows prompt types, and tries one on a single task without reporting anything."""

import argparse
import asyncio
import json
import os
from collections.abc import Mapping

from ai_task_processor.cli import process, task_file, trial
from ai_task_processor.core import codec
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.settings import PartsSettings
from ai_task_processor.models.task import Completed, Failed, Task
from ai_task_processor.processors.chat.aletheia.processor import built_in_types
from ai_task_processor.processors.chat.prompt_type import PromptType, load_prompt_types
from ai_task_processor.processors.chat.settings import PromptSettings

EX_OK, EX_NOINPUT = 0, 66
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
    if arguments.name not in _types():
        return _unknown(arguments.name)
    settings, selected, factory = trial.load({**os.environ, "ENABLED_TASK_TYPES": arguments.name})
    try:
        value = task_file.read_json(arguments.file)
    except OSError as error:
        return process.complain(f"{arguments.file}: {error.strerror}", EX_NOINPUT)
    whole = isinstance(value, dict) and "content" in value and "type" in value
    task = Task(id="try", type=arguments.name, content=value["content"] if whole else value)  # type: ignore[index]  # it is a dict
    with process.configured_logs(settings):
        ended = asyncio.run(process.tried(trial.bench(settings, selected, factory), task))
    process.explain(ended)
    match ended.outcome:
        case Completed(result):
            shown = {"result": json.loads(codec.dumps(result.output)), **process.measured(ended)}
            _say(json.dumps(shown, ensure_ascii=False, indent=2))
        case Failed(failure):
            _say(codec.dumps({"error": {"code": failure.code, "message": failure.message}}).decode())
    return process.exit_code(ended.outcome)


def _types() -> Mapping[str, PromptType]:
    """Those of TASK_TYPES, then the built-in ones that they do not replace."""
    own = load_prompt_types(load_group(PartsSettings).task_types)
    built_in = {name: each for name, each in sorted(built_in_types().items()) if name not in own}
    return dict(sorted(own.items())) | built_in


def _unknown(name: str) -> int:
    process.complain(f"there is no prompt type {name!r}: look at `ai-task-processor types list`")
    return EX_NOINPUT


def _say(text: str) -> None:
    print(text, flush=True)
