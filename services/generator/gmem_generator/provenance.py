"""What an image was made from, and how it is written into the image itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gmem_generator.replay import ReplayToken
from gmem_generator.resolve import Plan, pinned
from gmem_generator.schemas import SnippetUse
from gmem_shared.types import Snippets


@dataclass(frozen=True, slots=True)
class Provenance:
    """The row, class and noise stream of one image."""

    index: int
    seed: int
    class_label: int | None
    class_name: str | None
    snippet: SnippetUse
    token: ReplayToken


def provenance(
    plan: Plan, class_names: Mapping[int, str], snippets: Snippets, position: int
) -> Provenance:
    """Tell what the image at ``position`` of a plan is made from."""
    row, label = int(snippets.rows[position]), int(snippets.labels[position])
    snippet = SnippetUse(
        row=row,
        source_id=int(snippets.source_ids[position]),
        label=None if label < 0 else label,
        weight=float(snippets.weights[position]),
    )
    token = ReplayToken(
        bank=pinned(plan.bank.version),
        row=row,
        model=pinned(plan.model.version),
        seed=plan.seed,
        index=plan.indices[position],
        sampler=plan.sampler,
        steps=plan.steps,
    )
    return Provenance(
        token.index, token.seed, snippet.label, class_names.get(label), snippet, token
    )


def png_text(origin: Provenance) -> dict[str, str]:
    """Return the text chunks of the image; equal images have equal ones."""
    facts = {
        **origin.token.model_dump(exclude={"v"}),
        "source_id": origin.snippet.source_id,
        "class_label": origin.class_label,
        "class_name": origin.class_name,
    }
    return {
        "Software": "gmem-serving",
        "gmem": json.dumps(facts),
        "gmem-replay": origin.token.encode(),
    }
