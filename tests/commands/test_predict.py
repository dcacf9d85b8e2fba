"""What a network says of image files, by the words a user types."""

import csv
import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd_lightning.__main__ import main
from kd_lightning.reports.results import read_results
from tests.made import write_mnist

RUN = Path("lightning_logs/version_0")
FIT = [
    "--model=kd_lightning.modules.TeacherModule",
    "--trainer.accelerator=cpu",
    "--trainer.enable_model_summary=false",
]


def photograph(file: Path, level: int, shade: int, size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(shade).integers(0, 60, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels + np.uint8(level)).save(file)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs, a network that was trained on them, and both of its exported files."""
    folder = tmp_path_factory.mktemp("photographs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["kd-lightning"])
        for part, count in (("train", 12), ("test", 5)):
            for c, name in enumerate(("day", "night")):
                for i in range(count):
                    photograph(Path("sky", part, name, f"{i}.{'png' if i % 2 else 'jpg'}"), 190 * c, i)
        Image.new("L", (50, 20), 99).save("sky/test/day/grey.png")
        net = ["--model.net=kd_lightning.models.LightNN", "--model.net.image_size=16"]
        data = ["--data=kd_lightning.data.ImageFolderDataModule", "--data.root=sky", "--data.image_size=16"]
        words = [*FIT, *net, *data, "--data.stored_size=24", "--data.batch_size=8", "--trainer.max_epochs=6"]
        assert main(["fit", *words]) == 0
        assert main(["predict", *words, f"--ckpt_path={RUN}", "--trainer.default_root_dir=lightning"]) == 0
        assert main(["export", str(RUN), "--threads=1"]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_its_folder(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setattr(sys, "argv", ["kd-lightning"])


def rows(file: str | Path) -> dict[str, tuple[str, float]]:
    """What a table says of each file."""
    with Path(file).open(newline="") as table:
        return {
            row["file"].removeprefix("sky/"): (row["class"], float(row["probability"])) for row in csv.DictReader(table)
        }


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, (said, probability) in expected.items():
        assert found[name][0] == said
        assert found[name][1] == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize(
    "model",
    [RUN, RUN / "checkpoints/last.ckpt", RUN / "export/model.onnx", RUN / "export/model.pt2"],
    ids=lambda m: m.name,
)
def test_a_file_is_read_as_it_was_tested(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `predict` says of a run's own test images, `predict MODEL` says of the files."""
    (tested,) = Path("lightning").rglob("predictions.csv")
    output = tmp_path / "said.csv"
    assert main(["predict", str(model), "sky/test", f"--output={output}", "--batch_size=3"]) == 0
    assert capsys.readouterr().out == f"results: {output} (11 images)\n"
    assert output.read_text().splitlines()[0] == "file,class,probability"
    assert_same(rows(output), rows(tested))
    assert len({said for said, _ in rows(output).values()}) == 2


def test_files_and_folders_are_named_together_and_none_twice(tmp_path: Path) -> None:
    output = tmp_path / "said.csv"
    words = ["sky/test/night/1.png", "sky/test/day", "sky/test/day/0.jpg"]
    assert main(["predict", str(RUN), *words, f"--output={output}"]) == 0
    day = [f"test/day/{name}" for name in ("0.jpg", "1.png", "2.jpg", "3.png", "4.jpg", "grey.png")]
    assert [*rows(output)] == ["test/night/1.png", *day]


@pytest.mark.parametrize("options", [["--output=said.csv"], ["--batch_size", "3", "--output", "said.csv"]])
def test_its_own_options_may_stand_first(
    options: list[str], tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", *options, str(trained / RUN), str(trained / "sky/test/day")]) == 0
    assert len(rows("said.csv")) == 6


def test_images_that_cannot_be_read_are_named_and_the_others_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        photograph(tmp_path / "some" / f"{i}.png", 190, i)
        (tmp_path / "some" / f"{i}_broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "some" / ".hidden.png").touch()
    (tmp_path / "some" / "notes.txt").touch()
    output = tmp_path / "said.csv"
    assert main(["predict", str(RUN), str(tmp_path / "some"), f"--output={output}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kd-lightning: error: predict: 5 of 10 images cannot be read: ")
    assert "0_broken.png (cannot identify image file" in line
    assert line.endswith(f" and 2 more; the others are in {output}")
    assert [Path(file).name for file in rows(output)] == [f"{i}.png" for i in range(5)]


def test_folders_are_listed_as_the_data_module_lists_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    photograph(Path("some/0.png"), 190, 0)
    photograph(Path("more/1.png"), 190, 1)
    Path("some/linked").symlink_to("../more")
    Path("some/loop").symlink_to(".")
    for name in ("notes.txt", "clip.mpg", "clip2.mpg", "README"):
        Path("some", name).write_bytes(b"\0\0\1\xba")
    assert main(["predict", str(trained / RUN), "some"]) == 0
    assert [*rows("predictions.csv")] == ["some/0.png", "some/linked/1.png"]
    assert capsys.readouterr().out.splitlines() == [
        "some: 4 files left out, whose suffix is not an image's: 2 .mpg, 1 none, 1 .txt "
        "(some/README, some/clip.mpg, some/clip2.mpg and 1 more)",
        "some: 1 links not followed, which lead to a folder above them: some/loop",
        "results: predictions.csv (2 images)",
    ]
    Path("more/1.png").rename("more/1.doc")
    assert main(["predict", str(trained / RUN), "more"]) == 2
    assert capsys.readouterr().err == (
        "kd-lightning: error: predict: no image in more; more: 1 files left out, whose suffix is not an image's: "
        "1 .doc (more/1.doc)\n"
    )


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("=cmd.png", "./=cmd.png"),
        ("+1.png", "./+1.png"),
        ("-1.png", "./-1.png"),
        ("@sum.png", "./@sum.png"),
        ("\t=cmd.png", "\\t=cmd.png"),
        ("a\r=cmd.png", "a\\r=cmd.png"),
    ],
)
def test_a_file_s_name_runs_nothing_in_a_spreadsheet(
    name: str, written: str, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photograph(Path(name), 190, 0)
    assert main(["predict", "--output=said.csv", str(trained / RUN), "."]) == 0
    assert [*rows("said.csv")] == [written]
    if written.startswith("./"):
        assert Path(written).is_file()


def test_none_that_can_be_read_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    output = tmp_path / "said.csv"
    assert main(["predict", str(RUN), str(tmp_path / "broken.png"), f"--output={output}"]) == 2
    assert "1 of 1 images cannot be read: " in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "sky"], "predict: no file or run folder nowhere"),
        (["nowhere.onnx", "sky"], "predict: no file nowhere.onnx"),
        ([str(RUN), "nowhere"], "predict: no file or folder nowhere"),
        ([str(RUN), "lightning"], "predict: no image in lightning"),
        ([str(RUN)], "IMAGE_OR_FOLDER"),
        (["--batch_size=3"], "predict: the following arguments are required: MODEL, IMAGE_OR_FOLDER"),
        ([str(RUN), "sky", "--batch_size=0"], "0 found, a number of at least 1 expected"),
        ([str(RUN), "sky", "--outputs=x"], "--outputs=x"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("predictions.csv").exists()


def test_a_checkpoint_of_digits_reads_pictures_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour photographs of another size too: as the network's images are, grey and 28x28."""
    monkeypatch.chdir(tmp_path)
    root = write_mnist(tmp_path / "data")
    net = ["--model.net=kd_lightning.models.MLP", "--model.net.widths=[784,20,10]"]
    data = ["--data=kd_lightning.data.MNISTDataModule", f"--data.root={root}"]
    assert main(["fit", *FIT, *net, *data, "--trainer.max_epochs=15"]) == 0
    raw = (root / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:]
    for i in range(20):
        image = Image.frombytes("L", (28, 28), raw[784 * i : 784 * (i + 1)])
        (image if i % 2 else image.convert("RGB").resize((56, 56))).save(tmp_path / f"{i:02}.png")
    files = [str(tmp_path / f"{i:02}.png") for i in range(20)]
    assert main(["predict", str(RUN), *files]) == 0
    said = [name for name, _ in rows("predictions.csv").values()]
    assert sum(name == str(i % 10) for i, name in enumerate(said)) >= 18


@pytest.fixture
def latin() -> str:
    """A folder's name that is not UTF-8."""
    name = os.fsdecode(b"caf\xe9")
    try:
        Path(name).mkdir()
    except OSError:
        pytest.skip("the file system takes no such name")
    Path(name).rmdir()
    return name


def test_names_that_are_not_utf_8_keep_their_bytes(tmp_path: Path, latin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    photograph(tmp_path / latin / "0.png", 190, 0)
    output = tmp_path / latin / "said.csv"
    assert main(["predict", str(RUN), str(tmp_path / latin), f"--output={output}"]) == 0
    assert output.read_bytes().splitlines()[1].startswith(os.fsencode(tmp_path / latin / "0.png") + b",night,")
    out.flush()
    assert out.buffer.getvalue() == b"results: " + os.fsencode(output) + b" (1 images)\n"


def test_a_class_whose_name_is_not_utf_8_is_named_by_its_bytes(
    tmp_path: Path, latin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for c, name in enumerate((latin, "day")):
        for i in range(10):
            photograph(Path("one", name, f"{i}.png"), 190 * c, i)
    net = ["--model.net=kd_lightning.models.LightNN", "--model.net.image_size=16"]
    data = ["--data=kd_lightning.data.ImageFolderDataModule", "--data.root=one", "--data.image_size=16"]
    for command in ("fit", "test", "predict"):
        more = [] if command == "fit" else [f"--ckpt_path={RUN}", f"--trainer.default_root_dir={command}"]
        assert main([command, *FIT, *net, *data, "--trainer.max_epochs=1", *more]) == 0
    (results,) = Path("test").rglob("results.json")
    assert read_results(results.parent)["class_names"] == ["caf\\xe9", "day"]
    (table,) = Path("predict").rglob("predictions.csv")
    assert b",caf\xe9/" in table.read_bytes()


def test_names_of_classes_and_files_run_nothing_in_a_spreadsheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for c, name in enumerate(("=cmd", "@sum")):
        for i in range(10):
            photograph(Path("one", name, f"{i}.png"), 190 * c, i)
    net = ["--model.net=kd_lightning.models.LightNN", "--model.net.image_size=16"]
    data = ["--data=kd_lightning.data.ImageFolderDataModule", "--data.root=one", "--data.image_size=16"]
    assert main(["fit", *FIT, *net, *data, "--trainer.max_epochs=1"]) == 0
    assert main(["predict", *FIT, *net, *data, f"--ckpt_path={RUN}", "--trainer.default_root_dir=predict"]) == 0
    assert main(["predict", str(RUN), "one/@sum"]) == 0
    (tested,) = Path("predict").rglob("predictions.csv")
    for table, files in ((tested, "./"), (Path("predictions.csv"), "one/@sum/")):
        for file, (said, _) in rows(table).items():
            assert file.startswith(files)
            assert said in ("'=cmd", "'@sum")
