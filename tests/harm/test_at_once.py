"""Two processes at one file: neither tears it, nor loses what the other found out."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kd_lightning.teachers import LogitCache

IMAGES, ROUNDS = 400, 20

PROGRAM = """
import sys, torch
from pathlib import Path
from kd_lightning.teachers import LogitCache

own = int(sys.argv[1])
file = Path("teacher.pt.logits-0123456789abcdef-0123456789abcdef.safetensors")
table = LogitCache(torch.arange({images}), {images}, 1, 2, file=file)
for places in torch.arange(own, {images}, 2).split({images} // 2 // {rounds}):
    answers = torch.stack([places.float(), -places.float()], dim=1)
    table.look_up(places, torch.zeros_like(places), lambda rows: answers[rows])
    table.save()
"""


@pytest.mark.slow
def test_two_that_fill_one_teacher_s_answers_leave_all_of_both(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    program = PROGRAM.format(images=IMAGES, rounds=ROUNDS)
    words = [sys.executable, "-W", "error", "-c", program]
    both = [subprocess.Popen([*words, str(own)], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for own in (0, 1)]
    for process in both:
        assert (process.communicate(timeout=100)[1], process.returncode) == ("", 0)
    (file,) = tmp_path.glob("teacher.pt.logits-*.safetensors")
    table = LogitCache(torch.arange(IMAGES), IMAGES, 1, 2, file=file)
    table.load()
    assert not len(recwarn)
    assert table.table[:, 0].tolist() == [[float(place), -float(place)] for place in range(IMAGES)]
