import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch import nn

from kd_lightning.__main__ import main
from kd_lightning.batch import Batch
from kd_lightning.data import DigitsDataModule
from kd_lightning.models import MLP
from kd_lightning.modules import DistillModule, TeacherModule
from kd_lightning.modules.optimizers import fused_if_possible


@pytest.fixture
def teacher_file(tmp_path):
    torch.manual_seed(1)
    file = tmp_path / "teacher.pt"
    torch.save(MLP([64, 16, 10]).state_dict(), file)
    return str(file)


def student(teacher_file, **options):
    torch.manual_seed(2)
    return DistillModule(MLP([64, 8, 10]), MLP([64, 16, 10], hidden_dropout=0.5), teacher_file, **options)


def fit(module, **options):
    settings = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(**{**settings, **options}, enable_model_summary=False, accelerator="cpu")
    trainer.fit(module, datamodule=DigitsDataModule(train_size=100, batch_size=50))
    return trainer


def test_the_loss_is_the_weighted_sum_of_its_parts(teacher_file):
    module = student(teacher_file, temperature=2.0, hard_weight=0.25, soft_weight=0.5)
    image, label = torch.randn(6, 1, 8, 8), torch.arange(6)
    batch = Batch(image, label, label, torch.zeros_like(label))
    logits, parts, _ = module.shared_step(batch)
    teacher = module.teacher.network(image)
    soft = (F.softmax(teacher / 2, 1) * (F.log_softmax(teacher / 2, 1) - F.log_softmax(logits / 2, 1))).sum(
        1
    ).mean() * 4
    torch.testing.assert_close(parts["soft_loss"], soft)
    torch.testing.assert_close(parts["hard_loss"], F.cross_entropy(logits, label))
    torch.testing.assert_close(parts["loss"], 0.25 * parts["hard_loss"] + 0.5 * soft)


def test_a_loss_of_the_user_s_own_takes_the_place_of_ours(teacher_file):
    module = student(
        teacher_file, hard_weight=0.0, soft_weight=2.0, soft_loss=lambda s, t, temperature: s.sum() * temperature
    )
    image = torch.randn(2, 1, 8, 8)
    batch = Batch(image, torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    logits, parts, _ = module.shared_step(batch)
    torch.testing.assert_close(parts["loss"], 2 * 4 * logits.sum())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_trains_the_student_and_leaves_the_teacher_as_it_was(teacher_file, precision):
    module = student(teacher_file)
    before = module.net.linear1.weight.detach().clone()
    saved = torch.load(teacher_file, weights_only=True)
    trainer = fit(module, precision=precision)
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    assert not torch.equal(module.net.linear1.weight.to(before.dtype), before)
    assert not module.teacher.network.training
    for name, tensor in module.teacher.network.state_dict().items():
        assert torch.equal(tensor.cpu(), saved[name].to(dtype))
    optimizer = trainer.optimizers[0]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.net.parameters()))


def test_trained_alone_the_steps_equal_plain_torch(teacher_file):
    module = student(teacher_file, temperature=3.0, hard_weight=0.2, soft_weight=0.8, optimizer=torch.optim.Adam)
    plain, teacher = MLP([64, 8, 10]), MLP([64, 16, 10]).eval()
    plain.load_state_dict(module.net.state_dict())
    teacher.load_state_dict(torch.load(teacher_file, weights_only=True))
    data = DigitsDataModule(train_size=100, batch_size=50, shuffle=False)
    data.setup("fit")
    optimizer = torch.optim.Adam(plain.parameters(), fused=True)
    for index in torch.arange(100).split(50):
        batch = data.make_batch(index)
        logits, target = plain(batch.image), teacher(batch.image).detach()
        soft = F.kl_div(F.log_softmax(logits / 3, 1), F.softmax(target / 3, 1), reduction="batchmean") * 9
        optimizer.zero_grad()
        (0.2 * F.cross_entropy(logits, batch.label) + 0.8 * soft).backward()
        optimizer.step()
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, **settings, enable_model_summary=False, accelerator="cpu")
    trainer.fit(module, datamodule=DigitsDataModule(train_size=100, batch_size=50, shuffle=False))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(module.net.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_baseline_s_loss_is_the_cross_entropy():
    module = TeacherModule(nn.Identity())
    logits, label = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([1, 0])
    module.as_input = lambda image: image.flatten(1)
    batch = Batch(logits.view(2, 2, 1, 1), label, label, label)
    expected = (torch.tensor(2.0).log() + (1 + torch.tensor(-3.0).exp()).log()) / 2
    torch.testing.assert_close(module.shared_step(batch).losses["loss"], expected)


def test_optimizers_are_fused_where_they_can_be_and_as_the_user_says():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    assert fused_if_possible(torch.optim.Adam, parameters).defaults["fused"]
    assert "fused" not in fused_if_possible(torch.optim.LBFGS, parameters).defaults
    unfused = partial(torch.optim.Adam, fused=False)
    assert fused_if_possible(unfused, parameters).defaults["fused"] is False


@pytest.mark.parametrize("trained", [True, False])
def test_a_teacher_that_knows_no_more_than_chance_is_warned_of(trained, teacher_file, recwarn):
    if trained:
        teacher = TeacherModule(MLP([64, 16, 10]), optimizer=partial(torch.optim.Adam, lr=0.05))
        fit(teacher, max_epochs=5)
        torch.save(teacher.net.state_dict(), teacher_file)
    recwarn.clear()
    fit(student(teacher_file))
    found = [str(warning.message) for warning in recwarn if "chance" in str(warning.message)]
    assert len(found) == (0 if trained else 1)
    assert trained or found[0].startswith(f"teacher_ckpt: {teacher_file} has an accuracy of ")


def test_a_network_that_says_the_same_of_every_image_is_warned_of(recwarn):
    module = TeacherModule(MLP([64, 8, 10]), optimizer=partial(torch.optim.SGD, lr=0.0))
    with torch.no_grad():
        last = list(module.net.parameters())[-1]
        last.copy_(torch.arange(10.0) * 100)
    trainer = fit(module)
    recwarn.clear()
    trainer.test(module, DigitsDataModule(train_size=100), verbose=False)
    assert any(str(w.message).startswith("test: 9 is predicted for every image") for w in recwarn)


def best_accuracy(checkpoint):
    (score,) = (
        state["best_model_score"]
        for state in checkpoint["callbacks"].values()
        if state.get("monitor") == "val/accuracy"
    )
    return score.item()


@pytest.mark.slow
def test_two_processes_share_the_samples_and_leave_what_one_leaves(teacher_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("program.py").write_text(
        "import os, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from kd_lightning.cli import lightning\n"
        "network = lightning.main(sys.argv[1:]).model.teacher.network\n"
        "torch.save(network.state_dict(), f'teacher_of_{os.environ[\"LOCAL_RANK\"]}.pt')\n"
    )
    Path("config.yaml").write_text(
        "seed_everything: 0\n"
        "model:\n"
        "  class_path: kd_lightning.modules.DistillModule\n"
        "  init_args:\n"
        "    net: {class_path: kd_lightning.models.MLP, init_args: {widths: [64, 8, 10]}}\n"
        "    teacher: {class_path: kd_lightning.models.MLP, init_args: {widths: [64, 16, 10]}}\n"
        f"    teacher_ckpt: {teacher_file}\n"
        "    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}\n"
        "data: {class_path: kd_lightning.data.DigitsDataModule, init_args: {train_size: 100, val_size: 50}}\n"
        "trainer: {max_epochs: 2, accelerator: cpu, logger: false}\n"
    )
    words = ["fit", "--config=config.yaml"]
    two = [*words, "--data.batch_size=25", "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run(
        [sys.executable, "program.py", *two, "--trainer.default_root_dir=two"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "unused" not in done.stderr
    before = torch.load(teacher_file, weights_only=True)
    for rank in (0, 1):
        after = torch.load(f"teacher_of_{rank}.pt", weights_only=True)
        assert all(torch.equal(after.pop(name), weight) for name, weight in before.items())
        assert not after
    (answers,) = tmp_path.glob("teacher.pt.logits-*.safetensors")
    assert load_file(answers)["logits"].shape == (100, 10)  # what the teacher said in either process
    assert main([*words, "--data.batch_size=50", "--trainer.default_root_dir=one"]) == 0
    one, two = (torch.load(next(Path(run).rglob("best.ckpt")), weights_only=True) for run in ("one", "two"))
    assert best_accuracy(one) == pytest.approx(best_accuracy(two))
    one, two = (torch.load(next(Path(run).rglob("last.ckpt")), weights_only=True) for run in ("one", "two"))
    assert one["global_step"] == two["global_step"] == 4
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-4, atol=1e-5)
