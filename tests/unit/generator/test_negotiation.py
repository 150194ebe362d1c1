from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from gmem_generator.negotiation import EVENTS, JSON, PNG, negotiate


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("image/png", PNG),
        ("image/*", PNG),
        ("text/event-stream", EVENTS),
        ("text/html, */*;q=0.8", JSON),
        ("application/json;q=0.5, image/png", PNG),
        ("application/json;q=0, */*", PNG),
        ("IMAGE/PNG ; q=1.0", PNG),
        ("image/png;q=nonsense, application/json;q=0.1", JSON),
    ],
)
def test_the_best_liked_offer_is_chosen(accept, chosen) -> None:
    assert negotiate(accept) == chosen


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/webp", "q", ",,,"])
def test_what_is_not_offered_is_refused_with_the_offers(accept) -> None:
    with pytest.raises(HTTPException) as refused:
        negotiate(accept)
    assert refused.value.status_code == 406
    assert "image/png" in refused.value.detail
