"""``ai-task-processor outbox …``: shows stored results beside a running daemon, and leaves requests for it.

``arguments``: the command line; ``selection``: which records it chooses; ``waits``: why records wait;
``table``: the list; ``requests``: retry and drop; ``main``: the actions.
"""
