"""Choose training and validation images from the labels of a training set."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kd_lightning.errors import UserError


def stratified(label: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return `size` random indices with the class proportions of the whole: int64 (size,), ascending."""
    return stratified_order(label, generator)[:size].sort().values


def stratified_order(label: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random order of all indices, int64 (N,); every prefix has the class proportions of the whole."""
    order = torch.randperm(len(label), generator=generator)
    # Spread each class evenly over [0, 1).
    spread = torch.empty(len(label), dtype=torch.float64)
    for c in label.unique():
        members = order[label[order] == c]
        spread[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return spread.argsort(stable=True)


def narrow(label: Tensor, held_out: Tensor, train_size: int | None, missing_classes: Sequence[int]) -> Tensor:
    """Return the images to train on: not held out, the first `train_size` of them, without the missing classes.

    Args:
        label: int64 (N,), of the whole training set.
        held_out: int64 (M,), indices of the validation images.
        train_size: how many of the others to keep, in file order; None for all.
        missing_classes: numbers of classes to leave out.

    Returns:
        int64 (n,), indices into the training set, ascending.

    Raises:
        UserError: `train_size` is out of range, or no image is left.
    """
    rest = torch.ones(len(label), dtype=torch.bool)
    rest[held_out] = False
    train = rest.nonzero().squeeze(1)
    if train_size is not None:
        if not 1 <= train_size <= len(train):
            raise UserError(f"train_size: {train_size} found, 1 to {len(train)} expected (the training images)")
        train = train[:train_size]
    if missing_classes:
        train = train[~torch.isin(label[train], torch.tensor(missing_classes))]
    if not len(train):
        raise UserError(f"omit_classes / only_classes: classes {list(missing_classes)} left out leave no image")
    return train
