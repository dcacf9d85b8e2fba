"""Numbers on the command line and in configs: `1` is a whole number, `1.0` a fraction."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import _typehints as typehints


def try_int_before_float() -> None:
    """Let jsonargparse read `1` as an int wherever an option takes both `int` and `float`.

    `--trainer.limit_train_batches 1` is one batch, `1.0` the whole epoch. jsonargparse tries the types of a `Union` in
    their order, and Python's `typing` keeps one `Union` for all orders of the same types: whichever module wrote
    `Union[float, int]` first has Lightning's `Union[int, float]` turned round, and `1` is read as `1.0`.
    """
    in_order = typehints.sort_subtypes_for_union
    if getattr(in_order, "tries_int_first", False):
        return

    def int_before_float(subtypes: Sequence[Any], *args: Any) -> list[Any]:
        types = list(in_order(subtypes, *args))
        if int in types and float in types and types.index(float) < types.index(int):
            types.remove(int)
            types.insert(types.index(float), int)
        return types

    int_before_float.tries_int_first = True  # type: ignore[attr-defined]
    typehints.sort_subtypes_for_union = int_before_float
