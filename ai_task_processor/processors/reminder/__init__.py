"""The type ``reminder``: makes the event of a task that is due soon."""
