"""timm's networks in a config: `timm.create_model` with a `model_name`, or a function such as `timm.models.resnet18`.

timm is imported only where a config names it.
"""

from difflib import get_close_matches
from typing import Any

from kd_lightning.errors import UserError
from kd_lightning.models.config import TIMM, home_of, options_of

CREATE = "create_model"
"""timm's function that makes a network by its name."""


def is_timm(network: Any) -> bool:
    """Return whether a config's network is one of timm."""
    return home_of(network).startswith(TIMM)


def check_name(network: Any) -> None:
    """Raise `UserError`, with similar names, for a `model_name` that timm does not know."""
    from timm import is_model, list_models
    from timm.models import split_model_name_tag

    name = _name(network)
    if ":" in name or "/" in name or is_model(split_model_name_tag(name)[0]):  # a hub's name, which timm checks
        return
    close = get_close_matches(name, list_models(), cutoff=0.5) or ["resnet18"]
    raise UserError(
        f"model_name: {name} found, the name of a network of timm expected, such as {', '.join(close)}; "
        "timm.list_models('*resnet*') in Python lists them"
    )


def needs_image_size(network: Any) -> bool:
    """Return whether a network is built for one image size, as vision transformers are; it takes `img_size` then."""
    from timm.models import get_pretrained_cfg

    published = get_pretrained_cfg(_name(network).rpartition("/")[2], allow_unregistered=True)
    return bool(published and published.fixed_input_size)


def _name(network: Any) -> str:
    """Return the name of a network in timm."""
    name = network.class_path.rpartition(".")[2]
    return str(options_of(network).get("model_name")) if name == CREATE else name
