"""The NestJS task API: lists pending tasks, reports outcomes with PATCH, marks tasks in progress."""
