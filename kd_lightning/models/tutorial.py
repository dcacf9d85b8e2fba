"""Teacher and student of the PyTorch knowledge distillation tutorial."""

from collections import OrderedDict

from torch import nn

from kd_lightning.models.layers.dropout import Dropout
from kd_lightning.models.layers.logits import Logits


class DeepNN(nn.Sequential):
    """The tutorial's teacher: four 3x3 convolutions with two 2x2 max-pools, then two linear layers.

    The layers are named as in the tutorial, so that weights saved there fit. `features` gives the last pooled
    maps: (B, 32, image_size / 4, image_size / 4).

    Args:
        image_size: height and width of the (square) colour image, in pixels.
        num_classes: outputs.

    Raises:
        ValueError: the image is too small for two halvings.

    Source: Knowledge Distillation Tutorial, docs.pytorch.org/tutorials/beginner/knowledge_distillation_tutorial.html.
    """

    def __init__(self, image_size: int = 32, num_classes: int = 10) -> None:
        features = nn.Sequential(
            nn.Conv2d(3, 128, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        classifier = _classifier(32, 512, image_size, num_classes)
        super().__init__(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


class LightNN(nn.Sequential):
    """The tutorial's student: two 3x3 convolutions with a 2x2 max-pool each, then two linear layers.

    Named as `DeepNN`; `features` gives (B, 16, image_size / 4, image_size / 4).

    Args:
        image_size: height and width of the (square) colour image, in pixels.
        num_classes: outputs.

    Raises:
        ValueError: the image is too small for two halvings.

    Source: Knowledge Distillation Tutorial, docs.pytorch.org/tutorials/beginner/knowledge_distillation_tutorial.html.
    """

    def __init__(self, image_size: int = 32, num_classes: int = 10) -> None:
        features = nn.Sequential(
            nn.Conv2d(3, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        classifier = _classifier(16, 256, image_size, num_classes)
        super().__init__(OrderedDict(features=features, flatten=nn.Flatten(), classifier=classifier))


def _classifier(channels: int, hidden: int, image_size: int, num_classes: int) -> nn.Sequential:
    size = image_size // 4
    if size < 1:
        raise ValueError(f"image_size {image_size} is too small for 2 halvings")
    return nn.Sequential(
        nn.Linear(channels * size * size, hidden),
        nn.ReLU(),
        Dropout(0.1),
        Logits(hidden, num_classes),
    )
