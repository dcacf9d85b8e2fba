"""A trained network on its own, by the words a user types."""

import contextlib
import hashlib
import io
import json
import re
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.data import DigitsDataModule
from kd_lightning.export import describe, export, export_network
from kd_lightning.models import MLP
from kd_lightning.modules import TeacherModule

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUN = Path("logs/student/seed_0")
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
CHECKPOINT = RUN / "checkpoints" / "last.ckpt"


def write_config(name: str, module: str, widths: list[int], **init_args: Any) -> str:
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": widths}}
    logger = {"save_dir": "logs", "name": name, "version": "seed_0"}
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": f"kd_lightning.modules.{module}",
            "init_args": {"net": net, "optimizer": ADAM, **init_args},
        },
        "data": {
            "class_path": "kd_lightning.data.DigitsDataModule",
            "init_args": {"batch_size": 50, "views": {"class_path": "kd_lightning.data.Shift"}},
        },
        "trainer": {
            "max_epochs": 3,
            "accelerator": "cpu",
            "enable_model_summary": False,
            "logger": {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": logger},
        },
    }
    Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    return f"--config={name}.yaml"


def run(*words: str) -> tuple[int, str]:
    """The exit status of a command, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([*words])
    return status, printed.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a distilled student that was exported, and what was printed."""
    folder = tmp_path_factory.mktemp("digits")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["kd-lightning"])
        assert run("fit", write_config("teacher", "TeacherModule", [64, 32, 10]))[0] == 0
        teacher = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 32, 10]}}
        options = {"teacher": teacher, "teacher_ckpt": "logs/teacher/seed_0"}
        student = write_config("student", "DistillModule", [64, 24, 16, 10], **options)
        assert run("fit", student)[0] == 0
        assert run("test", student)[0] == 0
        status, printed = run("export", str(RUN), "--int8", "--threads=1")
        assert status == 0
    return folder, printed


@pytest.fixture
def folder(exported: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(exported[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a command ends in."""
    capsys.readouterr()
    assert main([*words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kd-lightning:")]
    return line


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = DigitsDataModule()
    data.setup("test")
    index = torch.arange(360)
    return data.stored_images(index, train=False), data.make_batch(index, train=False).label


def test_every_form_says_what_pytorch_says_and_the_figures_are_kept(exported: tuple[Path, str]) -> None:
    folder, printed = exported
    results = json.loads((folder / RUN / "results.json").read_text())
    forms = results["export"]["forms"]
    assert [*forms] == ["teacher MLP, PyTorch", "MLP, PyTorch", "model.onnx", "model.pt2", "model_int8.onnx"]
    assert forms["MLP, PyTorch"]["errors"] == results["test"]["errors"]
    for name in ("model.onnx", "model.pt2"):
        assert forms[name]["difference"] < 1e-5
        assert (forms[name]["agreement"], forms[name]["errors"]) == (1.0, results["test"]["errors"])
        assert forms[name]["images"] == 360
    assert all(set(form["latency"]) == {"batch_1", "batch_128"} for form in forms.values())
    assert forms["model_int8.onnx"]["mebibytes"] < forms["model.onnx"]["mebibytes"]
    assert abs(forms["model_int8.onnx"]["errors"] - results["test"]["errors"]) < 20
    row = next(line for line in printed.splitlines() if " model.onnx " in line)
    assert re.search(rf" {results['test']['errors']} .* 100\.00% .* \d\.\de-\d\d ", row)
    assert sorted(file.name for file in (folder / RUN / "export").iterdir()) == [*forms][2:]


def test_the_onnx_file_says_what_it_is_and_takes_any_number_of_images(folder: Path) -> None:
    file = RUN / "export" / "model.onnx"
    said = {prop.key: json.loads(prop.value) for prop in onnx.load(file).metadata_props}
    assert said["class_names"] == [*"0123456789"]
    assert said["image_shape"] == said["stored_shape"] == [1, 8, 8]
    assert said["mean"] == pytest.approx([0.3054])
    assert said["input"] == "uint8 (batch, 1, 8, 8), grey, 0 to 255"
    assert said["output"].startswith("probabilities, float32 (batch, 10)")
    assert (said["network"], said["kd_lightning"]) == ("MLP", "0.1.0")
    assert said["checkpoint_sha256"] == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    session = onnxruntime.InferenceSession(file)
    image, label = digits()
    network = MLP([64, 24, 16, 10])
    state = torch.load(CHECKPOINT, weights_only=True)["state_dict"]
    network.load_state_dict({name.removeprefix("net."): weight for name, weight in state.items()})
    for size in (1, 3, 360):
        (found,) = session.run(None, {"image": image[:size].numpy()})
        with torch.no_grad():
            expected = network((image[:size].float() / 255 - 0.3054) / 0.3755).softmax(dim=-1)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert (found.argmax(axis=1) == label.numpy()).mean() > 0.5


def test_the_documentation_s_lines_read_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RUN / "export")
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    names: dict[str, Any] = {"images": digits()[0][:3].numpy()}
    exec(re.search(r"```python\n(# onnx: .*?)```", page, re.S)[1], names)
    assert names["probabilities"].shape == (3, 10)
    assert names["class_names"] == [*"0123456789"]


def test_the_torch_file_runs_with_torch_alone(folder: Path) -> None:
    extra = {"metadata.json": ""}
    program = torch.export.load(RUN / "export" / "model.pt2", extra_files=extra).module()
    assert json.loads(json.loads(extra["metadata.json"])["class_names"]) == [*"0123456789"]
    image, _ = digits()
    for size in (1, 5):
        assert program(image[:size]).shape == (size, 10)


def test_int8_is_of_eight_bits_but_for_the_last_layer(folder: Path) -> None:
    graph = onnx.load(RUN / "export" / "model_int8.onnx").graph
    weights = {tuple(weight.dims): weight.data_type for weight in graph.initializer if len(weight.dims) == 2}
    types = {sorted(shape)[0]: kind for shape, kind in weights.items()}
    assert types == {24: onnx.TensorProto.INT8, 16: onnx.TensorProto.INT8, 10: onnx.TensorProto.FLOAT}


def test_a_checkpoint_that_was_copied_elsewhere_is_enough(folder: Path) -> None:
    shutil.copy(CHECKPOINT, "copied.ckpt")
    for name in ("logs/student", "logs/teacher"):
        shutil.move(name, f"gone_{Path(name).name}")
    status, printed = run("export", "copied.ckpt", "--format=torch")
    assert status == 0
    assert "no test images (no config.yaml with its data beside" in printed
    assert "257 images of noise" in printed
    assert Path("export/model.pt2").is_file()


def test_a_teacher_that_is_gone_is_left_out(folder: Path) -> None:
    shutil.rmtree("logs/teacher")
    status, printed = run("export", str(RUN), "--format=torch", "--output=out")
    assert status == 0
    assert "no figures of the teacher (teacher_ckpt: no file or run folder logs/teacher/seed_0" in printed
    assert [file.name for file in Path("out").iterdir()] == ["model.pt2"]


def test_a_file_that_says_something_else_is_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = export.trace

    def wrong(classifier: Any, description: Any) -> Any:
        other = deepcopy(classifier)
        other.shift += 0.5
        return trace(other, description)

    monkeypatch.setattr(export, "trace", wrong)
    before = (RUN / "export" / "model.pt2").read_bytes()
    for output in ([], ["--output=other"]):
        line = refused(capsys, "export", str(RUN), "--format=torch", *output)
        assert re.search(r"model\.pt2 differs from PyTorch by up to 0\.\d+ in a probability, at most 0\.001", line)
    assert (RUN / "export" / "model.pt2").read_bytes() == before
    assert [file.name for file in Path("other").iterdir()] == []


@pytest.mark.parametrize("form", ["onnx", "torch"])
def test_a_full_disk_is_one_line_and_the_file_before_stays(
    form: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    before = {file.name: file.read_bytes() for file in (RUN / "export").iterdir()}
    monkeypatch.setattr("os.fsync", full)
    assert "cannot be written ([Errno 28] No space" in refused(capsys, "export", str(RUN), f"--format={form}")
    assert {file.name: file.read_bytes() for file in (RUN / "export").iterdir()} == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_package_that_is_missing_is_one_line(
    package: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    line = refused(capsys, "export", str(RUN))
    assert f'{package} is not installed: pip install "kd_lightning[export]"; or --format torch' in line


def test_torch_s_format_needs_no_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    assert run("export", str(RUN), "--format=torch", "--output=out")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "export: no file or run folder nowhere"),
        (["cut.ckpt"], "export: cut.ckpt cannot be read"),
        (["weights.pt"], "weights.pt does not describe its network"),
        ([str(RUN), "--format=tflite"], "tflite found, one or both of onnx,torch expected"),
        ([str(RUN), "--int8", "--format=torch"], "--format onnx expected"),
        ([str(RUN), "--nonsense"], "--nonsense"),
        ([str(RUN), "--threads=0"], "0 found, a number of at least 1 expected"),
        (["copied.ckpt", "--format=onnx", "--int8"], "int8: no training images"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = CHECKPOINT.read_bytes()
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    Path("copied.ckpt").write_bytes(whole)
    torch.save(MLP([64, 10]).state_dict(), "weights.pt")
    before = {file: file.read_bytes() for file in (RUN / "export").iterdir()}
    assert message in refused(capsys, "export", *words)
    assert not Path("export").exists()
    assert {file: file.read_bytes() for file in (RUN / "export").iterdir()} == before


def test_one_layer_has_none_that_is_quantised(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--trainer.max_epochs=1", "--trainer.logger.name=one"]
    assert main(["fit", write_config("one", "TeacherModule", [64, 10]), *words]) == 0
    line = refused(capsys, "export", "logs/one/seed_0", "--int8", "--format=onnx")
    assert "int8: 1 layers found, at least 2 expected: the last stays in float32" in line
    assert [file.name for file in Path("logs/one/seed_0/export").iterdir()] == ["model.onnx"]


class Counts(torch.nn.Module):
    """Its way depends on what it sees, which no exporter can write down."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        flat = image.flatten(1)
        return self.linear(flat) if flat.sum().item() > 0 else self.linear(-flat)


def test_a_network_of_one_s_own_is_named_by_its_config_and_one_that_no_exporter_takes_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--model.net={__name__}.Counts", "--trainer.max_epochs=1", "--trainer.logger.name=own"]
    config = write_config("own", "TeacherModule", [64, 10])
    assert main(["fit", config, *words]) == 0
    line = refused(capsys, "export", "logs/own/seed_0")
    assert f"is {__name__}.Counts, and a file may name those of kd_lightning.models, torchvision.models and" in line
    line = refused(capsys, "export", "logs/own/seed_0", "--config=logs/own/seed_0/config.yaml", "--format=torch")
    assert "export: Counts cannot be exported (" in line
    assert len(line) < 400
    assert not [*Path("logs/own/seed_0").rglob("*.pt2")]


def test_a_checkpoint_from_before_is_exported_by_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = FIXTURES / "checkpoint_0_1_0.ckpt"
    shutil.copy(file, "old.ckpt")
    shutil.copy(file.with_suffix(".yaml"), "old.yaml")
    status, printed = run("export", "old.ckpt", "--config=old.yaml", "--format=torch")
    assert status == 0
    assert re.search(r"model\.pt2 .* 14[678] .* 100\.00%", printed)
    Path("run/checkpoints").mkdir(parents=True)
    shutil.copy(file, "run/checkpoints/last.ckpt")
    shutil.copy("old.yaml", "run/config.yaml")
    assert run("export", "run", "--format=torch")[0] == 0


def test_a_network_made_in_python_is_exported_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_model_summary=False)
    module, data = TeacherModule(MLP([64, 10])), DigitsDataModule(train_size=50)
    trainer.fit(module, data)
    (file,) = Path("checkpoints").iterdir()
    Image.new("L", (8, 8)).save("digit.png")
    line = refused(capsys, "export", str(file))
    assert "was not saved by kd-lightning fit" in line
    assert "kd_lightning.export.export_network(network, describe(data), path)" in line
    data.setup("test")
    batches = [data.stored_images(torch.arange(3), train=False)]
    assert export_network(module.net, describe(data), "model.pt2", batches).images == 3
    status = main(["predict", "model.pt2", "digit.png"])
    assert (status, len(Path("predictions.csv").read_text().splitlines())) == (0, 2)
