"""Networks of the published systems, plain `nn.Module`s."""

from kd_lightning.models.cifar_resnet import CifarResNet
from kd_lightning.models.cnn import CNN
from kd_lightning.models.densenet import densenet121
from kd_lightning.models.layers.dropout import Dropout
from kd_lightning.models.layers.logits import Logits
from kd_lightning.models.mlp import MLP
from kd_lightning.models.pretrained import pretrained
from kd_lightning.models.small_cnn import SmallCNN
from kd_lightning.models.tutorial import DeepNN, LightNN
from kd_lightning.models.vgg import VGG
from kd_lightning.models.wide_resnet import WideResNet

__all__ = [
    "CNN",
    "MLP",
    "VGG",
    "CifarResNet",
    "DeepNN",
    "Dropout",
    "LightNN",
    "Logits",
    "SmallCNN",
    "WideResNet",
    "densenet121",
    "pretrained",
]
