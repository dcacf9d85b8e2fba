"""Several processes measure every image once."""

import pytest
import torch

from kd_lightning.data.samplers import EvaluationSampler
from kd_lightning.errors import UserError
from tests.data.made import made


@pytest.mark.parametrize(
    ("count", "batch_size", "processes"),
    [(201, 10, 2), (200, 10, 2), (2001, 1000, 2), (7, 1, 2), (7, 3, 4), (3, 5, 3), (2, 1000, 2), (360, 1000, 7)],
)
def test_every_image_is_in_one_share_and_all_have_as_many_batches(count: int, batch_size: int, processes: int) -> None:
    shares = [EvaluationSampler(count, batch_size, processes, rank) for rank in range(processes)]
    dealt = [place for share in shares for batch in share for place in batch]
    assert sorted(dealt) == list(range(count))
    assert len({len(share) for share in shares}) == 1
    assert max(len(batch) for share in shares for batch in share) <= batch_size + 1
    assert min(len(batch) for share in shares for batch in share) >= 1


class _Trainer:
    testing, predicting, training = True, False, False

    def __init__(self, world_size: int, global_rank: int) -> None:
        self.world_size, self.global_rank = world_size, global_rank


def test_the_test_set_and_the_validation_set_are_shared_out() -> None:
    test, val = [], []
    for rank in range(2):
        data = made("fit", val_size=5, eval_batch_size=2)
        data.setup("test")
        data.trainer = _Trainer(2, rank)  # type: ignore[assignment]
        test += torch.cat(list(data.test_dataloader())).tolist()
        val += torch.cat(list(data.val_dataloader())).tolist()
    assert sorted(test) == list(range(data.test_count))
    assert sorted(val) == data.val_positions.tolist()


def test_fewer_images_than_processes_are_refused() -> None:
    data = made("test")
    data.trainer = _Trainer(data.test_count + 1, 0)  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"test images: 6 found, at least 7 expected, one for each process"):
        data.test_dataloader()
