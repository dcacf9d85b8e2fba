"""Files and words from elsewhere run nothing, lead nowhere and fill nothing."""

import io
import pickle
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.checkpoints.weights import load_weights
from kd_lightning.data import DogsVsCatsDataModule, ImageFolderDataModule
from kd_lightning.errors import UserError
from kd_lightning.models import MLP
from kd_lightning.models.pretrained import pretrained
from kd_lightning.teachers import LogitCache


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Payload:
    """Runs when it is unpickled."""

    def __reduce__(self) -> object:
        return Path("ran").touch, ()


def poisoned(kind: str) -> Path:
    """A file of weights with a payload in it."""
    file = Path("poisoned.safetensors" if kind == "another suffix" else "poisoned.ckpt")
    if kind == "zip":
        torch.save({"state_dict": MLP([4, 2]).state_dict(), "more": Payload()}, file)
    elif kind == "lightning":
        state = {f"net.{name}": weight for name, weight in MLP([4, 2]).state_dict().items()}
        torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": state, "callbacks": Payload()}, file)
    elif kind == "whole module":
        torch.save(MLP([4, 2]), file)
    else:
        file.write_bytes(pickle.dumps({"state_dict": Payload()}))
    return file


KINDS = ["zip", "lightning", "whole module", "bare pickle", "another suffix"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_does_not_run_wherever_weights_are_read(kind: str) -> None:
    file = poisoned(kind)
    with pytest.raises(UserError, match="poisoned"):
        load_weights(MLP([4, 2]), file, "teacher_ckpt")
    with pytest.raises(UserError, match="poisoned"):
        pretrained("resnet18", num_classes=2, weights=str(file))
    with pytest.warns(UserWarning, match="no logits of this teacher found"):
        LogitCache(torch.arange(2), 2, 1, 2, file=file).load()
    assert not Path("ran").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_does_not_run_in_any_command(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = poisoned(kind)
    options = [
        "--model=kd_lightning.modules.TeacherModule",
        "--model.net=kd_lightning.models.MLP",
        "--model.net.widths=[64,10]",
        "--data=kd_lightning.data.DigitsDataModule",
        "--trainer.logger=false",
        f"--ckpt_path={file}",
    ]
    for command in ("fit", "validate", "test", "predict"):
        capsys.readouterr()
        assert main([command, *options]) == 2
        assert "poisoned" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("ran").exists()


def test_a_checkpoint_that_is_gone_on_from_is_read_without_running_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A payload beside weights that fit: it is not the weights alone that are looked at."""
    state = {f"net.{name}": weight for name, weight in MLP([64, 10]).state_dict().items()}
    torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": state, "loops": Payload()}, "poisoned.ckpt")
    options = ["--model=kd_lightning.modules.TeacherModule", "--model.net=kd_lightning.models.MLP"]
    options += ["--model.net.widths=[64,10]", "--data=kd_lightning.data.DigitsDataModule", "--trainer.logger=false"]
    assert main(["fit", *options, "--ckpt_path=poisoned.ckpt"]) == 2
    assert "holds pickled Python objects, which are never run" in capsys.readouterr().err
    assert not Path("ran").exists()


def photograph() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 9, 9)).save(content, "JPEG")
    return content.getvalue()


def test_an_entry_that_unpacks_to_anything_is_refused_and_nothing_is_left() -> None:
    with zipfile.ZipFile("train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/dog.1.jpg", photograph())
        archive.writestr("train/cat.1.jpg", bytes(2**27))
    assert Path("train.zip").stat().st_size < 2**18
    with pytest.raises(UserError, match=r"cat\.1\.jpg in the archive has 134217728 bytes, a photograph of at most"):
        DogsVsCatsDataModule(".").prepare_data()
    assert [file.name for file in Path().iterdir()] == ["train.zip"]


def test_a_link_in_an_archive_is_a_file_and_leads_nowhere() -> None:
    with zipfile.ZipFile("train.zip", "w") as archive:
        link = zipfile.ZipInfo("train/cat.1.jpg")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("train/dog.1.jpg", photograph())
    with pytest.raises(UserError, match=r"1 of 2 images cannot be read: train/cat\.1\.jpg"):
        DogsVsCatsDataModule(".").prepare_data()
    assert not Path("train/cat.1.jpg").is_symlink()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes, of so many black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))  # the first of them; a reader makes room for all
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_an_image_of_absurd_size_is_named_and_never_decoded() -> None:
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            folder = Path("images", part, name)
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (200, 9, 9)).save(folder / "0.png")
    Path("images/train/ant/bomb.png").write_bytes(bomb(200_000, 200_000))
    with pytest.raises(UserError, match=r"1 of 3 images cannot be read: .*bomb\.png \(.*pixels"):
        ImageFolderDataModule("images", image_size=8).prepare_data()


@pytest.mark.parametrize(
    "path", ["os.system", "pathlib.Path", "subprocess.Popen", "kd_lightning.data.DigitsDataModule"]
)
def test_a_class_path_makes_a_module_or_nothing(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data=kd_lightning.data.DigitsDataModule", "--trainer.max_epochs=1"]
    assert main(["fit", f"--model={path}", *words]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("kd-lightning: error: ")
    assert not list(Path().iterdir())


def described(class_path: str, **changes: object) -> Path:
    """A checkpoint that says how its network is made."""
    network = {"class_path": class_path, "init_args": {"command": "touch ran", "path": "ran", "widths": [64, 10]}}
    shapes = {"image_shape": [1, 8, 8], "stored_shape": [1, 8, 8], "mean": [0.3], "std": [0.4], "crop": True}
    description = {"network": network, "class_names": [*"0123456789"], **shapes, **changes}
    state = {f"net.{name}": weight for name, weight in MLP([64, 10]).state_dict().items()}
    file = Path("poisoned.ckpt")
    torch.save({"pytorch-lightning_version": "2.6.0", "state_dict": state, "description": description}, file)
    return file


HOSTILE = [
    "os.system",
    "subprocess.getoutput",
    "pathlib.Path",
    "torch.hub.load",
    "hostile.Network",
    "kd_lightning.cli.lightning.main",
]


@pytest.mark.parametrize("words", [["export", "poisoned.ckpt"], ["predict", "poisoned.ckpt", "image.png"]])
@pytest.mark.parametrize("path", HOSTILE)
def test_a_checkpoint_that_names_something_else_than_a_network_runs_nothing(
    path: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("hostile.py").write_text("open('ran', 'w')\n")
    Image.new("L", (8, 8)).save("image.png")
    described(path)
    assert main(words) == 2
    assert f"of poisoned.ckpt is {path}, and a file may name" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": [1, 10**6, 10**6]},
        {"class_names": ["zero"]},
        {"class_names": [*"012"]},
        {"mean": [0.1, 0.2, 0.3]},
        {"network": "os.system"},
        {"network": {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [10**6, 10**6]}}},
    ],
)
def test_a_checkpoint_that_describes_itself_falsely_is_one_line(
    changes: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (8, 8)).save("image.png")
    described("kd_lightning.models.MLP", **changes)
    assert main(["predict", "poisoned.ckpt", "image.png"]) == 2
    assert "poisoned.ckpt" in capsys.readouterr().err.splitlines()[-1]
    assert not Path("predictions.csv").exists()


def test_the_config_beside_a_checkpoint_names_no_more_than_the_checkpoint_may(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run folder may be downloaded whole."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("hostile.py").write_text("open('ran', 'w')\n")
    Path("run/checkpoints").mkdir(parents=True)
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    described("kd_lightning.models.MLP", network=net).rename("run/checkpoints/last.ckpt")
    data = {"class_path": "hostile.Data", "init_args": {}}
    teacher = {"teacher": {"class_path": "hostile.Network"}, "teacher_ckpt": "run"}
    Path("run/config.yaml").write_text(yaml.safe_dump({"model": {"init_args": teacher}, "data": data}))
    assert main(["export", "run", "--format=torch"]) == 0
    said = capsys.readouterr().out
    assert "no test images (the data is hostile.Data; where you trust it" in said
    assert "is hostile.Network, and a file may name those" in said
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["views.class_path", "views+", "views"])
def test_no_option_in_the_config_beside_a_checkpoint_becomes_a_class(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    Path("hostile.py").write_text("open('ran', 'w')\n")
    Path("run/checkpoints").mkdir(parents=True)
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    described("kd_lightning.models.MLP", network=net).rename("run/checkpoints/last.ckpt")
    data = {"class_path": "kd_lightning.data.DigitsDataModule", "init_args": {name: "hostile.Views"}}
    Path("run/config.yaml").write_text(yaml.safe_dump({"data": data}))
    assert main(["export", "run", "--format=torch"]) == 0
    assert not Path("ran").exists()


def test_nothing_is_fetched_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*_: object, **__: object) -> None:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr("socket.socket.connect", called)
    monkeypatch.setattr("socket.create_connection", called)
    options = ["--model=kd_lightning.modules.TeacherModule", "--model.net=kd_lightning.models.MLP"]
    options += ["--model.net.widths=[64,10]", "--data=kd_lightning.data.DigitsDataModule", "--trainer.accelerator=cpu"]
    assert main(["fit", *options, "--trainer.max_epochs=1"]) == 0
    assert main(["test", *options, "--ckpt_path=lightning_logs/version_0"]) == 0


ALIASES = "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 8)}]\n" for level in range(1, 40)
)
MERGES = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{level}: &a{level}\n  <<: [{', '.join([f'*a{level - 1}'] * 8)}]\n" for level in range(1, 40)
)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ALIASES + "data: {class_path: kd_lightning.data.DigitsDataModule, init_args: {val_size: *a39}}", "is huge"),
        (MERGES, "is huge"),
        ("a: &a [*a]", "is huge"),
        ("a: " + "[" * 50_000, "is nested too deeply"),
        ("a: " + "x" * 2**21, "is huge"),
    ],
    ids=["aliases", "merges", "a circle", "depth", "length"],
)
def test_the_config_beside_a_checkpoint_is_bounded(
    config: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("run/checkpoints").mkdir(parents=True)
    net = {"class_path": "kd_lightning.models.MLP", "init_args": {"widths": [64, 10]}}
    described("kd_lightning.models.MLP", network=net).rename("run/checkpoints/last.ckpt")
    Path("run/config.yaml").write_text(config)
    assert main(["export", "run", "--format=torch"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"run/config.yaml {message}" in line
