"""Random augmentation by torchvision's transforms, as a family of views that each have a number."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torchvision.transforms import v2

from kd_lightning.data.views import ViewFamily
from kd_lightning.errors import UserError, one_line

FASTER_ON_PIL = (
    v2.AugMix,
    v2.AutoAugment,
    v2.RandAugment,
    v2.RandomAffine,
    v2.RandomPerspective,
    v2.RandomRotation,
    v2.TrivialAugmentWide,
)
"""Transforms that take less time on a PIL image than on a tensor on the CPU: RandAugment at 224 px 0.4 ms for 1.3 ms.
Crops and colours take more."""

UNLIMITED = 2**31 - 1
"""Numbers of views that are drawn where an image has no fixed number of them."""


class RandomViews(ViewFamily):
    """Views that `torchvision.transforms.v2` draws at random, each from a seed of its own.

    View v of image i is drawn from random generators that are seeded with (seed, i, v). It is the same in every epoch,
    in every run and in each loader worker, so that a teacher's logits can be cached under any augmentation. The
    generators of torch, NumPy and Python are seeded; a transform that draws from another source is noticed when cached
    logits are compared.

    Images are augmented one by one, by loader workers if there are any (`data.num_workers`), else on their device.

    Args:
        transforms: a list of transforms, such as `RandomResizedCrop` and `RandAugment`, applied in order to an image
            uint8 (C, H, W) in [0, 255]. They return such an image; the data module normalises and resizes it.
        count: number of views of each image, at least 1; None draws new views in every epoch, which no cache can hold.
        seed: seed of the views. It does not depend on the run's seed, so that runs share cached logits.

    Raises:
        UserError: there are no transforms, one fails, or one returns another kind of image.

    Source: fixed augmented views with stored teacher logits, Shen and Xing 2021 (FKD, arXiv 2112.01528); the same view
    for teacher and student, Beyer et al. 2022, section 3.1 (arXiv 2106.05237).
    """

    by_image = True

    def __init__(
        self,
        transforms: Sequence[v2.Transform | Callable[..., Any]],  # a union: YAML may use torchvision's short names
        count: int | None = 8,
        seed: int = 0,
    ) -> None:
        if not transforms:
            raise UserError("transforms: none found, at least one expected")
        if count is not None and count < 1:
            raise UserError(f"count: {count} found, at least 1 expected, or null for new views in every epoch")
        self.transforms = list(transforms)
        self.count = count
        self.seed = seed

    def __repr__(self) -> str:
        return f"RandomViews({self.transforms}, count={self.count}, seed={self.seed})"

    def draw(self, size: int, generator: Generator) -> Tensor:
        """Draw a view for each image, all equally probable."""
        return torch.randint(self.count or UNLIMITED, (size,), generator=generator)

    def original(self, prepared: Tensor, index: Tensor) -> Tensor:
        """Return the images themselves, which are none of the views."""
        return prepared.index_select(0, index)

    def gather(self, prepared: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Return views of images of the whole set."""
        return self.augment(prepared.index_select(0, index), index, view)

    def augment(self, images: Tensor, index: Tensor, view: Tensor) -> Tensor:
        """Return one view of each image; see `ViewFamily.augment`."""
        with _random_state_restored():
            views = [
                self._augment_one(image, number, of)
                for image, number, of in zip(images, index.tolist(), view.tolist(), strict=True)
            ]
        if len({view.shape for view in views}) > 1:
            sizes = sorted({"x".join(map(str, view.shape[1:])) for view in views})
            raise UserError(f"transforms: images of {' and '.join(sizes)} pixels found, one size expected")
        return torch.stack(views)

    def _augment_one(self, image: Tensor, number: int, view: int) -> Tensor:
        _seed(_mixed(self.seed, number, view))
        on_cpu = image.device.type == "cpu"
        augmented: Any = image
        for transform in self.transforms:
            as_pil = on_cpu and isinstance(transform, FASTER_ON_PIL) and isinstance(augmented, Tensor)
            try:
                augmented = transform(v2.functional.to_pil_image(augmented) if as_pil else augmented)
            except Exception as error:  # any transform may be given
                raise UserError(f"transforms: {type(transform).__name__} failed: {one_line(error)}") from error
            if as_pil:
                augmented = v2.functional.pil_to_tensor(augmented)
        if not isinstance(augmented, Tensor):
            augmented = v2.functional.pil_to_tensor(augmented)
        if augmented.dtype != torch.uint8 or augmented.shape[:-2] != image.shape[:1]:
            found = f"{augmented.dtype} {tuple(augmented.shape)}".removeprefix("torch.")
            raise UserError(
                f"transforms: an image {found} found after the last one, uint8 ({len(image)}, height, width) expected; "
                "leave out ToDtype, ToTensor and Normalize, as the data module normalises by its mean and std"
            )
        return augmented.as_subclass(Tensor)


def _mixed(*numbers: int) -> int:
    """Return a seed of 32 bits for a tuple of integers: neighbouring tuples have unrelated seeds (splitmix64)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state >> 32


def _seed(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # transforms draw from the global generators
    random.seed(seed)


@contextmanager
def _random_state_restored() -> Iterator[None]:
    """Restore the state of the global random generators at the end."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002  # as above
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002  # as above
        random.setstate(states[2])
