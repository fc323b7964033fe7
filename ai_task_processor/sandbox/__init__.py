"""The sandbox: one local server with a token endpoint, a task API and a model API, with faults on demand."""

from ai_task_processor.sandbox.app import PROFILES, Sandbox, serve
from ai_task_processor.sandbox.corpus import demo_tasks

__all__ = ["PROFILES", "Sandbox", "demo_tasks", "serve"]
