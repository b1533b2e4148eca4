"""Models on disk: converted from GGUF, made of random weights or pulled by name, each a folder that any node can serve."""

VARIANTS = ("fp32", "fp16", "int8", "q4")
"""Precisions in which a model can be served."""


class ModelError(ValueError):
    """A model that cannot be used: one line that names the file, the key, its value and what is allowed."""
