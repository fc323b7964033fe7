"""Prices of models: what a call costs.

::

    currency = "USD"            # in words only: nothing is converted
    [models."gpt-4.1-mini"]     # the provider's name of the model
    prompt = 0.40               # for a million tokens
    cached = 0.10               # of the prompt, out of the provider's cache; the price of the prompt if not set
    completion = 1.60           # not needed for models of embeddings
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ai_task_processor.models.task import Usage

PER_TOKENS = 1e6
_CHECKED = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

Amount = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Price(BaseModel):
    """For a million tokens."""

    model_config = _CHECKED

    prompt: Amount
    cached: Amount | None = None
    completion: Amount | None = None


class Prices(BaseModel):
    """The prices of all models, by the provider's names."""

    model_config = _CHECKED

    currency: str = Field("USD", pattern=r"^[^\s\x00-\x1f\x7f]{1,16}$")
    models: dict[str, Price] = Field(min_length=1)

    def cost(self, model: str, usage: Usage) -> float | None:
        """In ``currency``; None when something that was used has no price."""
        price = self.models.get(model)
        if price is None or (price.completion is None and usage.completion_tokens):
            return None
        cached = price.prompt if price.cached is None else price.cached
        prompt = (usage.prompt_tokens - usage.cached_tokens) * price.prompt + usage.cached_tokens * cached
        return (prompt + usage.completion_tokens * (price.completion or 0.0)) / PER_TOKENS
