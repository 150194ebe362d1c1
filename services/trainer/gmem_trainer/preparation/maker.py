"""What one shard is made of: images in, latents and features out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gmem_model import noise
from gmem_model.encoders import SnippetEncoder
from gmem_model.encoding import LatentEncoder
from gmem_trainer.data import Images, Source
from gmem_trainer.preparation.shards import (
    FLIPPED,
    LABELS,
    LATENTS,
    SNIPPETS,
    SOURCE_IDS,
    TOKENS,
    Array,
    shard_path,
    write_shard,
)

BATCH_BYTES = 32 << 20
"""Pixels that are encoded at once."""


@dataclass(frozen=True, slots=True)
class ShardMaker:
    """Embeds and encodes images.

    A shard depends on its images alone: whoever makes it, in whatever order, writes the same bytes.

    Attributes:
        source: The images.
        folder: Receives the shards.
        shard_rows: Images per shard; the last one may have fewer.
        latents: Encodes pixels, without the scaling of a latent space.
        encoder: Makes snippets and tokens; ``None`` for networks that need neither.
        tokens: Whether the encoder's tokens are kept, too.
        flip: Whether mirrored images are prepared as well.
        device: Where autoencoder and encoder are.
        threads: CPU threads.
    """

    source: Source
    folder: Path
    shard_rows: int
    latents: LatentEncoder
    encoder: SnippetEncoder | None
    tokens: bool
    flip: bool
    device: torch.device
    threads: int

    @property
    def count(self) -> int:
        """Number of shards."""
        return -(-len(self.source) // self.shard_rows)

    def rows_of(self, shard: int) -> NDArray[np.int64]:
        """Return the positions of a shard's images in the source."""
        start = shard * self.shard_rows
        return np.arange(start, min(start + self.shard_rows, len(self.source)))

    def make(self, shard: int, done: Callable[[int], None] = lambda images: None) -> None:
        """Make one shard; ``done`` is told how many images were finished since it was told last."""
        torch.set_num_threads(self.threads)
        rows = self.rows_of(shard)
        parts = []
        for some in np.array_split(rows, -(-len(rows) // self._batch_rows(rows[:1]))):
            parts.append(self._encode(self.source.read(some)))
            done(len(some))
        write_shard(
            shard_path(self.folder, shard),
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        )

    def _batch_rows(self, one: NDArray[np.int64]) -> int:
        image = self.source.read(one).pixels
        return max(1, BATCH_BYTES // max(image.nbytes, 1))

    def _encode(self, images: Images) -> dict[str, Array]:
        tensors = self._views(images, "", images.pixels)
        if self.flip:
            tensors |= self._views(images, FLIPPED, images.pixels[..., ::-1].copy())
        labels = images.labels.astype(np.int64)
        return tensors | {LABELS: labels, SOURCE_IDS: images.source_ids}

    @torch.no_grad()
    def _views(self, images: Images, suffix: str, pixels: NDArray[np.float32]) -> dict[str, Array]:
        on_device = torch.from_numpy(pixels).to(self.device)
        chosen = self._posterior_noise(images, seed=1 if suffix else 0)
        tensors = {LATENTS: self.latents(on_device, chosen)}
        if self.encoder is not None:
            features = self.encoder.features(on_device)
            tensors[SNIPPETS] = features.snippets
            if self.tokens:
                tensors[TOKENS] = features.tokens
        return {name + suffix: tensor.float().cpu().numpy() for name, tensor in tensors.items()}

    def _posterior_noise(self, images: Images, seed: int) -> torch.Tensor | None:
        """Choose latents of the posterior: a matter of the image's source id alone."""
        if not self.latents.samples:
            return None
        count, (channels, height, width) = len(images), images.pixels.shape[1:]
        shape = self.latents.latent_shape((channels, height, width))
        seeds, stages = np.full(count, seed, np.uint64), np.zeros(count, np.int64)
        chosen = noise.normal(seeds, images.source_ids, stages, shape)
        return torch.from_numpy(chosen).to(self.device, torch.float32)
