"""Parts of one's own for nasbench, and a table of their runs, found through the entry points in pyproject.toml."""
