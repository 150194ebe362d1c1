"""Named architectures: every published size of every family, and our own small ones.

| names | sizes | patch sizes or data | condition |
|---|---|---|---|
| ``SiT-XL/2`` | S B L XL | 2 4 8 | class label (arXiv 2401.08740) |
| ``REPA-SiT-XL/2`` | S B L XL | 2 4 8 | class label; projector (arXiv 2410.06940) |
| ``GMem-SiT-XL/2`` | S B L XL | 2 4 8 | snippet; projector (GMem v1, arXiv 2412.08781) |
| ``LightningDiT-XL/1`` | S B L XL 1p0B 1p6B | 1 2 | snippet; projector (GMem v2) |
| ``EDM2-img512-xs`` | xxs xs s m l xl xxl | img512, img64 | class label (arXiv 2312.02696) |
| ``EDM2-img512-xs-uncond`` | xs s | img512 | none; guides the others |
| ``digits`` | | 8 x 8 grey pixels | snippet |
"""

from __future__ import annotations

import math
from typing import Any

from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import (
    Architecture,
    EDM2Architecture,
    LabelCondition,
    LightningDiTArchitecture,
    NoCondition,
    SiTArchitecture,
    SnippetCondition,
)

IMAGENET_CLASSES = 1000
DINOV2_WIDTH = 768

_TRANSFORMER_SIZES = {  # depth, width, heads: DiT (arXiv 2212.09748), table 1, and two of GMem v2
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
    "1p0B": (24, 1536, 24),
    "1p6B": (28, 1792, 28),
}
_SIT_SIZES = tuple(f"{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (2, 4, 8))
_LIGHTNINGDIT_SIZES = (
    *("S/1", "B/1", "B/2", "L/2", "XL/1", "XL/2"),
    *("1p0B/1", "1p0B/2", "1p6B/1", "1p6B/2"),
)
_EDM2_CHANNELS = {"xxs": 64, "xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
_EDM2_WITHOUT_DROPOUT = ("xxs", "xs", "s")
_LABEL = LabelCondition(num_classes=IMAGENET_CLASSES)


def _sizes(size: str) -> dict[str, Any]:
    name, patch = size.split("/")
    depth, width, heads = _TRANSFORMER_SIZES[name]
    return {"depth": depth, "hidden_size": width, "num_heads": heads, "patch_size": int(patch)}


def _sit(size: str) -> SiTArchitecture:
    return SiTArchitecture(
        input_size=32, in_channels=4, condition=_LABEL, learn_sigma=True, **_sizes(size)
    )


def _repa(size: str, condition: LabelCondition | SnippetCondition) -> SiTArchitecture:
    return SiTArchitecture(
        input_size=32,
        in_channels=4,
        condition=condition,
        projector_outputs=(DINOV2_WIDTH,),
        **_sizes(size),
    )


def _lightningdit(size: str) -> LightningDiTArchitecture:
    return LightningDiTArchitecture(
        input_size=16, in_channels=32, projector_outputs=(DINOV2_WIDTH,), **_sizes(size)
    )


def _edm2(
    size: str, data: str, condition: LabelCondition | NoCondition = _LABEL
) -> EDM2Architecture:
    return EDM2Architecture(
        input_size=64,
        in_channels=4 if data == "img512" else 3,
        condition=condition,
        model_channels=_EDM2_CHANNELS[size],
        dropout=0.0 if size in _EDM2_WITHOUT_DROPOUT else 0.1,
    )


DIGITS = SiTArchitecture(
    input_size=8,
    patch_size=4,
    in_channels=1,
    hidden_size=96,
    depth=4,
    num_heads=4,
    # A unit vector of 64 entries is far smaller than the unit-variance input that Xavier's
    # initialisation expects; sqrt(64) restores it and speeds training up several times.
    condition=SnippetCondition(dimension=64, scale=math.sqrt(64)),
)

PRESETS: dict[str, Architecture] = {
    **{f"SiT-{size}": _sit(size) for size in _SIT_SIZES},
    **{f"REPA-SiT-{size}": _repa(size, _LABEL) for size in _SIT_SIZES},
    **{f"GMem-SiT-{size}": _repa(size, SnippetCondition()) for size in _SIT_SIZES},
    **{f"LightningDiT-{size}": _lightningdit(size) for size in _LIGHTNINGDIT_SIZES},
    **{f"EDM2-img512-{size}": _edm2(size, "img512") for size in _EDM2_CHANNELS},
    **{f"EDM2-img64-{size}": _edm2(size, "img64") for size in _EDM2_CHANNELS if size[:2] != "xx"},
    **{f"EDM2-img512-{size}-uncond": _edm2(size, "img512", NoCondition()) for size in ("xs", "s")},
    "digits": DIGITS,
}


def preset(name: str) -> Architecture:
    """Return a named architecture.

    Raises:
        InvalidRequestError: No preset has this name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise InvalidRequestError(
            f"expected one of the presets {', '.join(PRESETS)}; found {name!r}"
        ) from None
