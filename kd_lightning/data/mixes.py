"""Mix each training image with a partner: MixUp and CutMix, as a fixed number of mixes of each image or live."""

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from scipy.special import betaincinv
from torch import Generator, Tensor

from kd_lightning.data.views import ViewFamily
from kd_lightning.errors import UserError


class Draws(NamedTuple):
    """Random numbers of n mixes: how much of each image, and where.

    Attributes:
        weight: float (n,), share of the image itself, in [0, 1].
        centre: float (n, 2), row and column of a box's centre, in [0, 1).
    """

    weight: Tensor
    centre: Tensor

    def at(self, row: Tensor) -> "Draws":
        """Return the numbers of the mixes `row`, int64 (B,)."""
        return Draws(self.weight[row], self.centre[row])

    def to(self, device: torch.device) -> "Draws":
        """Return the numbers on a device."""
        return Draws(self.weight.to(device), self.centre.to(device))


class Mixes(NamedTuple):
    """What a fixed number of mixes of each image is made of: mix m of image i is in row i · count + m.

    Attributes:
        count: mixes of each image.
        view: int64 (N · count,), view of the image itself.
        partner: int64 (N · count,), index of the other image.
        partner_view: int64 (N · count,).
        random: draws of N · count mixes.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which is not used
    view: Tensor
    partner: Tensor
    partner_view: Tensor
    random: Draws

    def pairs(self, index: Tensor, mix: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return index and view of the images, and those of their partners, each int64 (B,)."""
        row = index * self.count + mix
        return [(index, self.view[row]), (self.partner[row], self.partner_view[row])]

    def draws(self, index: Tensor, mix: Tensor) -> Draws:
        """Return the draws of mixes, both arguments int64 (B,)."""
        return self.random.at(index * self.count + mix)

    def to(self, device: torch.device) -> "Mixes":
        """Return all mixes on a device."""
        view, partner, partner_view = (each.to(device) for each in (self.view, self.partner, self.partner_view))
        return Mixes(self.count, view, partner, partner_view, self.random.to(device))


class Mix(ABC):
    """Mixing of images, weights drawn from Beta(alpha, alpha); teacher and student see the same mixed image.

    With a `count`, mix m of image i has a fixed view of the image, a fixed partner among the training images, a fixed
    view of it, and a fixed weight. A teacher's logits are cached for each mix, as for any view. Without one, each batch
    is mixed anew: each image with its neighbour in the batch.

    Args:
        alpha: above 0; 1 draws weights uniformly, smaller values closer to 0 and 1.
        count: number of mixes of each image, at least 1; None mixes every batch anew, which no cache can hold.
        hard_loss: the cross-entropy is of the mixed image with both labels by their weights (`mixed`), or of the image
            before mixing with its own label (`unmixed`), which takes a second forward pass of the student.
        seed: seed of a fixed number of mixes. It does not depend on the run's seed, so that runs share cached logits.

    Raises:
        UserError: a number is out of range.

    Source: the same mixed image for teacher and student ("consistent teaching"), Beyer et al. 2022, section 3.1 (arXiv
    2106.05237).
    """

    def __init__(
        self,
        alpha: float = 1.0,
        count: int | None = 8,
        hard_loss: Literal["mixed", "unmixed"] = "mixed",
        seed: int = 0,
    ) -> None:
        if not 0 < alpha < float("inf"):
            raise UserError(f"alpha: {alpha} found, a number above 0 expected")
        if count is not None and count < 1:
            raise UserError(f"count: {count} found, at least 1 expected, or null to mix every batch anew")
        if hard_loss not in ("mixed", "unmixed"):
            raise UserError(f"hard_loss: {hard_loss} found, mixed or unmixed expected")
        self.alpha, self.count, self.hard_loss, self.seed = alpha, count, hard_loss, seed

    def __repr__(self) -> str:
        # Cached logits do not depend on the labels.
        return f"{type(self).__qualname__}(alpha={self.alpha}, count={self.count}, seed={self.seed})"

    def draw(self, size: int, generator: Generator) -> Draws:
        """Draw the random numbers of `size` mixes."""
        uniform = torch.rand(size, generator=generator, dtype=torch.float64)
        weight = uniform if self.alpha == 1 else torch.from_numpy(betaincinv(self.alpha, self.alpha, uniform.numpy()))
        return Draws(weight.float(), torch.rand(size, 2, generator=generator))

    def fixed(self, images: int, positions: Tensor, views: ViewFamily) -> Mixes:
        """Draw all mixes of a training set.

        Args:
            images: size of the whole training set.
            positions: int64 (n,), the images to train on: partners are among them alone.
            views: augmentation of an image before it is mixed.
        """
        assert self.count is not None
        generator = torch.Generator().manual_seed(self.seed)
        size = images * self.count
        partner = positions[torch.randint(len(positions), (size,), generator=generator)]
        view, partner_view = views.draw(size, generator), views.draw(size, generator)
        return Mixes(self.count, view, partner, partner_view, self.draw(size, generator))

    @abstractmethod
    def combine(self, first: Tensor, second: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mix images.

        Args:
            first: float (B, C, H, W).
            second: float (B, C, H, W), their partners.
            draws: of B mixes.

        Returns:
            The mixed images, float (B, C, H, W), and the share of `first` in each, float (B,).
        """


class MixUp(Mix):
    """Mix two images pixel by pixel: weight · image + (1 - weight) · partner; see `Mix` for the options.

    Source: Zhang et al. 2018, section 2 (arXiv 1710.09412); with `count: null` as torchvision's `v2.MixUp`, but with a
    weight for each image.
    """

    def combine(self, first: Tensor, second: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Mix images pixel by pixel; see `Mix.combine`."""
        return torch.lerp(second, first, draws.weight.view(-1, 1, 1, 1)), draws.weight


class CutMix(Mix):
    """Replace a box of the image by its partner's; see `Mix` for the options.

    The box has 1 - weight of the image's area and a random centre, and is cut off at the border; the labels' weights
    follow the area that is left.

    Source: Yun et al. 2019, section 3.1 (arXiv 1905.04899); the boxes are those of torchvision's `v2.CutMix`, but one
    for each image.
    """

    def combine(self, first: Tensor, second: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Replace a box of each image; see `Mix.combine`."""
        height, width = first.shape[-2:]
        half = 0.5 * (1 - draws.weight).sqrt()
        inside = []
        area = torch.ones_like(draws.weight)
        for side, axis in ((height, 0), (width, 1)):
            centre, reach = (draws.centre[:, axis] * side).floor(), (half * side).floor()
            low, high = (centre - reach).clamp(min=0), (centre + reach).clamp(max=side)
            place = torch.arange(side, device=first.device)
            inside.append((place >= low[:, None]) & (place < high[:, None]))
            area = area * (high - low)
        box = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return torch.where(box, second, first), 1 - area / (height * width)
