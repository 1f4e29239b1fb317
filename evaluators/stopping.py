"""The end of a training that has stopped to gain, and the weights of its best epoch."""

from collections.abc import Mapping
from typing import Any

from pytorch_lightning.callbacks import EarlyStopping


class BestEpoch(EarlyStopping):
    """Ends a training after so many epochs without a lower held-out loss, and puts back the weights of the lowest.

    Must stand before what puts other weights in their place for the validation: those are kept that are measured.
    """

    def __init__(self, patience: int) -> None:
        # After the validation, so that a checkpoint at the end of the epoch knows of it; FiniteGuard sees to NaN.
        super().__init__("val_loss", patience=patience, check_finite=False, check_on_train_epoch_end=False)
        self.trained = 0  # epochs
        self.best: dict[str, Any] = {}  # `epoch` (from 1), held-out `measures` and `weights` of the best one
        self._weights: dict[str, Any] = {}

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep what was measured, until it is known how good it is."""
        self._weights = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Compare with the best so far."""
        super().on_validation_end(trainer, pl_module)
        self.trained = trainer.current_epoch + 1
        if not self.wait_count or not self.best:
            measures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val_")}
            self.best = {"epoch": self.trained, "measures": measures, "weights": self._weights}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Agree on the first process's weights, whose batch statistics count."""
        self.best = trainer.strategy.broadcast(self.best)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Put the best weights back, in the place of the last and of averages."""
        pl_module.load_state_dict(self.best["weights"])

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on has to know."""
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on."""
        super().load_state_dict(state_dict)
        self.best = state_dict["best"]


def best_of(trainer: Any) -> BestEpoch | None:
    """What keeps the best epoch of a training, if anything does."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, BestEpoch)), None)


def measured(trainer: Any) -> Mapping[str, Any]:
    """Name → what was measured, after a training, of the weights that it ended with."""
    found = best_of(trainer)
    return trainer.callback_metrics if found is None else found.best["measures"]
