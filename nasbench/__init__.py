"""Neural architecture search for lightweight vision networks, on NNI and PyTorch."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nasbench.api import Run, collect, run
    from nasbench.config import RunConfig
    from nasbench.errors import NasbenchError
    from nasbench.facts import Result
    from nasbench.networks import load_model
    from nasbench.record import Record

__version__ = "0.2.0"
__all__ = ["NasbenchError", "Record", "Result", "Run", "RunConfig", "collect", "load_model", "run"]

# NNI says of every class of a newer PyTorch that it does not wrap it, which nobody can heed.
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"nni\.nas\.nn\.pytorch\.layers")

# PyTorch and NNI take seconds to import; `nasbench --help` needs neither.
_MODULES = {
    **dict.fromkeys(("Run", "collect", "run"), "nasbench.api"),
    **{"Record": "nasbench.record", "Result": "nasbench.facts"},
    **{"NasbenchError": "nasbench.errors", "RunConfig": "nasbench.config", "load_model": "nasbench.networks"},
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'nasbench' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Siblings:
    """Finds the packages that lie beside this folder in a source tree, before any installed copy of them."""

    ROOT = Path(__file__).resolve().parent.parent
    PACKAGES = tuple(f"nasbench.{name}" for name in ("spaces", "strategies", "evaluators", "benchmarks"))

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if name not in cls.PACKAGES:
            return None
        folder = cls.ROOT / name.rpartition(".")[2]
        return spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])


if (_Siblings.ROOT / "pyproject.toml").is_file() and (_Siblings.ROOT / "spaces" / "operations").is_dir():
    sys.meta_path.insert(0, _Siblings)  # before that of an editable install, which may be of another tree
