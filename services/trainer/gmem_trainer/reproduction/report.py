"""Tables and a plot of the curves, and the numbers behind them as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from gmem_trainer.evaluation import Figures
from gmem_trainer.reproduction.curves import Cost, Curve, Gain, Quality, Spread, cost, gain

QUALITIES: tuple[tuple[Quality, str, tuple[float, ...]], ...] = (
    ("frechet_features", "Fréchet distance in the judge's features", (10.0, 5.0, 3.0, 2.0, 1.5)),
    ("frechet_pixels", "Fréchet distance in pixel components", (1.0, 0.8, 0.6, 0.5, 0.4)),
)
"""What quality is measured by, and the levels at which the arms are compared."""

Arms = Mapping[str, Sequence[Curve]]
"""Name of an arm to its runs, one per seed."""


def write_report(folder: Path, arms: Arms, reference: Figures, protocol: Mapping[str, Any]) -> None:
    """Write ``digits.json``, ``digits.md`` and ``digits.png`` into a folder.

    Args:
        folder: Created if missing.
        arms: The runs; the last arm is the one whose gain over the others is reported.
        reference: The training images themselves, measured as generated ones are.
        protocol: What was done, kept with the numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = [asdict(curve) for curves in arms.values() for curve in curves]
    numbers = {"protocol": dict(protocol), "reference": asdict(reference), "runs": runs}
    (folder / "digits.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (folder / "digits.md").write_text(markdown(arms, reference))
    plot(arms).savefig(folder / "digits.png", dpi=130)


def markdown(arms: Arms, reference: Figures) -> str:
    """Return the tables: cost to each level, gains, novelty, and the figures at the end."""
    parts = [_quality_section(arms, *quality) for quality in QUALITIES]
    return "\n".join([*parts, f"### After the last step\n\n{_final_table(arms, reference)}"])


def plot(arms: Arms) -> Figure:
    """Draw both distances and accuracy against steps and seconds; one line per run."""
    figure = Figure(figsize=(11, 10), layout="constrained")
    axes = figure.subplots(3, 2, sharex="col")
    shown = [(quality, title) for quality, title, _ in QUALITIES]
    for row, (name, title) in enumerate([*shown, ("class_accuracy", "class accuracy")]):
        axes[row, 0].set_ylabel(title)
        for color, (arm, curves) in enumerate(arms.items()):
            for curve in curves:
                label = arm if curve is curves[0] else None
                _draw(axes[row], curve, name, label=label, color=f"C{color}")
    for axis in axes.flat:
        axis.set_xscale("log")
        axis.grid(alpha=0.3)
    for axis in axes[:2].flat:
        axis.set_yscale("log")
    axes[2, 0].set_xlabel("training steps")
    axes[2, 1].set_xlabel("CPU seconds, encoder included")
    axes[0, 0].legend()
    return figure


def _draw(axes: Any, curve: Curve, figure: str, *, label: str | None, color: str) -> None:
    steps = [float(point.step) for point in curve.points]
    seconds = [curve.encoder_seconds + point.seconds for point in curve.points]
    values = [float(getattr(point.figures, figure)) for point in curve.points]
    for axis, x in zip(axes, (steps, seconds), strict=True):
        axis.plot(x, values, color=color, label=label, alpha=0.8, linewidth=1.2)


def _quality_section(arms: Arms, quality: Quality, title: str, levels: Sequence[float]) -> str:
    *others, ours = arms

    def costs(measure: Callable[[Cost], float]) -> str:
        def cell(arm: str, level: float) -> str:
            reached = _reached(arms[arm], level, quality)
            return str(Spread.of([measure(c) for c in reached])) if reached else "never"

        return _table(arms, levels, cell)

    def gains(measure: Callable[[Gain], Spread]) -> str:
        def cell(arm: str, level: float) -> str:
            found = gain(arms[arm], arms[ours], level, quality)
            return "" if found is None else str(measure(found))

        return _table(others, levels, cell)

    def novelty(arm: str, level: float) -> str:
        reached = _reached(arms[arm], level, quality)
        names = ("nn_ratio", "copy5", "recall")
        means = [Spread.of([getattr(c.figures, n) for c in reached]).mean for n in names if reached]
        return " / ".join(f"{mean:.2f}" for mean in means) or "never"

    return "\n".join(
        [
            f"## {title}\n",
            f"### Steps to it\n\n{costs(lambda found: found.steps)}",
            f"### CPU seconds to it, encoder included\n\n{costs(lambda found: found.seconds)}",
            f"### Steps, as multiples of {ours}\n\n{gains(lambda found: found.steps)}",
            f"### CPU seconds, as multiples of {ours}\n\n{gains(lambda found: found.seconds)}",
            f"### Novelty there: nn_ratio / copy5 / recall\n\n{_table(arms, levels, novelty)}",
        ]
    )


def _final_table(arms: Arms, reference: Figures) -> str:
    names = [field.name for field in fields(Figures)]
    lines = [_line(["arm", *names]), _line(["---"] * (1 + len(names)))]
    for arm, curves in arms.items():
        last = [curve.points[-1].figures for curve in curves]
        lines.append(_line([arm, *(str(Spread.of([getattr(f, n) for f in last])) for n in names)]))
    lines.append(_line(["the training images", *(f"{getattr(reference, n):.2f}" for n in names)]))
    return "\n".join(lines) + "\n"


def _reached(curves: Sequence[Curve], level: float, quality: Quality) -> list[Cost]:
    found = [cost(curve, level, quality) for curve in curves]
    return [reached for reached in found if reached is not None]


def _table(arms: Iterable[str], levels: Sequence[float], cell: Callable[[str, float], str]) -> str:
    head = ["arm", *(f"{level:g}" for level in levels)]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line([arm, *(cell(arm, level) for level in levels)]) for arm in arms]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
