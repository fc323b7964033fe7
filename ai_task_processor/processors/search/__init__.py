"""``search`` and ``search_batch``: asks search APIs, and keeps the answers on disk for a while.

``processor`` serves the tasks, ``port`` is what a search API must offer, ``brave`` is one.
"""
