"""How remotes are reached: HTTP client, circuit breaker, retry, OAuth2 tokens."""
