"""What operators see: the ops server, health, metrics, logs."""
