"""The candidates of a mixed layer, each group in one pass: the pooling mixture, the spatial gate, and the means for it.

Importing this package compiles nothing and imports neither numba nor triton: the first call does.
"""

from nasbench.kernels.gate import reference_gate, spatial_gate
from nasbench.kernels.operator import pooling_mixture
from nasbench.kernels.reference import POOLING_NAMES, reference_mixture
from nasbench.kernels.strips import reference_strips, strip_means

__all__ = [
    "POOLING_NAMES",
    "pooling_mixture",
    "reference_gate",
    "reference_mixture",
    "reference_strips",
    "spatial_gate",
    "strip_means",
]
