"""``ai-task-processor config``: the effective settings and their origins, their JSON Schema, ``.env.example``."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "main"]


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """The options of the command. Imports nothing: every command line is parsed with them."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="a JSON array with an object for each setting")
    form.add_argument("--schema", action="store_true", help="the JSON Schema of all settings instead")
    form.add_argument("--env", action="store_true", help="a new .env.example instead, with every built-in setting")
    parser.add_argument("--all", action="store_true", help="also the settings of parts that are not selected")


def main(arguments: "argparse.Namespace") -> int:
    """Print what the options ask for; returns the exit code."""
    from ai_task_processor.cli.config.show import show

    return show(arguments)
