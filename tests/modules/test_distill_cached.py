"""A student whose teacher is asked once an image and view, by the trainer's road."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch import nn

from kd_lightning.__main__ import main
from kd_lightning.batch import Batch
from kd_lightning.data import DigitsDataModule, Shift
from kd_lightning.errors import UserError
from kd_lightning.models import MLP, VGG
from kd_lightning.modules import DistillModule
from kd_lightning.modules.distill import FeatureMatch


class Grainy(DigitsDataModule):
    """Augments beyond its views."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        dealt = super().on_after_batch_transfer(batch, dataloader_idx)
        return dealt._replace(image=dealt.image + torch.randn_like(dealt.image))


class Loaders:
    """Says of its images what they are, and no more."""

    def __iter__(self):
        label = torch.tensor([0, 1])
        return iter([Batch(torch.rand(2, 1, 8, 8), label, label, label)])


@pytest.fixture(autouse=True)
def teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    network = MLP([64, 16, 10])
    torch.save(network.state_dict(), "teacher.pt")
    return network


def student(**options):
    torch.manual_seed(2)
    return DistillModule(MLP([64, 8, 10]), MLP([64, 16, 10]), "teacher.pt", **options)


def fit(module, data=DigitsDataModule, epochs=3, **options):
    """Train on made jitter; say how many images the teacher was shown in each epoch."""
    shown = []
    module.teacher.register_forward_hook(lambda _, inputs, __: shown.append(len(inputs[0])))
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=epochs, **settings, enable_model_summary=False, accelerator="cpu", **options)
    trainer.fit(module, datamodule=data(train_size=100, batch_size=50, views=Shift(1), seed=0))
    return shown


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-6), ("bf16-mixed", 2e-3)])
def test_cached_and_live_students_have_the_same_final_weights(precision, tolerance):
    cached, live = student(cache_teacher=True), student(cache_teacher=False)
    assert sum(fit(cached, precision=precision)) < sum(fit(live, precision=precision)) == 300
    for name, weight in live.net.state_dict().items():
        torch.testing.assert_close(cached.net.state_dict()[name], weight, rtol=0, atol=tolerance)


def test_the_teacher_is_shown_each_pair_once_in_all_runs():
    data = DigitsDataModule(train_size=100, views=Shift(1), seed=0)
    data.setup("fit")
    dealt = [data._draws_of_epoch(epoch, torch.device("cpu"))[0][data.train_positions] for epoch in range(3)]
    pairs = {9 * i + v for views in dealt for i, v in zip(data.train_positions.tolist(), views.tolist(), strict=True)}
    assert 100 < len(pairs) < 300
    first = fit(student())  # by default
    assert first[:2] == [50, 50]
    (file,) = Path().glob("teacher.pt.logits-*.safetensors")
    assert set(load_file(file)["pair"].tolist()) == pairs
    assert fit(student()) == [8, 8, 8]  # all are known: the first few of each epoch are compared
    assert list(Path().glob("teacher.pt.logits-*")) == [file]


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-6), ("bf16-mixed", 2e-3)])
def test_all_answers_may_be_asked_for_before_the_first_step(precision, tolerance):
    early, live = student(cache_teacher="all"), student(cache_teacher=False)
    shown = fit(early, precision=precision)
    assert shown == [900] + [8] * 3  # in one large batch; then the first few of each epoch are compared
    assert fit(live, precision=precision) == [50] * 6
    for name, weight in live.net.state_dict().items():
        torch.testing.assert_close(early.net.state_dict()[name], weight, rtol=0, atol=tolerance)
    (file,) = Path().glob("teacher.pt.logits-*.safetensors")
    assert load_file(file)["pair"].tolist() == list(range(900))


@pytest.mark.parametrize("name", ["t" * 207, "t" * 252, "é" * 126, "教師" * 42, "t" * 140], ids=len)
def test_a_teacher_s_file_may_have_a_long_name(name, recwarn):
    file = Path(f"{name}.pt")
    Path("teacher.pt").rename(file)

    def module():
        torch.manual_seed(2)
        return DistillModule(MLP([64, 8, 10]), MLP([64, 16, 10]), str(file))

    assert fit(module(), epochs=2)[0] == 50
    (first,) = Path().glob(f"{name[:20]}*.logits-*")
    assert fit(module(), epochs=2) == [8, 8]  # all are known
    assert [str(w.message) for w in recwarn if "logits" in str(w.message)] == []
    torch.save(MLP([64, 16, 10]).state_dict(), file)  # other weights: the file of the old ones goes
    fit(module(), epochs=1)
    assert len(list(Path().glob(f"{name[:20]}*.logits-*"))) == 1
    assert not first.exists()


@pytest.mark.parametrize("cache", [None, "all", False])
def test_the_teacher_gets_no_more_images_at_once_than_the_options_say(cache):
    module, shown = student(cache_teacher=cache), []
    module.teacher.network.register_forward_pre_hook(lambda _, inputs: shown.append(len(inputs[0])))
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, **settings, enable_model_summary=False, accelerator="cpu")
    trainer.fit(module, DigitsDataModule(train_size=100, batch_size=30, eval_batch_size=40, views=Shift(1)))
    assert max(shown) == 40
    assert shown[:4] == [2, 40, 40, 20]  # two blank ones; then the first look at it, before training


def test_a_shared_teacher_is_not_asked_by_one_process_alone():
    with pytest.raises(UserError, match="cache_teacher: true found, all or false expected with shard_teacher"):
        student(shard_teacher=True, cache_teacher=True)
    assert fit(student(shard_teacher=True)) == [50] * 6  # by default every answer is asked for, in step
    assert not list(Path().glob("teacher.pt.logits-*"))


@pytest.mark.slow
def test_processes_that_share_a_teacher_leave_the_answers_of_one():
    Path("program.py").write_text("import sys\nfrom kd_lightning.__main__ import main\nsys.exit(main(sys.argv[1:]))\n")
    mlp = "kd_lightning.models.MLP"
    Path("config.yaml").write_text(
        "seed_everything: 0\n"
        "model:\n"
        "  class_path: kd_lightning.modules.DistillModule\n"
        "  init_args:\n"
        f"    net: {{class_path: {mlp}, init_args: {{widths: [64, 8, 10]}}}}\n"
        f"    teacher: {{class_path: {mlp}, init_args: {{widths: [64, 16, 10]}}}}\n"
        "    teacher_ckpt: teacher.pt\n"
        "    shard_teacher: true\n"
        "    cache_teacher: all\n"
        "    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}\n"
        "data:\n"
        "  class_path: kd_lightning.data.DigitsDataModule\n"
        "  init_args: {train_size: 101, eval_batch_size: 300, views: {class_path: kd_lightning.data.Shift}}\n"
        "trainer: {max_epochs: 2, accelerator: cpu, logger: false}\n"
    )
    words = [sys.executable, "program.py", "fit", "--config=config.yaml"]
    two = [*words, "--data.batch_size=25", "--trainer.devices=2", "--trainer.strategy=ddp"]
    done = subprocess.run([*two, "--trainer.default_root_dir=two"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    (file,) = Path().glob("teacher.pt.logits-*.safetensors")
    shared = load_file(file)
    file.unlink()
    assert main(["fit", "--config=config.yaml", "--data.batch_size=50", "--trainer.default_root_dir=one"]) == 0
    alone = load_file(file)  # under the very name: what was asked together serves those who ask alone
    assert shared["pair"].tolist() == alone["pair"].tolist() == list(range(101 * 25))
    torch.testing.assert_close(shared["logits"], alone["logits"], rtol=0, atol=1e-5)


def test_all_answers_are_kept_though_the_run_comes_to_nothing(monkeypatch):
    def fail(*_):
        raise RuntimeError("no more")

    monkeypatch.setattr(DistillModule, "training_step", fail)
    with pytest.raises(RuntimeError, match="no more"):
        fit(student(cache_teacher="all"))
    (file,) = Path().glob("teacher.pt.logits-*.safetensors")
    assert len(load_file(file)["pair"]) == 900


def test_other_views_pixels_or_weights_have_answers_of_their_own():
    fit(student(), epochs=1)
    fit(student(), lambda **options: DigitsDataModule(**{**options, "views": None}), epochs=1)
    fit(student(), lambda **options: DigitsDataModule(**options, mean=[0.5]), epochs=1)
    fit(student(), epochs=1, precision="bf16-mixed")
    assert len(list(Path().glob("teacher.pt.logits-*"))) == 4
    torch.save(MLP([64, 16, 10]).state_dict(), "teacher.pt")
    fit(student(), epochs=1)
    assert len(list(Path().glob("teacher.pt.logits-*"))) == 1


def test_augmentation_beyond_the_views_is_refused_where_it_shows():
    with pytest.raises(UserError, match="cache_teacher: the teacher's logits differ"):
        fit(student(), lambda **options: Grainy(**{**options, "views": None}))
    assert len(fit(student(cache_teacher=False), Grainy)) == 6


def test_what_cannot_be_kept_is_refused_if_asked_for_and_else_asked_anew():
    teacher = VGG([[4]], track_running_stats=False, in_channels=1)
    torch.save(teacher.state_dict(), "teacher.pt")

    def module(**more):
        return DistillModule(MLP([64, 8, 10]), teacher, "teacher.pt", **more)

    for option in (True, "all"):
        with pytest.raises(UserError, match=r"cache_teacher: .*statistics of each batch; false expected"):
            fit(module(cache_teacher=option))
    fit(module(), epochs=1)
    assert not list(Path().glob("teacher.pt.logits-*"))


def test_validation_images_are_shown_once_a_run():
    """And the figures are those of a teacher that runs in each validation."""

    class HeldOut(DigitsDataModule):
        def __init__(self, **options):
            super().__init__(**options, val_size=30)

    figures, counts = [], []
    for cache in (None, False):
        module, seen = student(cache_teacher=cache, soft_weight=1.0), []
        module.on_validation_end = lambda module=module, seen=seen: seen.append(
            [float(value) for name, value in module.trainer.callback_metrics.items() if name.startswith("val/")]
        )
        shown = fit(module, HeldOut, epochs=3)
        figures.append(seen[1:])
        counts.append(shown.count(30))
    assert counts == [1, 4]  # a check before training, and three epochs
    torch.testing.assert_close(torch.tensor(figures[0]), torch.tensor(figures[1]), rtol=1e-5, atol=1e-6)


class Pooled(nn.Module):
    """Compares the means of several layers, and sees their shapes and precision."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def forward(self, student, teacher):
        if self.training:
            self.seen |= {(it.dtype, *it.shape[1:]) for it in teacher}
        pairs = zip(student, teacher, strict=True)
        return sum((a.float().mean(dim=1) - b.float().mean(dim=1)).square().mean() for a, b in pairs)


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [
        ("32-true", torch.float32, 1e-6),
        ("bf16-mixed", torch.bfloat16, 2e-3),
        ("64-true", torch.float64, 1e-6),
    ],
)
def test_outputs_of_layers_are_cached_beside_the_logits(precision, dtype, tolerance):
    def module(cache):
        layers = ["flatten", "linear1"]
        compare = FeatureMatch(layers, layers, Pooled())
        return student(cache_teacher=cache, features=[compare], feature_weight=1.0)

    cached, live = module(None), module(False)
    assert sum(fit(cached, precision=precision)) < sum(fit(live, precision=precision)) == 300
    image = torch.float64 if dtype == torch.float64 else torch.float32  # `flatten` does not compute
    for each in (cached, live):
        assert each.features[0].loss.seen == {(image, 64), (dtype, 16)}
    for name, weight in live.net.state_dict().items():
        torch.testing.assert_close(cached.net.state_dict()[name], weight, rtol=0, atol=tolerance)
    (file,) = Path().glob("teacher.pt.logits-*")
    assert load_file(file)["logits"].shape[1] == 10 + 64 + 16
    assert fit(module(None), precision=precision) == [8, 8, 8]
    fit(module("all"), precision=precision)
    assert len(load_file(file)["pair"]) == 900


class Rows(nn.Module):
    """A network whose first layer gives no row for each image."""

    def __init__(self):
        super().__init__()
        self.mean = Mean()
        self.head = nn.Linear(64, 10)

    def forward(self, image):
        return self.head(image.flatten(1)) + 0 * self.mean(image).sum()


class Mean(nn.Module):
    def forward(self, image):
        return image.mean(dim=(0, 2, 3))


def test_an_output_without_a_row_for_each_image_is_not_cached():
    network = Rows()
    torch.save(network.state_dict(), "teacher.pt")

    def module(**options):
        match = FeatureMatch("mean", "mean", lambda student, teacher: (student - teacher).square().mean())
        return DistillModule(Rows(), network, "teacher.pt", features=[match], feature_weight=1.0, **options)

    with pytest.raises(UserError, match="cache_teacher: the outputs of the teacher's layers have no known shape"):
        fit(module(cache_teacher=True))
    assert sum(fit(module())) == 300


def test_loaders_that_do_not_say_what_they_show_are_refused_if_asked_for():
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError, match="cache_teacher: the data does not identify its images and views"):
        trainer.fit(student(cache_teacher=True), train_dataloaders=Loaders())


def test_a_table_that_is_too_large_is_made_only_if_asked_for(monkeypatch):
    monkeypatch.setattr("kd_lightning.teachers.cache.MAX_DEFAULT_BYTES", 1000)
    assert sum(fit(student())) == 300
    assert sum(fit(student(cache_teacher=True))) < 300
