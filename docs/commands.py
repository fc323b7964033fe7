"""The help of each command in ``commands.md``, from the parser of the command line.

It is written here and not by argparse, whose layout differs between the versions of Python.
"""

import argparse
from collections.abc import Iterator

from ai_task_processor.cli import main as cli
from docs.generated import Part, code, table


def parts(_page: str) -> Iterator[Part]:
    yield "commands", (line for name, _, parser in _children(cli._parser()) for line in _command(name, parser))


def _children(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """The name, the line of help and the parser of each command, or of each action of one."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            yield from ((name, helps.get(name, ""), child) for name, child in action.choices.items())


def _command(name: str, parser: argparse.ArgumentParser, help_text: str = "", depth: int = 3) -> Iterator[str]:
    actions = list(_children(parser))
    yield from (f"{'#' * depth} {name}", "")
    if not actions:
        yield from (f"`{_usage(parser)}`", "")
    yield from (code(parser.description or f"{help_text[:1].upper()}{help_text[1:]}."), "")
    rows = [(f"`{_word(action).strip('[]')}`", _help(action)) for action in _own(parser) if action.help]
    if rows:
        yield from (*table("argument", "meaning", rows=rows), "")
    if parser.epilog:
        yield from ("```text", parser.epilog.strip(), "```", "")
    for action, action_help, child in actions:
        yield from _command(f"{name} {action}", child, action_help, depth + 1)


def _own(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)
        and action.help is not argparse.SUPPRESS
    ]


def _usage(parser: argparse.ArgumentParser) -> str:
    return " ".join([parser.prog, *(_word(action) for action in _own(parser))])


def _word(action: argparse.Action) -> str:
    value = action.metavar or (",".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if action.option_strings:
        return f"[{action.option_strings[0]}{'' if action.nargs == 0 else f' {value}'}]"
    return {"+": f"{value} ...", "*": f"[{value} ...]", "?": f"[{value}]"}.get(str(action.nargs), str(value))


def _help(action: argparse.Action) -> str:
    return (action.help or "") % {"default": action.default, "prog": "ai-task-processor"}
