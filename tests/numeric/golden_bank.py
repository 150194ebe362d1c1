"""GMem v2: banks, full and compressed, and the mixing of snippets."""

import numpy as np
import torch
from torch import Tensor

from gmem_model.memory import CompressedBank, FullBank, compress
from gmem_shared.mixing import interpolate, normalize
from tests.numeric.golden_cases import GoldenCase, handles

BANK = "gmem-v2-bank"


def tensors(**arrays: np.ndarray | int) -> dict[str, Tensor]:
    return {role: torch.as_tensor(array) for role, array in arrays.items()}


@handles(BANK, "bank.dmd_decompose")
def decompose(case: GoldenCase) -> dict[str, Tensor]:
    bank = compress(case.inputs["bank"].numpy(), case.params["latent_dim"])
    reconstruction = bank[np.arange(len(bank))]
    return tensors(S=bank.scales, mean=bank.mean, reconstruction=reconstruction)


@handles(BANK, "bank.dmd_ops")
def compressed(case: GoldenCase) -> dict[str, Tensor]:
    i, j, alpha = (case.params[name] for name in ("i", "j", "alpha"))
    parts = (case.inputs[role].numpy() for role in ("C", "M", "S", "mean"))
    bank = CompressedBank(*parts)
    snippet = case.inputs["snippet"].numpy()
    rows = case.inputs["idx"].numpy()
    mixed = bank.mixed_coefficients(i, j, alpha)
    return tensors(
        get_all=bank[np.arange(len(bank))],
        fancy=bank[rows],
        get_interpolated_coeff=mixed,
        get_interpolated_decoded=bank.interpolated(i, j, alpha),
        add_exact_returned=bank.append(snippet),
        add_exact_coeff=bank.coefficients[-1],
        add_interpolated_returned=bank.append_coefficients(mixed),
        add_interpolated_coeff=bank.coefficients[-1],
        count=len(bank),
    )


@handles(BANK, "bank.full_ops")
def full(case: GoldenCase) -> dict[str, Tensor]:
    i, j, alpha = (case.params[name] for name in ("i", "j", "alpha"))
    bank = FullBank(case.inputs["bank"].numpy())
    mixed = bank.interpolated(i, j, alpha)
    return tensors(
        fancy=bank[case.inputs["idx"].numpy()],
        get_interpolated=mixed,
        add_exact_returned=bank.append(case.inputs["snippet"].numpy()),
        add_interpolated_returned=bank.append(mixed),
        count=len(bank),
    )


@handles(BANK, "interpolate")
def interpolation(case: GoldenCase) -> dict[str, Tensor]:
    uniforms = case.inputs.get("uniforms")
    snippets = interpolate(
        case.inputs["a"].numpy(),
        case.inputs["b"].numpy(),
        np.linspace(0, 1, case.params["total_steps"]).tolist(),
        case.params["method"],
        None if uniforms is None else uniforms.numpy(),
    )
    return tensors(snippets=snippets)


@handles(BANK, "l2_normalize")
def unit_length(case: GoldenCase) -> dict[str, Tensor]:
    return tensors(out=normalize(case.inputs["x"].numpy()))
