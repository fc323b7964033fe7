"""The model side: who turns texts into vectors."""

#: how many components the vectors of OpenAI's models have, unless fewer are asked for
NATIVE_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
