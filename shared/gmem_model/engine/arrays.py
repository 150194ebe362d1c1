"""Arrays for the state of rows: numpy's on a CPU, PyTorch's on a GPU.

An evaluation does some twenty operations on a few kilobytes per array, beside a network that may
take a millisecond. Each costs numpy a third of what it costs PyTorch. Indexing, arithmetic and
assignment are written alike; what is not is here. The bits are the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model import noise

Array = Any
"""``numpy.ndarray`` or `Tensor`, by where the networks are."""


_NUMPY_TYPES = {torch.float32: np.float32, torch.float64: np.float64}


class Arrays(ABC):
    """What differs between the two."""

    @abstractmethod
    def zeros(self, *shape: int, dtype: torch.dtype) -> Array:
        """Return an array of zeros."""

    @abstractmethod
    def integers(self, values: Sequence[Any]) -> Array:
        """Return integers, or equally long tuples of some, as an int64 array."""

    @abstractmethod
    def of(self, values: Tensor) -> Array:
        """Return values, which may be anywhere, as an array."""

    @abstractmethod
    def of_each(self, values: Sequence[NDArray[Any]]) -> Array:
        """Return numpy arrays of one shape as one array, along a new first axis."""

    @abstractmethod
    def cast(self, values: Array, dtype: torch.dtype) -> Array:
        """Return floating point values in another precision."""

    @abstractmethod
    def stack(self, arrays: Sequence[Array]) -> Array:
        """Return arrays of one shape as one array, along a new first axis."""

    @abstractmethod
    def put(self, array: Array, places: Sequence[int], values: Array) -> None:
        """Set the lines of an array at some places, each to one of the values."""

    @abstractmethod
    def clear(self, array: Array, places: Sequence[int]) -> None:
        """Set the lines of an array at some places to 0."""

    @abstractmethod
    def tensor(self, array: Array) -> Tensor:
        """Return an array as a tensor; they share their memory."""

    @abstractmethod
    def where(self, mask: Array, chosen: Array, other: Array) -> Array:
        """Return ``chosen`` where the mask is true, else ``other``."""

    @abstractmethod
    def normal(self, seeds: Array, indices: Array, stages: Array, shape: Sequence[int]) -> Array:
        """Return noise, float64 ``(n, *shape)``; arguments int64 ``(n,)``, see `noise.normal`."""


class HostArrays(Arrays):
    """numpy's."""

    def zeros(self, *shape: int, dtype: torch.dtype) -> Array:
        """Return an array of zeros."""
        return torch.zeros(shape, dtype=dtype).numpy()

    def integers(self, values: Sequence[Any]) -> Array:
        """Return integers, or equally long tuples of some, as an int64 array."""
        return np.array(values, np.int64)

    def of(self, values: Tensor) -> Array:
        """Return values as an array."""
        return values.numpy()

    def of_each(self, values: Sequence[NDArray[Any]]) -> Array:
        """Return numpy arrays of one shape as one array."""
        return np.array(values)  # a few small ones take `np.stack` five times as long

    def cast(self, values: Array, dtype: torch.dtype) -> Array:
        """Return floating point values in another precision."""
        return values.astype(_NUMPY_TYPES[dtype], copy=False)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Return arrays of one shape as one array, along a new first axis."""
        return np.array(arrays)

    def put(self, array: Array, places: Sequence[int], values: Array) -> None:
        """Set lines of an array; for a few, what indexing by a list costs is more than a loop."""
        for place, value in zip(places, values, strict=True):
            array[place] = value

    def clear(self, array: Array, places: Sequence[int]) -> None:
        """Set lines of an array to 0."""
        for place in places:
            array[place] = 0

    def tensor(self, array: Array) -> Tensor:
        """Return an array as a tensor; they share their memory."""
        return torch.from_numpy(array)

    def where(self, mask: Array, chosen: Array, other: Array) -> Array:
        """Return ``chosen`` where the mask is true, else ``other``."""
        return np.where(mask, chosen, other)

    def normal(self, seeds: Array, indices: Array, stages: Array, shape: Sequence[int]) -> Array:
        """Return noise, float64 ``(n, *shape)``."""
        return noise.normal(seeds.view(np.uint64), indices, stages, shape)


class DeviceArrays(Arrays):
    """PyTorch's, on one device.

    Args:
        device: Usually a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def zeros(self, *shape: int, dtype: torch.dtype) -> Array:
        """Return an array of zeros."""
        return torch.zeros(shape, dtype=dtype, device=self._device)

    def integers(self, values: Sequence[Any]) -> Array:
        """Return integers, or equally long tuples of some, as an int64 array."""
        return torch.tensor(values, dtype=torch.int64).to(self._device)

    def of(self, values: Tensor) -> Array:
        """Return values as an array."""
        return values.to(self._device)

    def of_each(self, values: Sequence[NDArray[Any]]) -> Array:
        """Return numpy arrays of one shape as one array."""
        return torch.from_numpy(np.array(values)).to(self._device)

    def cast(self, values: Array, dtype: torch.dtype) -> Array:
        """Return floating point values in another precision."""
        return values.to(dtype)

    def stack(self, arrays: Sequence[Array]) -> Array:
        """Return arrays of one shape as one array, along a new first axis."""
        return torch.stack(list(arrays))

    def put(self, array: Array, places: Sequence[int], values: Array) -> None:
        """Set lines of an array."""
        array[places] = values

    def clear(self, array: Array, places: Sequence[int]) -> None:
        """Set lines of an array to 0."""
        array[places] = 0

    def tensor(self, array: Array) -> Tensor:
        """Return the array."""
        return array

    def where(self, mask: Array, chosen: Array, other: Array) -> Array:
        """Return ``chosen`` where the mask is true, else ``other``."""
        return torch.where(mask, chosen, other)

    def normal(self, seeds: Array, indices: Array, stages: Array, shape: Sequence[int]) -> Array:
        """Return noise, float64 ``(n, *shape)``."""
        return noise.normal_on_device(seeds, indices, stages, shape)


def arrays_on(device: torch.device) -> Arrays:
    """Return the arrays to use with networks on a device."""
    return HostArrays() if device.type == "cpu" else DeviceArrays(device)
