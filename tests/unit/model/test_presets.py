import pytest
import torch

from gmem_model.networks import build
from gmem_model.presets import PRESETS, preset
from gmem_shared.errors import InvalidRequestError

PUBLISHED = {  # parameters, state-dict entries
    "SiT-S/2": (32_963_360, 132),
    "SiT-S/4": (32_945_024, 132),
    "SiT-S/8": (33_148_160, 132),
    "SiT-B/2": (130_512_416, 132),
    "SiT-B/4": (130_475_648, 132),
    "SiT-B/8": (130_881_536, 132),
    "SiT-L/2": (458_102_816, 252),
    "SiT-L/4": (458_053_760, 252),
    "SiT-L/8": (458_594_816, 252),
    "SiT-XL/2": (675_129_632, 292),
    "SiT-XL/4": (675_074_432, 292),
    "SiT-XL/8": (675_683_072, 292),
    "REPA-SiT-S/2": (39_515_664, 138),
    "REPA-SiT-S/4": (39_478_848, 138),
    "REPA-SiT-S/8": (39_608_064, 138),
    "REPA-SiT-B/2": (137_845_008, 138),
    "REPA-SiT-B/4": (137_771_328, 138),
    "REPA-SiT-B/8": (138_029_568, 138),
    "REPA-SiT-L/2": (465_955_600, 258),
    "REPA-SiT-L/4": (465_857_344, 258),
    "REPA-SiT-L/8": (466_201_600, 258),
    "REPA-SiT-XL/2": (683_242_512, 298),
    "REPA-SiT-XL/4": (683_131_968, 298),
    "REPA-SiT-XL/8": (683_519_232, 298),
    "GMem-SiT-S/2": (39_426_576, 139),
    "GMem-SiT-S/4": (39_389_760, 139),
    "GMem-SiT-S/8": (39_518_976, 139),
    "GMem-SiT-B/2": (137_666_832, 139),
    "GMem-SiT-B/4": (137_593_152, 139),
    "GMem-SiT-B/8": (137_851_392, 139),
    "GMem-SiT-L/2": (465_718_032, 259),
    "GMem-SiT-L/4": (465_619_776, 259),
    "GMem-SiT-L/8": (465_964_032, 259),
    "GMem-SiT-XL/2": (682_975_248, 299),
    "GMem-SiT-XL/4": (682_864_704, 299),
    "GMem-SiT-XL/8": (683_251_968, 299),
    "LightningDiT-S/1": (39_454_624, 166),
    "LightningDiT-B/1": (137_722_912, 166),
    "LightningDiT-B/2": (137_723_008, 166),
    "LightningDiT-L/2": (465_784_672, 310),
    "LightningDiT-XL/1": (683_120_800, 358),
    "LightningDiT-XL/2": (683_120_896, 358),
    "LightningDiT-1p0B/1": (1_037_962_528, 310),
    "LightningDiT-1p0B/2": (1_037_962_624, 310),
    "LightningDiT-1p6B/1": (1_640_793_424, 358),
    "LightningDiT-1p6B/2": (1_640_793_520, 358),
}
EDM2_MILLIONS = {"xxs": 31.3, "xs": 124.7, "s": 280.2, "m": 497.8, "l": 777.5} | {
    "xl": 1119.3,
    "xxl": 1523.2,
}


def count(name: str) -> tuple[int, int]:
    """Return the numbers of parameters and of state-dict entries."""
    with torch.device("meta"):
        network = build(preset(name))
    return sum(parameter.numel() for parameter in network.parameters()), len(network.state_dict())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_published_number_of_parameters(name) -> None:
    assert count(name) == PUBLISHED[name]


@pytest.mark.parametrize(("size", "millions"), EDM2_MILLIONS.items())
def test_edm2_sizes_have_the_published_number_of_parameters(size, millions) -> None:
    parameters, entries = count(f"EDM2-img512-{size}")
    assert round(parameters / 1e6, 1) == millions
    assert entries == 203


def test_every_published_name_is_a_preset_and_no_other_but_digits() -> None:
    edm2 = {f"EDM2-img512-{size}" for size in EDM2_MILLIONS}
    edm2 |= {f"EDM2-img64-{size}" for size in ("xs", "s", "m", "l", "xl")}
    edm2 |= {"EDM2-img512-xs-uncond", "EDM2-img512-s-uncond"}
    assert PRESETS.keys() == PUBLISHED.keys() | edm2 | {"digits"}


def test_guiding_edm2_is_the_same_network_without_its_label_embedding() -> None:
    parameters, entries = count("EDM2-img512-xs")
    assert count("EDM2-img512-xs-uncond") == (parameters - 1000 * 512, entries - 1)


def test_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(InvalidRequestError, match=r"SiT-XL/2.*digits.*SiT-XXL"):
        preset("SiT-XXL/2")
