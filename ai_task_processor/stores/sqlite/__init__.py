"""The embedded store: outbox and journal in ``DATA_DIR``, for one daemon."""
