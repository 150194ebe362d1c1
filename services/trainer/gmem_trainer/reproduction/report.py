"""One table and one plot of the curves, and the numbers behind them as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gmem_trainer.reproduction.curves import Cost, Curve, Spread, cost, gain

LEVELS = (10.0, 5.0, 3.0, 2.0, 1.5)
"""Fréchet distances at which the arms are compared."""

Arms = Mapping[str, Sequence[Curve]]
"""Name of an arm to its runs, one per seed."""


def write_report(folder: Path, arms: Arms, protocol: Mapping[str, Any]) -> None:
    """Write ``digits.json``, ``digits.md`` and ``digits.png`` into a folder.

    Args:
        folder: Created if missing.
        arms: The runs; the last arm is the one whose gain over the others is reported.
        protocol: What was done, kept with the numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = [asdict(curve) for curves in arms.values() for curve in curves]
    numbers = {"protocol": dict(protocol), "runs": runs}
    (folder / "digits.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (folder / "digits.md").write_text(markdown(arms))
    plot(arms).savefig(folder / "digits.png", dpi=130)


def markdown(arms: Arms) -> str:
    """Return the tables: cost to each level, gains, and the figures after the last step."""
    names = list(arms)
    sections = [
        ("Steps to a Fréchet distance", _cost_table(arms, lambda reached: reached.steps)),
        ("CPU seconds to it, encoder included", _cost_table(arms, lambda reached: reached.seconds)),
        (f"Steps, as multiples of {names[-1]}", _gain_table(arms, "steps")),
        (f"CPU seconds, as multiples of {names[-1]}", _gain_table(arms, "seconds")),
        ("Novelty and breadth where a level was reached", _novelty_table(arms)),
        ("After the last step", _final_table(arms)),
    ]
    return "\n".join(f"### {title}\n\n{table}" for title, table in sections)


def plot(arms: Arms) -> Figure:
    """Draw Fréchet distance and accuracy against steps and seconds; one line per run."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col")
    for color, (name, curves) in enumerate(arms.items()):
        for curve in curves:
            label = name if curve is curves[0] else None
            _draw(axes, curve, label, f"C{color}")
    for axis in axes.flat:
        axis.set_xscale("log")
        axis.grid(alpha=0.3)
    for axis in axes[0]:
        axis.set_yscale("log")
    axes[0, 0].set_ylabel("Fréchet distance to the test images")
    axes[1, 0].set_ylabel("class accuracy")
    axes[1, 0].set_xlabel("training steps")
    axes[1, 1].set_xlabel("CPU seconds, encoder included")
    axes[0, 0].legend()
    return figure


def _draw(axes: Any, curve: Curve, label: str | None, color: str) -> None:
    steps = [float(point.step) for point in curve.points]
    seconds = [curve.encoder_seconds + point.seconds for point in curve.points]
    rows = ("frechet_features", "class_accuracy")
    for row, figure in enumerate(rows):
        values = [float(getattr(point.figures, figure)) for point in curve.points]
        for column, x in enumerate((steps, seconds)):
            axes[row, column].plot(x, values, color=color, label=label, alpha=0.8, linewidth=1.2)


def _cost_table(arms: Arms, measure: Callable[[Cost], float]) -> str:
    def cell(curves: Sequence[Curve], level: float) -> str:
        reached = _reached(curves, level)
        return str(Spread.of([measure(c) for c in reached])) if reached else "never"

    return _table(arms, lambda curves: [cell(curves, level) for level in LEVELS])


def _gain_table(arms: Arms, what: str) -> str:
    ours = list(arms.values())[-1]

    def cell(curves: Sequence[Curve], level: float) -> str:
        found = gain(curves, ours, level)
        return "–" if found is None else str(getattr(found, what))  # noqa: RUF001 (typography)

    others = {name: curves for name, curves in arms.items() if curves is not ours}
    return _table(others, lambda curves: [cell(curves, level) for level in LEVELS])


def _novelty_table(arms: Arms) -> str:
    def cell(curves: Sequence[Curve], level: float) -> str:
        reached = _reached(curves, level)
        if not reached:
            return "never"
        ratio = Spread.of([c.figures.nn_ratio for c in reached]).mean
        pixels = Spread.of([c.figures.frechet_pixels for c in reached]).mean
        recall = Spread.of([c.figures.recall for c in reached]).mean
        return f"{ratio:.2f} / {pixels:.2f} / {recall:.2f}"

    return _table(arms, lambda curves: [cell(curves, level) for level in LEVELS])


def _final_table(arms: Arms) -> str:
    names = (
        "class_accuracy", "frechet_features", "frechet_pixels", "precision", "recall", "nn_ratio",
        "copy5",
    )  # fmt: skip
    lines = [_line(["arm", *names]), _line(["---"] * (1 + len(names)))]
    for arm, curves in arms.items():
        last = [curve.points[-1].figures for curve in curves]
        lines.append(_line([arm, *(str(Spread.of([getattr(f, n) for f in last])) for n in names)]))
    return "\n".join(lines) + "\n"


def _reached(curves: Sequence[Curve], level: float) -> list[Cost]:
    found = [cost(curve, level) for curve in curves]
    return [reached for reached in found if reached is not None]


def _table(arms: Arms, cells: Callable[[Sequence[Curve]], list[str]]) -> str:
    head = ["arm", *(f"FD {level:g}" for level in LEVELS)]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line([name, *cells(curves)]) for name, curves in arms.items()]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
