"""Weights of any module: out of a safetensors file, and into a module they fit exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gmem_shared.errors import CorruptVersionError, InvalidRequestError

ModuleT = TypeVar("ModuleT", bound=nn.Module)

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class WeightsFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file, each mapped when it is asked for.

    Raises:
        CorruptVersionError: There is no such file, or it is no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with safe_open(path, "pt") as file:
                self._names = frozenset(file.keys())
        except (SafetensorError, OSError) as error:
            raise CorruptVersionError(
                f"expected {path.name} to be a safetensors file, found one that does not open: "
                f"{error}"
            ) from error

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        # One mapping per tensor: the pages of a mapping count as ours as long as it lives, and one
        # of the whole file would double the memory that it takes to copy every tensor.
        with safe_open(self._path, "pt") as file:
            return file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def without_weights() -> Iterator[None]:
    """Build modules on the meta device: shapes and names, no memory and nothing drawn."""
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Skips `torch.nn.init`, whose `normal_` on the meta device imports torch's compiler: 2 s."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else named["tensor"]
        return func(*args, **named)


def assign(
    module: ModuleT,
    weights: Mapping[str, Tensor],
    source: str,
    *,
    defaults: Mapping[str, Tensor] = NOTHING,
) -> ModuleT:
    """Give a module these weights, in float32 where not whole numbers; return it in eval mode.

    Args:
        module: May be on the meta device.
        weights: Exactly its state dict, with any floating-point type for another.
        source: Where they come from, for the message.
        defaults: What ``weights`` may lack.

    Raises:
        InvalidRequestError: Names, shapes or types are not those of the module.
    """
    expected = module.state_dict()
    missing = defaults.keys() - weights.keys()
    different = differences({k: v for k, v in expected.items() if k not in missing}, weights)
    if different:
        raise InvalidRequestError(
            f"expected {source} to hold exactly the weights of a {type(module).__name__} of its "
            f"configuration; {different}"
        )
    # The copy moves the weights from a mapped file into memory of torch's own alignment, so that
    # kernels give the same bits wherever the file came from.
    owned = {name: _own(tensor) for name, tensor in weights.items()}
    module.load_state_dict(owned | {name: defaults[name] for name in missing}, assign=True)
    return module.eval()


def _own(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)


def differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Say which weights are missing, unexpected or unlike the expected ones; empty if none is."""
    common = sorted(expected.keys() & found.keys())
    reshaped = [
        f"{name} (expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)})"
        for name in common
        if expected[name].shape != found[name].shape
    ]
    retyped = [
        f"{name} (expected {expected[name].dtype}, found {found[name].dtype})"
        for name in common
        if expected[name].is_floating_point() != found[name].is_floating_point()
    ]
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": reshaped,
        "of another type": retyped,
    }
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in problems.items() if names)
