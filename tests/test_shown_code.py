"""Run every code block of the README and the documentation, on small data and for one epoch."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightning
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader

import kd_lightning
from kd_lightning.__main__ import main
from kd_lightning.cli.lightning import build
from kd_lightning.models import MLP
from tests.cli import test_hugging_face_networks
from tests.made import write_cifar100, write_mnist

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))))

NOT_RUN = {
    "python3 -m venv": "installs packages: `.ci/run` does, in a clean environment",
    "tensorboard --logdir": "serves until it is stopped: tests/test_dashboard.py looks at it with a browser",
    "torchrun --nnodes 2": "two machines",
    "srun --nodes 2": "a cluster",
    "kd-lightning fit --config … --trainer.accelerator gpu": "four GPUs",
    "kd-lightning fit --config … --trainer.devices 4": "four devices: tests/modules/test_distill_cached.py has two",
    "kd-lightning reproduce mnist_hinton --trainer.devices 2": "minutes: tests/modules/test_distill.py has two",
}
"""How commands that are not run begin, each with the reason."""

ELSEWHERE = {
    ("README.md", "from lightning import Trainer"): "test_readme.py::test_a_student_in_under_ten_lines_of_python",
    ("docs/index.md", "from lightning import Trainer"): "test_docs.py::test_the_index_has_the_readme_s_python",
    ("docs/own_data.md", "# mine.py"): "test_readme.py::test_own_data_and_network_in_one_yaml",
    ("docs/own_data.md", "# mine.yaml: PYTHONPATH=. kd-lightning fit --config mine.yaml"): (
        "test_readme.py::test_own_data_and_network_in_one_yaml"
    ),
    ("docs/own_data.md", "# flowers.yaml: kd-lightning reproduce flowers.yaml"): (
        "test_readme.py::test_own_images_distil_resnet_18_with_one_yaml"
    ),
    ("docs/own_data.md", "# fashion.yaml: kd-lightning fit --config fashion.yaml"): (
        "data/test_torchvision_datasets.py::test_a_network_is_trained_and_tested_on_a_dataset_by_its_name"
    ),
    ("docs/own_data.md", "# beans.yaml"): "data/test_hugging_face.py::test_a_dataset_is_trained_on_as_shown",
    ("docs/own_data.md", "# folders.yaml"): "data/test_own_folders.py::test_folders_are_put_together_as_shown",
    ("docs/compare.md", "# losses.yaml: kd-lightning reproduce losses.yaml"): (
        "commands/test_tries.py::test_losses_are_compared_as_shown"
    ),
    ("docs/teachers.md", "# a teacher with the weights that its function loads"): (
        "teachers/test_as_shown.py::test_a_teacher_as_it_was_built_is_cached_under_its_weights"
    ),
    ("docs/teachers.md", "# akamaster's ResNet-20, from the file as published"): (
        "teachers/test_as_shown.py::test_a_teacher_of_the_literature_is_read_as_shown"
    ),
    ("docs/teachers.md", "# a teacher of four classes, two of which are the data's"): (
        "teachers/test_as_shown.py::test_a_teacher_of_more_classes_is_matched_as_shown"
    ),
    ("docs/teachers.md", "# a teacher that returns embeddings of 1024 numbers"): (
        "teachers/test_as_shown.py::test_a_teacher_without_classes_is_learned_from_as_shown"
    ),
    ("docs/teachers.md", "# a teacher for images of 224 pixels"): (
        "teachers/test_as_shown.py::test_a_teacher_of_another_input_is_built_as_shown"
    ),
    ("docs/losses.md", "# layers.yaml: kd-lightning fit --config mine.yaml --config layers.yaml"): (
        "modules/test_layer_losses.py::test_losses_on_layers_are_given_as_shown"
    ),
    (
        "docs/compare.md",
        "# space.yaml: kd-lightning sweep digits/distill --space space.yaml --data.val_size 300",
    ): ("commands/test_search.py::test_a_search_runs_as_shown"),
    ("docs/own_data.md", "init_args:"): "test_readme.py::test_own_images_distil_resnet_18_with_one_yaml",
}
"""Blocks, by page and first line, that tests in other files run."""

HERE = (
    (
        "docs/export.md",
        "# onnx: images uint8 (batch, 1, 8, 8) in numpy; kd_lightning is not needed",
    ),
    ("docs/extend.md", "# mine.py"),
    ("docs/extend.md", "class MyDataModule(kd_lightning.ClassificationDataModule):"),
    ("docs/extend.md", "# plain data"),
    ("docs/extend.md", "net: {class_path: timm.create_model, init_args: {model_name: resnet18}}"),
    ("docs/export.md", "from kd_lightning.export import describe, export_network"),
    ("docs/command_line.md", "# training.yaml: kd-lightning fit --config digits/teacher --config training.yaml"),
    *(
        (
            "docs/augmentation.md",
            f"# {name}.yaml: kd-lightning fit --config configs/digits/teacher.yaml --config {name}.yaml",
        )
        for name in ("random", "mixed")
    ),
    (
        "docs/extend.md",
        "# hugging_face.yaml: kd-lightning fit --config configs/digits/teacher.yaml --config hugging_face.yaml",
    ),
    ("docs/extend.md", "# tuned.yaml: kd-lightning fit --config configs/digits/teacher.yaml --config tuned.yaml"),
    *(
        (
            "docs/losses.md",
            f"# {name}.yaml: {path}kd-lightning fit --config digits/distill --config {name}.yaml "
            f"--trainer.logger.version {name}",
        )
        for name, path in (("losses", ""), ("margin", "PYTHONPATH=. "))
    ),
    ("docs/losses.md", "# margin.py"),
)
"""Blocks that tests below run."""

SMALL = {
    "fit": ["--trainer.max_epochs=1"],
    "reproduce": ["--seeds=1", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"],
    "sweep": ["--seeds=1", "--trainer.max_epochs=1"],
}
"""Options added after a command's own, which they override."""

FAST = re.compile(r"kd-lightning (fit|test|predict) --config (digits|lightning_logs/digits/teacher)/(?!.*Logger)")
"""Commands of docs/command_line.md that the fast suite runs; the slow suite runs all of them."""


class Block(NamedTuple):
    page: str
    language: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        return self.page, self.text.strip().splitlines()[0].strip()


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^ *```(\w+)\n(.*?)^ *```", (ROOT / page).read_text(), re.S | re.M)
    return [Block(page, language, text) for language, text in found]


def block(page: str, first: str) -> str:
    (found,) = [each.text for each in blocks(page) if each.key == (page, first)]
    return found


def commands(page: str) -> list[str]:
    """List the shell commands of a page, without comments and with continued lines joined."""
    text = "\n".join(each.text for each in blocks(page) if each.language == "sh").replace("\\\n", " ")
    lines = (re.sub(r"\s+", " ", line.partition("  #")[0]).strip() for line in text.splitlines())
    return [line for line in lines if line]


def reason(command: str) -> str:
    return next((why for beginning, why in NOT_RUN.items() if command.startswith(beginning)), "")


EVERY = [each for page in PAGES for each in blocks(page)]
COMMANDS = [command for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(
    "shown", [each for each in EVERY if each.language != "sh"], ids=lambda each: "-".join(each.key)
)
def test_every_block_is_run_by_a_test(shown: Block) -> None:
    assert shown.key in {*ELSEWHERE, *HERE}, "run this block in a test below, or name the test that does"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_run_or_has_a_reason(command: str) -> None:
    is_ours = re.match(r"(PYTHONPATH=\. )?kd-lightning ", command)
    assert reason(command) or is_ours, "no test runs this command: give the reason in NOT_RUN"


def test_the_lists_above_have_no_stale_entries() -> None:
    assert {*ELSEWHERE, *HERE} == {each.key for each in EVERY if each.language != "sh"}
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in COMMANDS)] == []
    for test in set(ELSEWHERE.values()):
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text()


@pytest.fixture(autouse=True)
def _beside_the_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    # As in a terminal, where the working folder is found by `PYTHONPATH=.` alone: see `run`.
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", ".")])
    Path("configs").symlink_to(ROOT / "configs")
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]  # `compare --verify` looks for commits
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "--message", "Empty"]):
        subprocess.run([*git, *words], check=True)
    yield
    for module in ("mine", "their_code", "margin"):
        sys.modules.pop(module, None)


def run(command: str) -> None:
    """Run a command as shown, with further options that make it short."""
    given = "configs/digits/teacher.yaml --trainer.logger.version given"  # not the folder of `reproduce`
    if command.startswith("PYTHONPATH=. "):
        sys.path.insert(0, str(Path.cwd()))  # the fixture restores it
    words = shlex.split(command.replace("--config …", f"--config {given}").replace("…", "configs/digits/teacher.yaml"))
    words = words[words.index("kd-lightning") + 1 :]
    more = SMALL.get(words[0], [])
    if words[0] == "reproduce" and words[1].startswith("mnist"):
        more = [*more, "--data.root=data", "--data.train_size=null"]
    if words[0] == "reproduce" and words[1].startswith(("cifar10", "flowers")):
        more = [*more, "--data.batch_size=8", "--trainer.precision=32-true"]
    try:
        status = main([*words, *more])
    except SystemExit as done:  # by `--print_config`
        status = int(done.code or 0)
    assert status == 0, command


def execute(page: str, first: str, **names: object) -> dict[str, object]:
    exec(block(page, first), names)
    return names


def test_a_custom_loss_is_run_as_shown() -> None:
    Path("mine.py").write_text(block("docs/extend.md", "# mine.py"))
    Path("their_code.py").write_text(
        "from kd_lightning.models import MLP\n\ndef resnet56():\n    return MLP([64, 10])\n"
    )
    torch.save(MLP([64, 10]).state_dict(), "their_weights.pth")
    run("kd-lightning fit --config configs/digits/teacher.yaml")  # the teacher of the student below
    configs = []
    for command in commands("docs/extend.md"):
        run(command)
        configs.append(Path("lightning_logs/digits/distill/mine/config.yaml").read_text())
    assert ["soft_loss: mine.logit_distance" in config for config in configs] == [True, False]


def test_python_of_the_pages_is_run_as_shown() -> None:
    made = execute("docs/extend.md", HERE[2][1], kd_lightning=kd_lightning)["MyDataModule"]
    assert isinstance(made, type)
    assert issubclass(made, kd_lightning.ClassificationDataModule)
    plain = [(torch.rand(1, 8, 8), number % 10) for number in range(20)]
    names = {"DistillModule": kd_lightning.DistillModule, "MLP": MLP, "Trainer": lightning.Trainer}
    execute(
        "docs/extend.md",
        "# plain data",
        **names,
        DataLoader=DataLoader,
        images_and_labels=plain,
        trained_network=MLP([64, 10]),
    )
    module = kd_lightning.TeacherModule(MLP([64, 10]))
    execute(*HERE[5], module=module, data=kd_lightning.DigitsDataModule())
    found = execute(*HERE[0], images=np.zeros((2, 1, 8, 8), dtype=np.uint8))
    assert found["class_names"] == [*"0123456789"]
    assert np.asarray(found["probabilities"]).shape == (2, 10)


def test_a_network_of_another_library_is_built_as_shown() -> None:
    pytest.importorskip("timm")
    data = "--data=kd_lightning.data.DigitsDataModule"
    words = [
        "fit",
        "--model=kd_lightning.modules.TeacherModule",
        f"--model.net={yaml.safe_load(block(*HERE[4]))['net']}",
    ]
    assert build([*words, data]).model.net.fc.out_features == 10


@pytest.mark.parametrize(
    ("page", "first"),
    [key for key in HERE if ".yaml: " in key[1] and "kd-lightning " in key[1]],
    ids=lambda text: text[:20],
)
def test_a_config_is_run_by_the_command_in_its_first_line(page: str, first: str) -> None:
    file, _, command = first.removeprefix("# ").partition(": ")
    Path(file).write_text(block(page, first))
    if "published.pt" in block(page, first):
        torch.save(build(["fit", "--config=configs/digits/teacher.yaml"]).model.net.state_dict(), "published.pt")
    if "AutoModel" in block(page, first):
        test_hugging_face_networks.save_published()
    if "digits/distill" in command:
        run("kd-lightning fit --config digits/teacher")
        Path("margin.py").write_text(block("docs/losses.md", "# margin.py"))
    run(command)


def test_callbacks_and_schedules_have_the_short_names_that_are_shown() -> None:
    page, first = (
        "docs/command_line.md",
        "# training.yaml: kd-lightning fit --config digits/teacher --config training.yaml",
    )
    Path("training.yaml").write_text(block(page, first))
    run(first.partition(": ")[2])
    trained = build(["fit", "--config=digits/teacher", "--config=training.yaml"])
    kinds = {type(callback).__name__ for callback in trained.trainer.callbacks}
    assert {"EarlyStopping", "EMAWeightAveraging"} <= kinds
    config = yaml.safe_load(Path("lightning_logs/digits/teacher/seed_0/config.yaml").read_text())
    assert config["model"]["init_args"]["lr_scheduler"]["init_args"]["warmup"] == 0.1


def test_the_trainer_s_commands_are_run_as_shown() -> None:
    shown = [command for command in commands("docs/command_line.md") if FAST.match(command)]
    assert len(shown) >= 5
    for command in shown:
        run(command)


def images(folder: str, names: tuple[str, ...], count: int, side: int, mode: str = "RGB") -> None:
    for number, name in enumerate(names):
        (Path(folder) / name).mkdir(parents=True)
        for i in range(count):
            colour = (20 * number + i,) * len(mode)
            Image.new(mode, (side, side), colour[0] if mode == "L" else colour).save(Path(folder) / name / f"{i}.png")


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != "docs/extend.md" and commands(page)])
def test_all_commands_of_a_page_are_run_as_shown(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(Path("data"))
    write_cifar100(Path("data"), monkeypatch)
    for part in ("train", "test"):
        images(f"data/cifar10/{part}", tuple("abcdefghij"), 2, 32)
    images("flowers", ("daisy", "rose", "tulip"), 10, 64)
    images(".", ("photographs", "images"), 2, 8, "L")
    images(".", ("holiday",), 2, 64)
    Path("my_data.yaml").write_text("class_path: kd_lightning.data.DigitsDataModule\n")
    Path("flowers.yaml").write_text(block("docs/own_data.md", "# flowers.yaml: kd-lightning reproduce flowers.yaml"))
    Path("lightning_logs").mkdir()
    Path("lightning_logs/measured").symlink_to(ROOT / "lightning_logs" / "measured")
    shown = "\n".join(commands(page))
    for recipe, runs in (("digits", "lightning_logs/digits"), ("flowers.yaml", "lightning_logs/flowers")):
        if runs in shown or f"compare {recipe}" in shown or (recipe, page) == ("digits", "docs/command_line.md"):
            run(f"kd-lightning reproduce {recipe}")  # the page shows its runs before, or without, this command
    for command in commands(page):
        if not reason(command):
            run(command)
