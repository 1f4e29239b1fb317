"""Four parts of one's own for nasbench, found through the entry points in pyproject.toml."""
