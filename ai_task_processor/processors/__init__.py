"""Processors: what turns a task into a result."""
