"""Results as events in a Kafka topic, by confluent-kafka's idempotent producer.

The key is the task's id. A write ends with the broker's acknowledgement. A message whose acknowledgement was lost is
written again: both have the same ``event_id``, as a header and in the value.
"""
