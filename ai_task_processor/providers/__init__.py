"""Providers: the APIs that turn texts into vectors or answer them, and the limits of their models."""

OPENAI_URL = "https://api.openai.com/v1"
#: how many components the vectors of OpenAI's models have, unless fewer are asked for
NATIVE_DIMENSIONS = {"text-embedding-3-small": 1536, "text-embedding-3-large": 3072, "text-embedding-ada-002": 1536}
#: 2,048 vectors of 3,072 floats in base64 are 34 MB; a compatible server may answer digits instead
MAX_ANSWER_BYTES = 128 * 2**20
#: an answer of 100,000 tokens is half a megabyte
MAX_CHAT_BYTES = 4 * 2**20
