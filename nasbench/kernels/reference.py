"""The pooling mixture in plain torch: what every other implementation is tested against."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from nasbench.errors import OptionError, unknown

POOLING_NAMES: tuple[str, ...] = ("none", "avg3", "avg5", "avg7", "max3", "max5", "max7")
"""The candidates that the mixture knows, in the order of their codes."""

WINDOWS: tuple[int, ...] = (1, 3, 5, 7, 3, 5, 7)  # window size of each candidate, in the order of `POOLING_NAMES`

FIRST_MAX = POOLING_NAMES.index("max3")


def check(x: Tensor, pi: Tensor, names: Sequence[str]) -> list[int]:
    """Each candidate's position in `POOLING_NAMES`; arguments as in `pooling_mixture`.

    Raises OptionError: for an unknown or repeated candidate, and for shapes, types or devices that do not go together.
    """
    codes = []
    for name in names:
        if name not in POOLING_NAMES:
            raise OptionError(unknown("pooling candidate", name, POOLING_NAMES))
        codes.append(POOLING_NAMES.index(name))
    if len(set(codes)) != len(codes) or not codes:
        raise OptionError(f"a pooling mixture needs different candidates, at least one, not {tuple(names)}")
    if x.dim() != 4:
        raise OptionError(f"a pooling mixture needs an input of shape (N, C, H, W), not {tuple(x.shape)}")
    if x.shape[1] == 0 or x.shape[2] == 0 or x.shape[3] == 0:
        raise OptionError(f"only the batch of a pooling mixture may be empty: the input is {tuple(x.shape)}")
    if pi.dim() != 1 or pi.shape[0] != len(codes):
        raise OptionError(
            f"{len(codes)} pooling candidates need weights of shape ({len(codes)},), not {tuple(pi.shape)}"
        )
    if not x.is_floating_point() or not pi.is_floating_point():
        raise OptionError(f"a pooling mixture needs floating-point tensors, not {x.dtype} and {pi.dtype}")
    if x.device != pi.device:
        raise OptionError(f"input and weights of a pooling mixture lie on {x.device} and {pi.device}")
    return codes


def pool(x: Tensor, code: int) -> Tensor:
    """Compute one candidate, by its code: averages are padded with zeros that count, maxima with -inf."""
    window = WINDOWS[code]
    if window == 1:
        return x
    if code < FIRST_MAX:
        return avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=True)
    return max_pool2d(x, window, stride=1, padding=window // 2)


def mix(x: Tensor, pi: Tensor, codes: Sequence[int]) -> Tensor:
    """Compute the mixture of candidates given by their codes; see `reference_mixture`."""
    terms = [weight * pool(x, code) for code, weight in zip(codes, pi.unbind(), strict=True)]
    y = terms[0]
    for term in terms[1:]:
        y = y + term
    return y.to(x.dtype)


def reference_mixture(x: Tensor, pi: Tensor, names: Sequence[str]) -> Tensor:
    """Compute `pooling_mixture` in plain torch, in every type and differentiable any number of times."""
    return mix(x, pi, check(x, pi, names))
