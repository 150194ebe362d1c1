"""What an image was made from, and how it is written into the image itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from gmem_generator.plan import Plan, pinned
from gmem_generator.replay import ReplayToken
from gmem_generator.schemas import SnippetUse
from gmem_shared.types import Snippets


@dataclass(frozen=True, slots=True)
class Provenance:
    """The row, class and noise stream of one image; ``snippet`` of a snippet model only."""

    index: int
    seed: int
    class_label: int | None
    class_name: str | None
    snippet: SnippetUse | None
    token: ReplayToken
    replay: str
    """`token`, encoded."""


def provenance(
    plan: Plan, class_names: Mapping[int, str], snippets: Snippets | None, position: int
) -> Provenance:
    """Tell what the image at ``position`` of a plan is made from."""
    snippet = None if snippets is None else _snippet(snippets, position)
    given = None if plan.labels is None else plan.labels[position]
    label = given if snippet is None else snippet.label
    token = ReplayToken(
        bank=None if plan.bank is None else pinned(plan.bank),
        row=None if snippet is None else snippet.row,
        label=given,
        model=pinned(plan.model.version),
        seed=plan.seed,
        index=plan.indices[position],
        sampler=plan.sampler,
        steps=plan.steps,
        guidance_scale=plan.guidance_scale,
    )
    name = None if label is None else class_names.get(label)
    return Provenance(token.index, token.seed, label, name, snippet, token, token.encode())


def png_text(origin: Provenance) -> dict[str, str]:
    """Return the text chunks of the image; equal images have equal ones."""
    token = origin.token
    facts = {
        "bank": token.bank,
        "row": token.row,
        "model": token.model,
        "seed": token.seed,
        "index": token.index,
        "sampler": token.sampler,
        "steps": token.steps,
        "guidance_scale": token.guidance_scale,
        "source_id": None if origin.snippet is None else origin.snippet.source_id,
    }
    facts = {name: fact for name, fact in facts.items() if fact is not None}
    facts |= {"class_label": origin.class_label, "class_name": origin.class_name}
    return {"Software": "gmem-serving", "gmem": json.dumps(facts), "gmem-replay": origin.replay}


def _snippet(snippets: Snippets, position: int) -> SnippetUse:
    label = int(snippets.labels[position])
    return SnippetUse(
        row=int(snippets.rows[position]),
        source_id=int(snippets.source_ids[position]),
        label=None if label < 0 else label,
        weight=float(snippets.weights[position]),
    )
