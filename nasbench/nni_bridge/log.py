"""What NNI says: off stdout, and without the warnings that nobody can heed. Nothing here imports NNI by itself."""

import warnings


def silence() -> None:
    """Keep NNI's log off stdout."""
    from nni.runtime.log import silence_stdout

    silence_stdout()


def ignore_layer_warnings() -> None:
    """Leave out that NNI wraps none of the classes of a newer PyTorch: one warning each, when it is imported."""
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"nni\.nas\.nn\.pytorch\.layers")
