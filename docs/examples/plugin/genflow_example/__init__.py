"""A process, a solver and a metric for genflow; `pyproject.toml` says under which names."""
