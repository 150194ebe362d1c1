import pytest
import torch

from gmem_model.presets import PRESETS, preset
from gmem_model.sit import SiT
from gmem_shared.errors import InvalidRequestError

PUBLISHED = {  # parameters, state-dict entries
    "SiT-S/2": (39_426_576, 139),
    "SiT-S/4": (39_389_760, 139),
    "SiT-S/8": (39_518_976, 139),
    "SiT-B/2": (137_666_832, 139),
    "SiT-B/4": (137_593_152, 139),
    "SiT-B/8": (137_851_392, 139),
    "SiT-L/2": (465_718_032, 259),
    "SiT-L/4": (465_619_776, 259),
    "SiT-L/8": (465_964_032, 259),
    "SiT-XL/2": (682_975_248, 299),
    "SiT-XL/4": (682_864_704, 299),
    "SiT-XL/8": (683_251_968, 299),
}


@pytest.mark.parametrize("name", PRESETS.keys() - {"digits"})
def test_published_sizes_have_the_published_number_of_parameters(name) -> None:
    with torch.device("meta"):
        network = SiT(preset(name))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (parameters, len(network.state_dict())) == PUBLISHED[name]


def test_unknown_preset_is_refused_with_the_known_names() -> None:
    with pytest.raises(InvalidRequestError, match=r"SiT-XL/2.*digits.*SiT-XXL"):
        preset("SiT-XXL/2")
