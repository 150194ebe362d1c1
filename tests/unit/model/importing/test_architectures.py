from typing import Any

import pytest
import torch

from gmem_model.importing.architectures import Unshown, infer_architecture
from gmem_model.importing.layouts import Checkpoint
from gmem_model.networks import build
from gmem_model.presets import PRESETS
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import (
    LightningDiTArchitecture,
    SiTArchitecture,
    SnippetCondition,
)
from tests.support import checkpoints
from tests.support.checkpoints import ARCHITECTURES, SIZES, WIDTH

UNSHOWN = Unshown(num_heads=SIZES["num_heads"])


def checkpoint(family: Any, architecture: Any) -> Checkpoint:
    return Checkpoint(family, "state-dict", build(architecture).state_dict())


@pytest.mark.parametrize("family", sorted(ARCHITECTURES))
def test_shapes_tell_the_architecture(family) -> None:
    expected = ARCHITECTURES[family]
    found = infer_architecture(checkpoint(family, expected), UNSHOWN, projectors=True)
    assert found == expected


@pytest.mark.parametrize("family", ["gmem-v1", "gmem-v2", "repa"])
def test_projectors_are_left_out_unless_they_are_wanted(family) -> None:
    architecture = checkpoint(family, ARCHITECTURES[family])
    assert infer_architecture(architecture, UNSHOWN, projectors=False).projector_outputs == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"rope": False, "rmsnorm": False, "swiglu": False, "qk_norm": True},
        {"shift": False},
        {"learn_sigma": True},
        {"mlp_ratio": 2.0, "swiglu": False},
    ],
)
def test_variants_of_gmem_v2_are_recognised(changes) -> None:
    expected = ARCHITECTURES["gmem-v2"].model_copy(update=changes)
    assert isinstance(expected, LightningDiTArchitecture)
    found = infer_architecture(checkpoint("gmem-v2", expected), UNSHOWN, projectors=True)
    assert found == expected


def test_several_projectors_are_counted() -> None:
    expected = ARCHITECTURES["gmem-v1"].model_copy(update={"projector_outputs": (6, 4)})
    found = infer_architecture(checkpoint("gmem-v1", expected), UNSHOWN, projectors=True)
    assert found == expected


@pytest.mark.parametrize(
    ("family", "changes"), [("gmem-v1", {"qk_norm": True}), ("gmem-v2", {"rope": True})]
)
def test_width_of_a_head_shows_in_some_weights(family, changes) -> None:
    expected = ARCHITECTURES[family].model_copy(update=changes)
    found = infer_architecture(checkpoint(family, expected), Unshown(), projectors=True)
    assert found == expected


@pytest.mark.parametrize("name", ["SiT-S/2", "GMem-SiT-S/8", "LightningDiT-S/1"])
def test_published_sizes_need_no_options(name) -> None:
    family = {"SiT": "sit", "GMem": "gmem-v1", "LightningDiT": "gmem-v2"}[name.split("-")[0]]
    found = infer_architecture(checkpoint(family, PRESETS[name]), Unshown(), projectors=True)
    assert found == PRESETS[name]


def test_heads_of_other_sizes_must_be_said() -> None:
    with pytest.raises(InvalidRequestError, match=r"depth 2 and width 32.*--num-heads"):
        infer_architecture(checkpoint("sit", ARCHITECTURES["sit"]), Unshown(), projectors=False)


@pytest.mark.parametrize("missing", ["pos_embed", "final_layer.linear.bias"])
def test_weights_of_no_network_are_refused(missing) -> None:
    weights = checkpoints.weights(ARCHITECTURES["sit"])
    del weights[missing]
    with pytest.raises(InvalidRequestError, match=missing):
        infer_architecture(Checkpoint("sit", "state-dict", weights), UNSHOWN, projectors=False)


@pytest.mark.parametrize(
    ("unshown", "changes"),
    [
        (UNSHOWN, {"pos_embed": torch.zeros(4)}),
        (UNSHOWN, {"pos_embed": torch.zeros(1, 1 << 20, 1)}),
        (UNSHOWN, {"x_embedder.proj.weight": torch.zeros(0, 4, 2, 2)}),
        (UNSHOWN, {"y_embedder.embedding_table.weight": torch.zeros(())}),
        (Unshown(), {"blocks.0.attn.q_norm.weight": torch.zeros(())}),
        (Unshown(), {"blocks.0.attn.q_norm.weight": torch.zeros(0)}),
    ],
)
def test_weights_of_impossible_shapes_are_refused(unshown, changes) -> None:
    weights = checkpoints.weights(ARCHITECTURES["sit"]) | changes
    with pytest.raises(InvalidRequestError, match="found some that cannot be"):
        infer_architecture(Checkpoint("sit", "state-dict", weights), unshown, projectors=False)


def test_snippets_may_have_any_width() -> None:
    condition = SnippetCondition(dimension=2 * WIDTH)
    expected = ARCHITECTURES["gmem-v1"].model_copy(update={"condition": condition})
    assert isinstance(expected, SiTArchitecture)
    found = infer_architecture(checkpoint("gmem-v1", expected), UNSHOWN, projectors=True)
    assert found.condition == condition
