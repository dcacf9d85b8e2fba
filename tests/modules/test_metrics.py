import math

import pytest
import sklearn.metrics
import torch
from torch import Tensor, nn

from kd_lightning.modules.metrics import ClassCounts, EvaluationMetrics, RunningMeans
from kd_lightning.modules.stacked_students import MembersEvaluation

# Probabilities of two classes; the student names 0, 0, 1, 0 and is right, wrong, wrong, right.
LOGITS = torch.tensor([[0.90, 0.10], [0.87, 0.13], [0.30, 0.70], [0.62, 0.38]]).log()
LABEL = torch.tensor([0, 1, 0, 0])
TEACHER = torch.tensor([[2.0, 1.0], [-1.0, 3.0], [0.0, 5.0], [1.0, 0.5]])  # names 0, 1, 1, 0


def floats(figures: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in figures.items()}


def test_running_means_weigh_each_batch_by_its_images() -> None:
    means = RunningMeans()
    means.update({"loss": torch.tensor(1.0), "accuracy": torch.tensor(0.5)}, images=3)
    means.update({"loss": torch.tensor(5.0), "accuracy": torch.tensor(1.0)}, images=1)
    found, wrong = means.compute()
    assert floats(found) == {"loss": 2.0, "accuracy": 0.625}
    assert not wrong


def test_running_means_start_anew_after_they_are_read() -> None:
    means = RunningMeans()
    means.update({"loss": torch.tensor(100.0)}, images=2)
    means.compute()
    assert means.compute() == ({}, "")
    means.update({"loss": torch.tensor(3.0)}, images=1)
    assert floats(means.compute()[0]) == {"loss": 3.0}


def test_running_means_keep_no_graph() -> None:
    means = RunningMeans()
    means.update({"loss": torch.tensor(1.0, requires_grad=True)}, images=2)
    assert not means.compute()[0]["loss"].requires_grad


def test_running_means_go_on_from_their_state() -> None:
    means, resumed = RunningMeans(), RunningMeans()
    means.update({"loss": torch.tensor(1.0)}, images=3)
    resumed.load(means.state(), torch.device("cpu"))
    for either in (means, resumed):
        either.update({"loss": torch.tensor(5.0)}, images=1)
        assert floats(either.compute()[0]) == {"loss": 2.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_running_means_say_what_was_first_not_finite(value: float) -> None:
    means, good = RunningMeans(), torch.tensor(1.0)
    bad = torch.tensor(value)
    assert not means.update({"loss": good, "hard_loss": good, "soft_loss": good}, images=2)
    assert means.update({"loss": bad, "hard_loss": good, "soft_loss": bad}, 2) == "soft_loss is not finite in batch 2"
    assert means.update({"loss": bad, "hard_loss": bad, "soft_loss": bad}, 2) == "soft_loss is not finite in batch 2"
    assert means.compute()[1] == "soft_loss is not finite in batch 2"
    assert means.update({"loss": bad}, 2) == "loss is not finite in batch 1"


def test_each_figure_of_four_images_is_the_one_worked_out_by_hand() -> None:
    metrics = EvaluationMetrics()
    metrics.update(LOGITS, LABEL, TEACHER)
    # The teacher's probability of the first class, from the difference of its logits, against the student's.
    teacher = [1 / (1 + math.exp(-difference)) for difference in (1.0, -4.0, -5.0, 0.5)]
    pairs = zip(teacher, (0.90, 0.87, 0.30, 0.62), strict=True)
    divergence = sum(t * math.log(t / s) + (1 - t) * math.log((1 - t) / (1 - s)) for t, s in pairs) / 4
    # Of class 0 two of three are found, and two of three that are named 0 are of it; of class 1 none.
    recalls, f1 = (2 / 3, 0), (2 / 3, 0)
    # In bins of 1/15, 0.90 and 0.87 fall together: half of them right. 0.70 (wrong) and 0.62 (right) are alone.
    calibration = 2 / 4 * abs(0.5 - 0.885) + 1 / 4 * 0.70 + 1 / 4 * (1 - 0.62)
    assert floats(metrics.compute()) == pytest.approx(
        {
            "accuracy": 0.5,
            "errors": 2.0,
            "nll": -(math.log(0.90) + math.log(0.13) + math.log(0.30) + math.log(0.62)) / 4,
            "calibration_error": calibration,
            "macro_f1": sum(f1) / 2,
            "balanced_accuracy": sum(recalls) / 2,
            "agreement": 0.75,
            "teacher_kl": divergence,
        },
        abs=1e-6,
    )


def test_figures_do_not_depend_on_how_the_images_are_batched() -> None:
    whole, parts = EvaluationMetrics(), EvaluationMetrics()
    whole.update(LOGITS, LABEL, TEACHER)
    for part in (slice(0, 3), slice(3, 4)):
        parts.update(LOGITS[part], LABEL[part], TEACHER[part])
    assert floats(parts.compute()) == pytest.approx(floats(whole.compute()), abs=1e-6)


def test_figures_start_anew_after_they_are_read() -> None:
    metrics = EvaluationMetrics()
    metrics.update(LOGITS, LABEL, TEACHER)
    metrics.compute()
    metrics.update(LOGITS[:1], LABEL[:1])
    figures = floats(metrics.compute())
    assert figures == pytest.approx(
        {
            "accuracy": 1.0,
            "errors": 0.0,
            "nll": -math.log(0.90),
            "calibration_error": 0.10,
            "macro_f1": 1.0,
            "balanced_accuracy": 1.0,
        },
        abs=1e-6,
    )


# Of three, two, one, none and none images of five classes; the last is never named.
CLASS_LABEL = torch.tensor([0, 0, 0, 1, 1, 2])
NAMED = torch.tensor([0, 0, 1, 1, 3, 0])


def test_the_figures_of_each_class_are_the_ones_worked_out_by_hand() -> None:
    counts = ClassCounts()
    for rows in (slice(0, 4), slice(4, 6)):
        counts.update(NAMED[rows], CLASS_LABEL[rows], classes=5)
    assert counts.total().tolist() == [[3, 2, 1, 0, 0], [3, 2, 0, 1, 0], [2, 1, 0, 0, 0]]
    figures = {name: values.tolist() for name, values in counts.figures().items()}
    assert figures == {
        "recall": pytest.approx([2 / 3, 1 / 2, 0, 0, 0]),
        "precision": pytest.approx([2 / 3, 1 / 2, 0, 0, 0]),
        "f1": pytest.approx([2 / 3, 1 / 2, 0, 0, 0]),
    }
    means = floats(counts.compute())
    # No image of class 4, nor is it named; no image of class 3.
    assert means == pytest.approx({"macro_f1": (2 / 3 + 1 / 2) / 4, "balanced_accuracy": (2 / 3 + 1 / 2) / 3})


def test_the_figures_of_each_class_are_those_of_scikit_learn() -> None:
    random = torch.Generator().manual_seed(0)
    label, named = (torch.randint(first, last, (200,), generator=random) for first, last in ((0, 7), (2, 9)))
    counts = ClassCounts()
    counts.update(named, label, classes=10)
    options = {"labels": range(10), "zero_division": 0}
    precision, recall, f1, images = sklearn.metrics.precision_recall_fscore_support(label, named, **options)
    figures = counts.figures()
    assert figures["precision"].tolist() == pytest.approx(precision.tolist(), abs=1e-12)
    assert figures["recall"].tolist() == pytest.approx(recall.tolist(), abs=1e-12)
    assert figures["f1"].tolist() == pytest.approx(f1.tolist(), abs=1e-12)
    assert counts.total()[0].tolist() == images.tolist()
    balanced = recall[:7].mean()  # scikit-learn's function says so too, with a warning
    macro_f1 = sklearn.metrics.f1_score(label, named, average="macro", zero_division=0)
    assert floats(counts.compute()) == pytest.approx({"macro_f1": macro_f1, "balanced_accuracy": balanced})


def test_the_label_is_among_the_five_most_probable_classes_from_twenty_classes_on() -> None:
    logits = torch.arange(20.0).repeat(4, 1)  # 19, 18, 17, 16 and 15 are the five
    metrics = EvaluationMetrics()
    metrics.update(logits, torch.tensor([19, 15, 14, 0]))
    figures = floats(metrics.compute())
    assert (figures["accuracy"], figures["top5_accuracy"]) == (0.25, 0.5)
    metrics.update(logits[:, :19], torch.tensor([18, 15, 14, 0]))
    assert "top5_accuracy" not in metrics.compute()


def test_the_divergence_from_the_teacher_is_the_literal_one_and_nothing_where_both_say_the_same() -> None:
    metrics = EvaluationMetrics()
    label, certain = torch.tensor([0]), torch.tensor([[1e4, 0.0]])
    # The teacher says 3/4 and 1/4, the student half and half: 3/4 log(3/2) + 1/4 log(1/2).
    metrics.update(torch.tensor([[0.0, 0.0]]), label, torch.tensor([[math.log(3.0), 0.0]]))
    assert metrics.compute()["teacher_kl"].item() == pytest.approx(0.130812, abs=1e-6)
    metrics.update(certain, label, certain)
    assert metrics.compute()["teacher_kl"].item() == 0.0


def test_without_a_teacher_there_is_no_agreement_and_without_images_no_figure() -> None:
    metrics = EvaluationMetrics()
    assert metrics.compute() == {}
    metrics.update(LOGITS, LABEL)
    by_class = {"macro_f1", "balanced_accuracy"}
    assert set(metrics.compute()) == {"accuracy", "errors", "nll", "calibration_error", *by_class}


def test_half_precision_logits_are_measured_in_float32() -> None:
    metrics = EvaluationMetrics()
    metrics.update(LOGITS.bfloat16(), LABEL)
    nll = torch.nn.functional.cross_entropy(LOGITS.bfloat16().float(), LABEL)
    assert metrics.compute()["nll"].item() == pytest.approx(nll.item(), abs=1e-6)


def cast(metrics: nn.Module) -> nn.Module:
    return nn.ModuleList([metrics]).to(torch.bfloat16)[0]  # with its module, as a precision of bf16-true does


@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16])
def test_figures_are_the_same_where_their_module_is_cast(default: torch.dtype) -> None:
    torch.set_default_dtype(default)  # as Lightning does where a model is made in its precision
    try:
        half = cast(EvaluationMetrics())
    finally:
        torch.set_default_dtype(torch.float32)
    whole, several = EvaluationMetrics(), cast(MembersEvaluation(1))
    random = torch.Generator().manual_seed(0)
    logits, label = torch.randn(700, 10, generator=random), torch.arange(700) % 10
    for rows in torch.arange(700).split(1):  # of which bfloat16 would count 256
        for each in (whole, half):
            each.update(logits[rows], label[rows], logits[rows.flip(0)] / 2)
        several.update(logits[None, rows], label[rows])
    expected = floats(whole.compute())
    assert expected["errors"] > 256
    assert floats(half.compute()) == expected
    members = floats(several.compute())
    assert members == pytest.approx({name: expected[name] for name in members})


def test_nothing_measured_goes_into_a_checkpoint() -> None:
    metrics = EvaluationMetrics()
    metrics.update(LOGITS, LABEL, TEACHER)
    assert metrics.state_dict() == {}


def test_a_confidence_of_one_falls_into_the_last_bin() -> None:
    logits = torch.tensor([[200.0, 0.0], [2.9444389792, 0.0]])  # confidences 1 and 0.95, both in (14/15, 1]
    metrics = EvaluationMetrics()
    metrics.update(logits, torch.tensor([1, 0]))  # the first wrong, the second right
    assert metrics.compute()["calibration_error"].item() == pytest.approx(0.975 - 0.5, abs=1e-5)
