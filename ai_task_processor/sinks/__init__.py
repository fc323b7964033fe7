"""Further destinations of results: Kafka, a webhook, e-mail, S3, Qdrant. A module each."""
