"""Published autoencoder files in our names: latent diffusion's (VA-VAE) and diffusers' (SD-VAE)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from gmem_model.autoencoder.network import Autoencoder
from gmem_model.importing.torch_file import read_torch_file, state_dict
from gmem_model.weights import WeightsFile, differences, without_weights
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import AutoencoderArchitecture

_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_FOLDER_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_ALWAYS = {"norm_num_groups": 32, "act_fn": "silu"}
"""Entries of diffusers' config.json that decide the arithmetic but no weight's shape."""

_NAMES_OF_DIFFUSERS = (
    (r"\bdown_blocks\.", "down."),
    (r"\bmid_block\.resnets\.0\.", "mid.block_1."),
    (r"\bmid_block\.resnets\.1\.", "mid.block_2."),
    (r"\bmid_block\.attentions\.0\.", "mid.attn_1."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    # Two generations of names for attention.
    (r"\.group_norm\.", ".norm."),
    (r"\.(to_q|query)\.", ".q."),
    (r"\.(to_k|key)\.", ".k."),
    (r"\.(to_v|value)\.", ".v."),
    (r"\.(to_out\.0|proj_attn)\.", ".proj_out."),
)


def import_autoencoder(path: Path) -> tuple[AutoencoderArchitecture, dict[str, Tensor]]:
    """Read a published autoencoder.

    Args:
        path: A file of ``torch.save`` or safetensors, or a folder as diffusers saves it.

    Returns:
        The architecture and the state dict of the `Autoencoder`, in the file's precision. What
        only training needed, such as losses and VA-VAE's foundation model, is left out.

    Raises:
        InvalidRequestError: The file holds no such autoencoder, or objects other than tensors and
            plain values.
        CorruptVersionError: A safetensors file does not open.
    """
    file = _file(path)
    weights = {k: v for k, v in _read(file).items() if k.startswith(_PARTS)}
    if any(".down_blocks." in name for name in weights):
        _check_config(file.with_name("config.json"))
        weights = _from_diffusers(weights)
    architecture = _infer(weights, file)
    with without_weights():
        expected = Autoencoder(architecture).state_dict()
    different = differences(expected, weights)
    if different:
        raise InvalidRequestError(
            f"expected {file} to hold an autoencoder of latent diffusion, with {architecture!r} by "
            f"its shapes; {different}"
        )
    return architecture, {name: tensor.contiguous() for name, tensor in weights.items()}


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in _FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise InvalidRequestError(f"expected {' or '.join(_FOLDER_FILES)} in {path}, found neither")


def _read(file: Path) -> Mapping[str, Tensor]:
    if file.suffix == ".safetensors":
        return WeightsFile(file)
    values = read_torch_file(file)
    for member in ("state_dict", "model"):
        if isinstance(values, Mapping) and isinstance(values.get(member), Mapping):
            values = values[member]
    return state_dict(values, file)


def _check_config(path: Path) -> None:
    try:
        config = dict(json.loads(path.read_bytes())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise InvalidRequestError(f"expected a JSON object in {path}: {error}") from error
    for entry, expected in _ALWAYS.items():
        if config.get(entry, expected) != expected:
            raise InvalidRequestError(
                f"expected an autoencoder with {entry} = {expected!r}, found {config[entry]!r} in "
                f"{path}"
            )


def _from_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    top = _count(weights, r"decoder\.up_blocks\.(\d+)\.") - 1

    def rename(name: str) -> str:
        # diffusers counts the decoder's levels as they run, latent diffusion as the encoder's.
        name = re.sub(r"\bup_blocks\.(\d+)\.", lambda found: f"up.{top - int(found[1])}.", name)
        for pattern, ours in _NAMES_OF_DIFFUSERS:
            name = re.sub(pattern, ours, name)
        return name

    renamed = {rename(name): tensor for name, tensor in weights.items()}
    return {name: _as_convolution(name, tensor) for name, tensor in renamed.items()}


def _as_convolution(name: str, tensor: Tensor) -> Tensor:
    """Diffusers stores the 1x1 convolutions of attention as matrices."""
    is_matrix = ".attn" in name and name.endswith(".weight") and tensor.ndim == 2
    return tensor[:, :, None, None] if is_matrix else tensor


def _infer(weights: Mapping[str, Tensor], file: Path) -> AutoencoderArchitecture:
    """Read the sizes off the shapes; what contradicts them is found by comparing all names."""
    try:
        channels, image_channels = weights["encoder.conv_in.weight"].shape[:2]
        levels = _count(weights, r"encoder\.down\.(\d+)\.")
        widths = [
            weights[f"encoder.down.{level}.block.0.conv2.weight"].shape[0]
            for level in range(levels)
        ]
        z_channels = weights["post_quant_conv.weight"].shape[0]
        resolution = AutoencoderArchitecture().resolution
        return AutoencoderArchitecture(
            channels=channels,
            channel_mult=tuple(width // channels for width in widths),
            num_res_blocks=_count(weights, r"encoder\.down\.0\.block\.(\d+)\."),
            attn_resolutions=tuple(
                resolution >> level
                for level in range(levels)
                if f"encoder.down.{level}.attn.0.q.weight" in weights
            ),
            resolution=resolution,
            z_channels=z_channels,
            image_channels=image_channels,
        )
    except (LookupError, ArithmeticError, ValueError) as error:
        raise InvalidRequestError(
            f"expected {file} to hold an autoencoder of latent diffusion, found weights that say "
            f"otherwise: {error}"
        ) from error


def _count(names: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many numbers the pattern captures; gaps are found by comparing all names."""
    found = (re.match(pattern, name) for name in names)
    return len({match[1] for match in found if match})
