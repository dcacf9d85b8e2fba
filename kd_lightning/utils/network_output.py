"""The output of a network of any library."""

from typing import Any


def logits_of(output: Any) -> Any:
    """Return the output of a network, or its `logits` where it has them, as Hugging Face's classifiers do."""
    return getattr(output, "logits", output)
