import contextlib
from typing import Any

from nni import NoMoreTrialError
from nni.tools.package_utils import create_builtin_class_instance
from nni.tuner import Tuner

from nasbench.config import digest

TRIES = 50  # of a tuner to propose something new; a small space may have nothing left


class Resumed(Tuner):
    """Hands out the runs that were broken off, then what a tuner of NNI's proposes, who is told all earlier results."""

    def __init__(self, name: str, options: dict[str, Any], known: list[dict[str, Any]], first: list[dict[str, Any]]):
        """Start NNI's tuner from finished runs, `{parameter, value}` each, and the parameters of broken ones."""
        self._inner: Any = create_builtin_class_instance(name, options, "tuners")
        self._known, self._first = known, list(first)
        self._own: set[int] = set()
        self._seen = {digest(parameters) for parameters in (*first, *(entry["parameter"] for entry in known))}

    def update_search_space(self, search_space: Any) -> None:
        """Tell the tuner the space, and then what is known."""
        self._inner.update_search_space(search_space)
        if self._known:
            self._inner.import_data(self._known)

    def generate_parameters(self, parameter_id: int, **kwargs: Any) -> Any:
        """The next broken run's parameters, or a proposal."""
        if self._first:
            self._own.add(parameter_id)
            return self._first.pop(0)
        return self._new(parameter_id, self._inner.generate_parameters(parameter_id, **kwargs))

    def generate_multiple_parameters(self, parameter_id_list: list[int], **kwargs: Any) -> list[Any]:
        """Several of them; fewer than asked for where there are no more."""
        own = [self.generate_parameters(i) for i in parameter_id_list[: len(self._first)]]
        rest = parameter_id_list[len(own) :]
        proposed = self._inner.generate_multiple_parameters(rest, **kwargs) if rest else []
        return own + [self._new(i, proposal) for i, proposal in zip(rest, proposed, strict=False)]

    def _new(self, parameter_id: int, proposal: Any) -> Any:
        """Ask again for what has been tried: a tuner with a seed proposes the same in every session."""
        with contextlib.suppress(NoMoreTrialError):
            for _ in range(TRIES):
                if digest(proposal) not in self._seen:
                    break
                proposal = self._inner.generate_parameters(parameter_id)
        self._seen.add(digest(proposal))
        return proposal

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **kwargs: Any) -> None:
        """Pass on a result; the tuner does not know the ids of the runs that it did not propose."""
        if parameter_id in self._own:
            self._inner.import_data([{"parameter": parameters, "value": value}])
        else:
            self._inner.receive_trial_result(parameter_id, parameters, value, **kwargs)

    def trial_end(self, parameter_id: int, success: bool, **kwargs: Any) -> None:
        """Pass on that a run has ended."""
        if parameter_id not in self._own:
            self._inner.trial_end(parameter_id, success, **kwargs)

    def import_data(self, data: Any) -> None:
        """Pass on what is known from elsewhere."""
        self._inner.import_data(data)
