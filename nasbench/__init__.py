"""Neural architecture search for lightweight vision networks, on NNI and PyTorch."""

from pathlib import Path

__version__ = "0.1.0"

# In a source tree the packages `nasbench.spaces`, `nasbench.strategies` and `nasbench.evaluators` lie beside
# this folder, not in it; `python -m nasbench` started there finds this folder before any installed copy.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "spaces" / "operations").is_dir():
    __path__.append(str(_root))


def __getattr__(name: str) -> object:
    # PyTorch and NNI take seconds to import; `nasbench --help` needs neither.
    if name in ("load_model", "run"):
        from nasbench import networks, pipeline

        return getattr(networks if name == "load_model" else pipeline, name)
    raise AttributeError(f"module 'nasbench' has no attribute {name!r}")
