"""Named network sizes."""

from __future__ import annotations

import math

from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import SiTArchitecture, SnippetCondition

_SIZES = {  # depth, width, heads: DiT (arXiv 2212.09748), table 1
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}

PRESETS: dict[str, SiTArchitecture] = {
    f"SiT-{size}/{patch_size}": SiTArchitecture(
        input_size=32,
        patch_size=patch_size,
        in_channels=4,
        hidden_size=width,
        depth=depth,
        num_heads=heads,
        condition=SnippetCondition(),
        projector_outputs=(768,),
    )
    for size, (depth, width, heads) in _SIZES.items()
    for patch_size in (2, 4, 8)
}
"""GMem v1 as published: 256-pixel images in the Stable Diffusion latent space, DINOv2 snippets."""

PRESETS["digits"] = SiTArchitecture(
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


def preset(name: str) -> SiTArchitecture:
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
