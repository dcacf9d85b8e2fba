import math

import pytest
import torch
from torch import Tensor

from kd_lightning.losses import PKTLoss, RKDAngleLoss, RKDDistanceLoss, SimilarityPreservingLoss


def points(*coordinates: list[float]) -> Tensor:
    return torch.tensor(coordinates, dtype=torch.float64)


def test_similarities_are_products_scaled_by_rows() -> None:
    # The student's rows (1, 0) and (0, 1), the teacher's (√½, √½): (1 - √½)² + ½ = 2 - √2 a row, two rows, over 4.
    loss = SimilarityPreservingLoss()(points([1, 0], [0, 2]), points([3], [3]))
    assert loss.item() == pytest.approx((2 - math.sqrt(2)) * 2 / 4)


def test_distances_are_relative_to_their_mean() -> None:
    # On a line 1, 1, 2 with mean 4/3: 0.75, 0.75, 1.5. A triangle of equal sides: 1 each. Each pair twice, over 9.
    line, triangle = points([0], [1], [2]), points([0, 0], [5, 0], [2.5, 5 * math.sqrt(3) / 2])
    assert RKDDistanceLoss()(line, triangle).item() == pytest.approx(2 * (0.25**2 + 0.25**2 + 0.5**2) / 2 / 9)


def test_a_difference_above_1_counts_in_proportion() -> None:
    # 0, 3, 3 with mean 2 and 6, 0, 6 with mean 4: differences -1.5, 1.5, 0; 1.5 - 0.5 for each of the first two.
    assert RKDDistanceLoss()(points([0], [0], [3]), points([0], [6], [0])).item() == pytest.approx(2 * 2 / 9)


def test_angles_are_those_of_every_triangle_at_every_corner() -> None:
    # Cosines 0, √½, √½ and ½ each; each angle twice, over 27 triplets.
    right, equal = points([0, 0], [1, 0], [0, 1]), points([0, 0], [5, 0], [2.5, 5 * math.sqrt(3) / 2])
    expected = 2 * (0.5**2 + 2 * (math.sqrt(0.5) - 0.5) ** 2) / 2 / 27
    assert RKDAngleLoss()(right, equal).item() == pytest.approx(expected)


def test_neighbours_have_the_probabilities_of_the_cosine_kernel() -> None:
    # Kernels 1 and ½ become 2/3 and 1/3; the teacher's ½ and ½. The sum of a row is ½ log 3/4 + ½ log 3/2.
    loss = PKTLoss()(points([1, 0], [0, 2]), points([3], [4]))
    assert loss.item() == pytest.approx(2 * (math.log(3 / 4) + math.log(3 / 2)) / 2 / 4, rel=1e-6)


def test_the_distance_of_close_images_far_from_the_origin_is_kept() -> None:
    near = torch.tensor([[1000.0, 0.0], [1000.0, 0.01], [1000.0, 0.03]])
    assert RKDDistanceLoss()(near, near[:, 1:]).item() == pytest.approx(0, abs=1e-10)
