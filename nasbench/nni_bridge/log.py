"""What NNI says is kept off stdout. Nothing here imports NNI by itself."""


def silence() -> None:
    """Keep NNI's log off stdout."""
    from nni.runtime.log import silence_stdout

    silence_stdout()
