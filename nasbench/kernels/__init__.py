"""The candidates of a mixed layer, each group in one pass: the pooling mixture and the spatial gate.

Importing this package compiles nothing and imports neither numba nor triton: the first call does.
"""

from nasbench.kernels.gate import reference_gate, spatial_gate
from nasbench.kernels.operator import pooling_mixture
from nasbench.kernels.reference import POOLING_NAMES, reference_mixture

__all__ = ["POOLING_NAMES", "pooling_mixture", "reference_gate", "reference_mixture", "spatial_gate"]
