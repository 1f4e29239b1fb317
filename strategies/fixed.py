"""One architecture, given beforehand."""

from __future__ import annotations

from typing import Any

from nni.nas.strategy import Strategy

from nasbench.architecture import resolve


class Fixed(Strategy):
    """One given architecture: a candidate everywhere, one of the space's named architectures, or a JSON file."""

    def __init__(self, *, choice: str | dict[str, Any] | None = None) -> None:
        """Set the options.

        Args:
            choice: see `nasbench.architecture.resolve`; the first of the space's named architectures where `None`.
        """
        super().__init__()
        self.choice = choice
        self._model: Any = None

    def _run(self) -> None:
        executable: Any = self.model_space
        # NNI's simplified format keeps only how to build the space, without the names of its architectures.
        space = getattr(executable, "model_space", None) or executable.model.trace_copy().get(traceable=False)
        self._model = executable.freeze(resolve(space, self.choice))

    def list_models(self, sort: bool = True, limit: int | None = None) -> Any:
        """The one model."""
        return iter([self._model])

    def state_dict(self) -> dict[str, Any]:
        """Nothing needs to be kept."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
