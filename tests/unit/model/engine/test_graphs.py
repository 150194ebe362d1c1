"""Evaluations of a fixed number of rows."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from gmem_model.engine.graphs import Graphs, buckets, graphs_of
from gmem_model.engine.rows import Rows
from gmem_model.engine.windows import RowSpec
from gmem_model.guidance import GuidedNetwork
from gmem_model.samplers import plan, samplers_of
from gmem_shared.model_config import Guidance, ModelConfig
from gmem_shared.settings import EngineSettings
from tests.support.models import label_config, tiny_config, tiny_network

pytestmark = pytest.mark.usefixtures("as_the_engine_runs")

CONFIGS = {"snippets": tiny_config(), "labels, guided": label_config()}


@pytest.mark.parametrize("max_rows", [1, 2, 3, 8, 16, 17, 24, 64, 100])
def test_a_bucket_is_the_smallest_that_holds_the_rows(max_rows: int) -> None:
    sizes = buckets(max_rows)
    assert sizes[-1] == max_rows
    assert list(sizes) == sorted(set(sizes))
    graphs = Graphs(max_rows, record=False)
    for rows in range(1, max_rows + 1):
        assert graphs.bucket(rows) == min(size for size in sizes if size >= rows)


def test_strict_evaluations_always_have_as_many_rows() -> None:
    graphs = Graphs(48, strict=True, record=False)
    assert {graphs.bucket(rows) for rows in range(1, 49)} == {48}


@pytest.mark.parametrize(
    ("strict", "invariant", "sizes"),
    [(None, True, None), (None, False, (8,)), (True, False, (8,)), (False, False, None)],
)
def test_a_cpu_pads_only_where_kernels_depend_on_the_company(
    strict: bool | None, invariant: bool, sizes: tuple[int, ...] | None
) -> None:
    settings = EngineSettings(strict=strict)
    graphs = graphs_of(settings, torch.device("cpu"), 8, invariant=invariant)
    assert (graphs and graphs.sizes) == sizes


def specs_of(config: ModelConfig) -> list[RowSpec]:
    samplers = samplers_of(config.process)
    labels = config.architecture.condition.kind == "label"

    def spec(number: int) -> RowSpec:
        guidance = Guidance(scale=1.0 + number % 3) if config.guidance else None
        table = plan(samplers[number % len(samplers)], 2 + number % 3, config.process, guidance)
        generator = torch.Generator().manual_seed(number)
        snippet = torch.randn(64, generator=generator)
        condition = (torch.tensor(number % 3) if labels else snippet).numpy()
        return RowSpec(table, condition, seed=number, index=number % 5)

    return [spec(number) for number in range(20)]


def run(rows: Rows, specs: list[RowSpec], seed: int) -> dict[int, Tensor]:
    """Let rows join and leave at random, at most eight at once."""
    rng = random.Random(seed)
    waiting, running = list(range(len(specs))), dict[int, int]()
    results: dict[int, Tensor] = {}
    while waiting or running:
        joining = min(len(waiting), 8 - len(running), rng.randint(0 if running else 1, 8))
        newcomers = [waiting.pop(0) for _ in range(joining)]
        if newcomers:
            slots = rows.join([specs[number] for number in newcomers])
            running |= dict(zip(newcomers, slots, strict=True))
        rows.step()
        for number, slot in list(running.items()):
            if rows.evaluations(slot) == len(specs[number].plan):
                results[number] = rows.latents([slot])[0]
                rows.leave([slot])
                del running[number]
    return results


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_padding_changes_no_row(name: str, strict: bool) -> None:
    config = CONFIGS[name]
    networks = GuidedNetwork.of(tiny_network(config), config.guidance)

    def rows(graphs: Graphs | None) -> Rows:
        return Rows(networks, config.process, 8, modulation_bytes=1 << 20, graphs=graphs)

    specs = specs_of(config)
    expected = run(rows(None), specs, seed=0)
    for seed in range(3):
        padded = run(rows(Graphs(8, strict=strict, record=False)), specs, seed)
        for number, latent in expected.items():
            assert torch.equal(padded[number], latent)
