"""The loss on labels against literal values and torch's own cross-entropy."""

import math

import pytest
import torch
import torch.nn.functional as F

from kd_lightning.batch import UNLABELLED
from kd_lightning.losses import balanced_weights, label_loss

# Probabilities of two classes: 1/4, 3/4 and 1/2, 1/2.
LOGITS = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])


def test_the_loss_is_the_mean_negative_log_probability_of_the_label() -> None:
    assert label_loss(LOGITS, torch.tensor([1, 0])).item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_options_have_the_meaning_of_torch_s_cross_entropy(unlabelled: bool) -> None:
    label, weights = torch.tensor([1, 0]), torch.tensor([1.0, 3.0])
    for smoothing in (0.0, 0.1):
        for given in (None, weights):
            found = label_loss(LOGITS, label, None, given, smoothing, unlabelled)
            torch.testing.assert_close(found, F.cross_entropy(LOGITS, label, given, label_smoothing=smoothing))
    target = torch.tensor([[0.3, 0.7], [1.0, 0.0]])
    found = label_loss(LOGITS, label, target, None, 0.1, unlabelled)
    torch.testing.assert_close(found, F.cross_entropy(LOGITS, target, label_smoothing=0.1))


def test_unlabelled_images_are_left_out() -> None:
    label = torch.tensor([UNLABELLED, 0])
    assert label_loss(LOGITS, label, unlabelled=True).item() == pytest.approx(math.log(2))
    weights = torch.tensor([5.0, 3.0])
    assert label_loss(LOGITS, label, class_weights=weights, unlabelled=True).item() == pytest.approx(math.log(2))
    mixed = torch.tensor([[0.0, 0.0], [0.5, 0.5]])
    assert label_loss(LOGITS, label, mixed, label_smoothing=0.1, unlabelled=True).item() == pytest.approx(math.log(2))


def test_a_batch_without_labels_has_loss_0_and_gradient_0() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = label_loss(logits, torch.full((2,), UNLABELLED), label_smoothing=0.1, unlabelled=True)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_balanced_weights_are_inverse_to_the_number_of_images() -> None:
    label = torch.tensor([0, 0, 0, 2, UNLABELLED])
    # 4 labelled images in 2 classes: 4 / (2 * 3) and 4 / (2 * 1).
    torch.testing.assert_close(balanced_weights(label, 4), torch.tensor([2 / 3, 0, 2, 0]))
