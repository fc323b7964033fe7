"""The life of a task and of the process: claim, attempt, outcome, persistence, delivery, crash recovery.

``wiring`` is the composition root: the only module here that imports sources, stores, processors and providers.
"""
