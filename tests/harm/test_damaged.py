"""A file that was cut short, changed or swapped is named or made anew: never a wrong number."""

import random
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from kd_lightning.__main__ import main
from kd_lightning.checkpoints.description import Description
from kd_lightning.checkpoints.weights import load_weights
from kd_lightning.data.decode import Decoder
from kd_lightning.data.image_cache import decode_all
from kd_lightning.errors import UserError
from kd_lightning.export import ImageClassifier, Predictor, Reference, export_int8, export_network, open_exported
from kd_lightning.models import MLP
from kd_lightning.teachers import LogitCache

PLACES = 200


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def harms(content: bytes, count: int) -> list[tuple[str, bytes]]:
    """Files made of one, at random places: cut short, a bit flipped, a hundred bytes of something else."""
    draw = random.Random(0)
    found = []
    for number in range(count):
        place = draw.randrange(len(content))
        kind = ("cut", "flip", "overwritten")[number % 3]
        if kind == "cut":
            made = content[:place]
        elif kind == "flip":
            made = flipped(content, place, draw.randrange(8))
        else:
            made = content[:place] + draw.randbytes(100) + content[place + 100 :]
        found.append((f"{kind} at {place}", made))
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def assert_named_or_unharmed(file: Path, expected: dict[str, Tensor], what: str) -> bool:
    """Load a file's weights: whether it was named as wrong."""
    network = MLP([64, 16, 10])
    named = False
    try:
        load_weights(network, file, "teacher_ckpt")
    except UserError as error:
        named = str(file) in str(error)
    assert named or same(network.state_dict(), expected), what
    return named


def test_checkpoints_damaged_at_200_places_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *CONFIG]) == 0
    file = tmp_path / "logs/lightning_logs/version_0/checkpoints/last.ckpt"
    network = MLP([64, 16, 10])
    load_weights(network, file, "teacher_ckpt")
    damaged = tmp_path / "damaged.ckpt"
    named = 0
    for what, content in harms(file.read_bytes(), PLACES):
        damaged.write_bytes(content)
        named += assert_named_or_unharmed(damaged, network.state_dict(), what)
    assert named == PLACES


CONFIG = [
    "--model=kd_lightning.modules.TeacherModule",
    "--model.net=kd_lightning.models.MLP",
    "--model.net.widths=[64,16,10]",
    "--data=kd_lightning.data.DigitsDataModule",
    "--data.train_size=100",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.default_root_dir=logs",
    "--trainer.enable_model_summary=false",
]


def test_every_flipped_bit_of_a_small_file_is_named_or_changes_nothing(tmp_path: Path) -> None:
    network = MLP([64, 16, 10])
    torch.save(network.state_dict(), tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    directory = content.index(b"PK\x01\x02")
    # The weights themselves: some places. What says where they are: every one.
    places = [*range(0, directory, 97), *range(directory, len(content))]
    damaged = tmp_path / "damaged.pt"
    for place in places:
        damaged.write_bytes(flipped(content, place, (place * 5 + 4) % 8))
        assert_named_or_unharmed(damaged, network.state_dict(), f"flip at {place}")


@pytest.mark.parametrize("name", ["theirs.safetensors", "of_old.pt"])
def test_a_changed_number_in_a_format_without_a_checksum_is_not_noticed(name: str, tmp_path: Path) -> None:
    """As docs/reliability.md says: it is of others, and nothing in it tells."""
    expected, file = MLP([64, 16, 10]).state_dict(), tmp_path / name
    if name == "of_old.pt":
        torch.save(expected, file, _use_new_zipfile_serialization=False)
    else:
        save_file(expected, file)
    file.write_bytes(flipped(file.read_bytes(), file.stat().st_size - 1, 1))
    network = MLP([64, 16, 10])
    load_weights(network, file, "teacher_ckpt")
    assert not same(network.state_dict(), expected)


def test_a_folder_in_place_of_a_tensor_is_named(tmp_path: Path) -> None:
    """Where a zip's directory calls a part a folder, torch reads zeros, and the checksum fits."""
    torch.save(MLP([64, 16, 10]).state_dict(), tmp_path / "weights.pt")
    content = (tmp_path / "weights.pt").read_bytes()
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data/0"))
    (tmp_path / "weights.pt").write_bytes(flipped(content, entry + 38, 4))  # where its attributes are
    with pytest.raises(UserError, match=r"weights\.pt is damaged: its checksums do not fit"):
        load_weights(MLP([64, 16, 10]), tmp_path / "weights.pt", "teacher_ckpt")


def test_another_network_s_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save(MLP([64, 8, 10]).state_dict(), tmp_path / "student.pt")
    with pytest.raises(UserError, match=r"student\.pt do not fit MLP: .* is 8x64 in the file and 16x64"):
        load_weights(MLP([64, 16, 10]), tmp_path / "student.pt", "teacher_ckpt")


@pytest.mark.parametrize("place", [10, -100])
def test_a_damaged_checkpoint_ends_a_command_in_one_line(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *CONFIG]) == 0
    file = Path("logs/lightning_logs/version_0/checkpoints/last.ckpt")
    content = file.read_bytes()
    file.write_bytes(flipped(content, place % len(content), 3))
    for command in (["test"], ["fit"]):
        capsys.readouterr()
        assert main([*command, *CONFIG, f"--ckpt_path={file}"]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"kd-lightning: error: ckpt_path: {file} ")


def test_a_checkpoint_swapped_with_another_run_s_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        assert main(["fit", *CONFIG, f"--seed_everything={seed}", f"--trainer.default_root_dir=run_{seed}"]) == 0
    ours, other = (Path(f"run_{seed}/lightning_logs/version_0") for seed in (0, 1))
    shutil.copy(other / "checkpoints" / "last.ckpt", ours / "checkpoints" / "last.ckpt")
    student = ["--model=kd_lightning.modules.DistillModule", *CONFIG[1:], "--model.teacher=kd_lightning.models.MLP"]
    teacher = ["--model.teacher.widths=[64,16,10]", f"--model.teacher_ckpt={ours}"]
    for words in (
        ["test", *CONFIG, f"--ckpt_path={ours}"],
        ["fit", *CONFIG, f"--ckpt_path={ours}"],
        ["fit", *student, *teacher],
    ):
        capsys.readouterr()
        assert main(words) == 2
        assert f"{ours}/checkpoints/" in (said := capsys.readouterr().err.splitlines()[-1])
        assert " is a checkpoint of another run: label " in said
    assert main(["test", *CONFIG, f"--ckpt_path={other}"]) == 0


def test_answers_swapped_with_another_table_s_are_asked_for_again(tmp_path: Path) -> None:
    names = [f"last.ckpt.logits-0123456789abcdef-fedcba987654321{number}.safetensors" for number in (0, 1)]
    for name in names:
        table = LogitCache(torch.arange(5), 5, 1, 10, file=tmp_path / name)
        index, view = table.missing()
        table.look_up(index, view, lambda rows: torch.randn(5, 10)[rows])
        table.save()
    shutil.copy(tmp_path / names[0], tmp_path / names[1])
    found = LogitCache(torch.arange(5), 5, 1, 10, file=tmp_path / names[1])
    with pytest.warns(UserWarning, match="it belongs to another cache"):
        found.load()
    assert len(found.missing()[0]) == 5


def test_answers_damaged_at_200_places_are_asked_for_again(tmp_path: Path) -> None:
    file = tmp_path / "last.ckpt.logits-0123456789abcdef-fedcba9876543210.safetensors"

    def table() -> LogitCache:
        return LogitCache(torch.arange(30), 30, 4, 10, file=file)

    kept = table()
    index, view = kept.missing()
    answers = torch.randn(len(index), 10)
    kept.look_up(index, view, lambda rows: answers[rows])
    kept.save()
    for what, content in harms(file.read_bytes(), PLACES):
        file.write_bytes(content)
        found = table()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.load()
        assert torch.equal(found.table, kept.table) or bool((found.table == -torch.inf).all()), what


SMALL = Description(("a", "b", "c"), (1, 4, 4), (1, 4, 4), (0.5,), (0.25,))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network's exported files by their names."""
    folder = tmp_path_factory.mktemp("exports")
    for suffix in (".onnx", ".pt2"):
        torch.manual_seed(0)
        export_network(MLP([16, 8, 8, 3]), SMALL, folder / f"model{suffix}")
    noise = [torch.randint(0, 256, (20, 1, 4, 4), dtype=torch.uint8)]
    reference = Reference.of(ImageClassifier(MLP([16, 8, 8, 3]), SMALL), noise)
    export_int8(folder / "model.onnx", noise, folder / "int8.onnx", reference)
    return {file.name: file for file in folder.iterdir()}


def opened(file: Path) -> tuple[Predictor | None, str]:
    """What is in an exported file, or why it is refused."""
    try:
        return open_exported(file, "model")[1], ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("name", ["model.onnx", "int8.onnx", "model.pt2"])
def test_exported_files_damaged_anywhere_are_named(name: str, exports: dict[str, Path], tmp_path: Path) -> None:
    content = exports[name].read_bytes()
    draw = random.Random(1)
    flips = [(draw.randrange(len(content)), draw.randrange(8)) for _ in range(PLACES)]
    ends = [(place, place % 8) for place in range(len(content) - 150, len(content))]  # where the digest is
    made = [(f"flip of bit {bit} at {place}", flipped(content, place, bit)) for place, bit in (*flips, *ends)]
    made += [(f"cut at {place}", content[:place]) for place in range(len(content) - 150, len(content))]
    image = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    expected, unharmed = open_exported(exports[name], "model")[1](image), 0
    for what, damaged in (*made, *harms(content, PLACES)):
        (tmp_path / name).write_bytes(damaged)
        answer, message = opened(tmp_path / name)
        if answer is None:
            assert re.fullmatch(rf"model: \S*{name} (is damaged|cannot be read|has no description)\b.*", message), what
        else:
            assert torch.equal(answer(image), expected), what
            unharmed += 1
    assert unharmed <= 4  # bits of the length of a zip archive's comment


def test_exported_files_without_a_digest_are_read_with_a_warning(
    exports: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As an earlier version wrote them."""
    monkeypatch.setattr("kd_lightning.export.formats.KEY", "before")
    monkeypatch.setattr("kd_lightning.export.export.write_digest", lambda path: None)
    images = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    for suffix in (".onnx", ".pt2"):
        torch.manual_seed(0)
        export_network(MLP([16, 8, 8, 3]), SMALL, tmp_path / f"model{suffix}")
        caplog.clear()
        _, answer = open_exported(tmp_path / f"model{suffix}", "predict")
        assert [record.getMessage() for record in caplog.records] == [
            f"predict: {tmp_path}/model{suffix} has no digest, as files of earlier versions: damage cannot be "
            "detected; export it again"
        ]
        assert torch.equal(answer(images), open_exported(exports[f"model{suffix}"], "predict")[1](images))


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_predict_refuses_a_damaged_export_in_one_line(
    name: str, exports: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = exports[name].read_bytes()
    (tmp_path / name).write_bytes(flipped(content, len(content) // 2, 3))
    Image.new("L", (4, 4)).save(tmp_path / "image.png")
    words = ["predict", str(tmp_path / name), str(tmp_path / "image.png"), f"--output={tmp_path}/out.csv"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kd-lightning: error: predict: {tmp_path / name} is damaged, or was changed since")
    assert not (tmp_path / "out.csv").exists()


def test_decoded_images_swapped_with_those_of_other_files_are_decoded_again(tmp_path: Path) -> None:
    decoder = Decoder(1, 8, crop=True)
    for number in range(2):
        Image.new("L", (12, 12), 100 * number).save(tmp_path / f"{number}.png")
        decode_all([tmp_path / f"{number}.png"], decoder, tmp_path / str(number), "train")
    (ours,), (other,) = ((tmp_path / str(number)).glob("train-*") for number in range(2))
    shutil.rmtree(ours)
    shutil.copytree(other, ours)
    image = decode_all([tmp_path / "0.png"], decoder, tmp_path / "0", "train").image
    assert image is not None
    assert image.unique().tolist() == [0]


def test_decoded_images_damaged_at_200_places_are_decoded_again(tmp_path: Path) -> None:
    files = []
    for number in range(8):
        files.append(tmp_path / f"{number}.png")
        Image.effect_noise((12, 12), 50).save(files[-1])
    decoder, folder = Decoder(1, 8, crop=True), tmp_path / "cache"

    def decoded() -> Tensor:
        image = decode_all(files, decoder, folder, "train").image
        assert image is not None
        return image.clone()

    expected = decoded()
    for name in ("images.bin", "report.json", "digests.bin"):
        (kept,) = folder.glob(f"train-*/{name}")
        for what, content in harms(kept.read_bytes(), PLACES // 2):
            kept.write_bytes(content)
            assert torch.equal(decoded(), expected), f"{name} {what}"
