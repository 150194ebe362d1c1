"""Small EDM2 networks, and snapshots of them as the original training program pickles them."""

import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gmem_model.edm2.network import EDM2
from gmem_shared.model_config import EDM2Architecture, LabelCondition, NoCondition

SOURCE = "raise RuntimeError('source text of a snapshot was executed')"


def architecture(num_classes: int = 5, **changes: Any) -> EDM2Architecture:
    sizes = {
        "input_size": 8,
        "in_channels": 3,
        "condition": LabelCondition(num_classes=num_classes) if num_classes else NoCondition(),
        "model_channels": 8,
        "channel_mult": (1, 2),
        "num_blocks": 1,
        "attn_resolutions": (4,),
        "channels_per_head": 8,
        "logvar_channels": 6,
    }
    return EDM2Architecture.model_validate(sizes | changes)


def network(num_classes: int = 5, seed: int = 0, **changes: Any) -> EDM2:
    """Return a network without the zero gains that a fresh one begins with."""
    generator = torch.Generator().manual_seed(seed)
    edm2 = EDM2(architecture(num_classes, **changes), generator=generator)
    with torch.no_grad():
        for parameter in edm2.parameters():
            if parameter.ndim == 0:
                parameter.copy_(0.5 + torch.rand((), generator=generator))
    return edm2.eval()


class EasyDict(dict):
    """Pickled as what the original calls so."""


EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> None:
    raise NotImplementedError("only its name is needed")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    """Pickled as an object of a class whose source text goes into the file."""

    def __init__(self, class_name: str, **state: Any) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": class_name,
            "state": {"_init_args": (), "_init_kwargs": {}, **state},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,)


def snapshot(edm2: EDM2, encoder: str = "StandardRGBEncoder") -> dict[str, Any]:
    """Return what the original program pickles of a network."""
    scale = np.array([0.5, 0.25, 1, 2], np.float32)
    return EasyDict(
        encoder=Persistent(encoder, scale=scale, _vae=None),
        dataset_kwargs=EasyDict(path="images.zip", use_labels=True),
        loss_fn=Persistent("EDM2Loss", P_mean=-0.4, P_std=1.0),
        ema=_module(edm2, "Precond", options(edm2.architecture)),
    )


def options(a: EDM2Architecture) -> dict[str, Any]:
    """Return the arguments of the original's network."""
    ours = {"input_size", "in_channels", "condition", "family"}
    return {
        "img_resolution": a.input_size,
        "img_channels": a.in_channels,
        "label_dim": a.condition.num_classes if isinstance(a.condition, LabelCondition) else 0,
        "use_fp16": True,
        **{name: value for name, value in a.model_dump().items() if name not in ours},
    }


def _module(module: nn.Module, class_name: str, kwargs: dict[str, Any]) -> Any:
    members = {
        "_parameters": {k: v.half() for k, v in module.named_parameters(recurse=False)},
        "_buffers": {k: v.half() for k, v in module.named_buffers(recurse=False)},
        "_modules": {k: _module(v, "Part", {}) for k, v in module.named_children()},
    }
    if isinstance(module, nn.ModuleDict):
        container = nn.ModuleDict()
        container._modules = members["_modules"]
        return container
    members["_modules"]["absent"] = None
    return Persistent(class_name, **members, _init_kwargs=kwargs)


def write(path: Path, content: Any) -> Path:
    """Pickle as the original does: with the names of modules that exist only there."""
    with _original_modules():
        path.write_bytes(pickle.dumps(content))
    return path


@contextmanager
def _original_modules() -> Iterator[None]:
    homes: list[Any] = [EasyDict, _reconstruct_persistent_obj]
    names = [part for home in homes for part in (home.__module__.split(".")[0], home.__module__)]
    sys.modules.update({name: types.ModuleType(name) for name in names})
    for home in homes:
        setattr(sys.modules[home.__module__], home.__name__, home)
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
