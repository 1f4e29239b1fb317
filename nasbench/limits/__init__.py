"""What a network may cost at most: one module a kind of limit."""

KINDS = ("madds", "params", "latency", "memory")
