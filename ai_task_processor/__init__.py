"""A durable worker for AI tasks: polls a task API, calls a model, keeps every result until it is acknowledged."""

__version__ = "0.1.0"
