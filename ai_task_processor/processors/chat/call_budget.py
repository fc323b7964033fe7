"""``CallBudget``: further fresh calls where a model errs at random.

One answer in five unusable is three in a row for one task in 125, which three calls would fail. A text that the model
never answers, or a model that always errs, must not cost more than three calls. So a further call is paid from a
budget that usable answers fill, as retry budgets do: at most one more call for 20 usable answers.
"""

#: what each usable answer adds, what the first of a model grants, and the most
EARNED, GRANTED, MOST = 0.05, 5.0, 20.0
#: models whose budget is stored: names come from tasks
MAX_MODELS = 256


class CallBudget:
    """The budgets of all models."""

    def __init__(self) -> None:
        self._left: dict[str, float] = {}

    def earn(self, model: str) -> None:
        """An answer of the model was usable."""
        left = self._left.pop(model, GRANTED)
        while len(self._left) >= MAX_MODELS:
            del self._left[next(iter(self._left))]
        self._left[model] = min(left + EARNED, MOST)

    def spend(self, model: str) -> bool:
        """Take one call from it; false when too little is left."""
        left = self._left.get(model, 0.0)
        if left < 1:
            return False
        self._left[model] = left - 1
        return True
