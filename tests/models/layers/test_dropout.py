import pytest
import torch

from kd_lightning.models.layers.dropout import Dropout


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_in_eval_mode_it_is_the_identity() -> None:
    x = torch.randn(5, 7)
    assert torch.equal(Dropout(0.5).eval()(x), x)


@pytest.mark.parametrize(("p", "dropped"), [(0.2, 51 / 256), (0.5, 1 / 2), (0.9, 230 / 256)])
def test_units_are_dropped_at_the_nearest_rate_in_256ths_and_the_others_scaled_by_it(p: float, dropped: float) -> None:
    y = Dropout(p)(torch.ones(1000, 1000))
    assert (y == 0).float().mean().item() == pytest.approx(dropped, abs=0.0025)  # 5 standard deviations
    assert y.unique().tolist() == pytest.approx([0.0, 1 / (1 - dropped)])


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_the_expectation_is_the_input(p: float) -> None:
    assert Dropout(p)(torch.ones(1000, 1000)).mean().item() == pytest.approx(1, abs=0.005)  # 5 standard deviations


def test_all_eight_units_of_a_random_word_are_dropped_alike_and_independently() -> None:
    dropped = (Dropout(0.5)(torch.ones(100_000, 8)) == 0).float()
    torch.testing.assert_close(dropped.mean(dim=0), torch.full((8,), 0.5), rtol=0, atol=0.01)
    torch.testing.assert_close(dropped.T.corrcoef(), torch.eye(8), rtol=0, atol=0.02)


def test_probability_zero_keeps_everything_and_one_nothing() -> None:
    x = torch.randn(5, 7)
    assert torch.equal(Dropout(0.0)(x), x)
    assert torch.equal(Dropout(1.0)(x), torch.zeros(5, 7))


def test_the_mask_is_reproducible_by_torchs_seed_and_new_at_every_call() -> None:
    dropout, x = Dropout(0.5), torch.ones(64)
    torch.manual_seed(7)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(7)
    again = dropout(x)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_the_gradient_passes_only_through_kept_units() -> None:
    x = torch.ones(3, 5, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_bfloat16_stays_bfloat16() -> None:
    y = Dropout(0.5)(torch.ones(3, 5, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    assert set(y.float().unique().tolist()) == {0.0, 2.0}


def test_the_layout_of_the_input_does_not_matter() -> None:
    x = torch.arange(1.0, 13).view(3, 4).T  # not contiguous
    y = Dropout(0.5)(x)
    assert torch.equal(y, torch.where(y == 0, 0.0, 2 * x))
    assert tuple(Dropout(0.5)(torch.ones(0, 4)).shape) == (0, 4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_maps_keep_their_order_in_memory_and_their_gradient(memory_format: torch.memory_format) -> None:
    x = torch.ones(8, 16, 8, 8).to(memory_format=memory_format).requires_grad_()
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert y.is_contiguous(memory_format=memory_format)
    assert y.unique().tolist() == [0.0, 2.0]
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


@pytest.mark.parametrize("x", [torch.ones(2, 3).expand(4, 2, 3), torch.ones(4, 6)[:, ::2], torch.ones(())])
def test_any_view_of_a_tensor_will_do(x: torch.Tensor) -> None:
    assert Dropout(0.5)(x).shape == x.shape
