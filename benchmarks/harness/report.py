"""What a benchmark leaves behind: a JSON file, and the README's tables and plots made from it.

``python -m benchmarks.harness.report`` works from the JSON files alone. It writes
``benchmarks/README.md`` below its marker, one picture per plot under ``benchmarks/results/``, and
what stands between ``<!-- claims: NAME -->`` and ``<!-- end -->`` in ``docs/performance``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.harness.interleave import Spread

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
PAGES = ROOT / "docs" / "performance"
MARKER = "<!-- Everything below is written by python -m benchmarks.harness.report. -->\n"
_PACKAGES = ("numpy", "onnxruntime", "torch", "faiss-cpu", "grpcio")


@dataclass(frozen=True)
class Claim:
    """A ratio with a goal; one value per repetition.

    Attributes:
        name: What is compared with what.
        ratios: Of every repetition.
        bound, goal: What is claimed.
        within_spread: Whether the better end of the range decides instead of the median: for
            claims that something is not worse.
    """

    name: str
    ratios: Sequence[float]
    bound: Literal["at most", "at least"]
    goal: float
    within_spread: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        spread = Spread.of(self.ratios)
        if self.bound == "at most":
            return (spread.lowest if self.within_spread else spread.median) <= self.goal
        return (spread.highest if self.within_spread else spread.median) >= self.goal

    @property
    def cells(self) -> list[str]:
        """The line of the table of claims."""
        sign = "≤" if self.bound == "at most" else "≥"
        met = "met" if self.met else "**not met**"
        goal = f"{sign} {self.goal:g}" + (" within the spread" if self.within_spread else "")
        return [self.name, str(Spread.of(self.ratios)), goal, met]


@dataclass(frozen=True)
class Table:
    """Lines of cells; numbers are written with three significant digits."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float]]


@dataclass(frozen=True)
class Plot:
    """Lines over a common axis: for each name its x and its y values."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Result:
    """The outcome of one benchmark.

    Attributes:
        name: Names the files.
        title: Heading of its chapter.
        setting: What was run, in sentences.
        claims, tables, plots: What the chapter shows.
        raw: Every measurement, for whoever wants to compute something else.
    """

    name: str
    title: str
    setting: str
    claims: Sequence[Claim] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    raw: Any = None
    environment: Mapping[str, Any] = field(default_factory=lambda: environment())


def save(result: Result, folder: Path = RESULTS) -> Path:
    """Print a result and write it to ``<folder>/<name>.json``."""
    print("\n".join(_tables(result)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")
    return path


def load(path: Path) -> Result:
    """Read what `save` wrote."""
    values = json.loads(path.read_text())
    parts = {"claims": Claim, "tables": Table, "plots": Plot}
    made = {name: [kind(**part) for part in values[name]] for name, kind in parts.items()}
    return Result(**(values | made))


def environment(root: Path = ROOT) -> dict[str, Any]:
    """Describe when, on what and with which versions a benchmark runs."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(root),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    } | {name: version for name in _PACKAGES if (version := _version(name))}


def chapter(result: Result) -> str:
    """Write a result as Markdown."""
    lines = [f"## {result.title}", "", result.setting, "", *_tables(result)]
    for plot in result.plots:
        lines += [f"![{plot.title}](results/{_picture(result, plot)})", ""]
    facts = ", ".join(f"{name} {value}" for name, value in result.environment.items())
    return "\n".join([*lines, f"*{facts}*", ""])


def draw(result: Result, folder: Path = RESULTS) -> None:
    """Write the pictures of a result."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    for plot in result.plots:
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for name, (x, y) in plot.series.items():
            axes.plot(x, y, marker="o" if len(x) < 30 else "", markersize=3, label=name)
        axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
        if plot.log_x:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
        if plot.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(folder / _picture(result, plot), dpi=120)
        pyplot.close(figure)


def with_claims(page: str, results: Sequence[Result]) -> str:
    """Return a page with the claims of every result that it has a place for."""
    for result in results:
        start = f"<!-- claims: {result.name} -->"
        place = re.compile(f"({re.escape(start)}\n).*?(<!-- end -->)", re.DOTALL)
        claims = "\n".join(["", *_claims(result), ""])
        page = place.sub(lambda found, text=claims: found[1] + text + found[2], page)
    return page


def main(folder: Path = RESULTS, readme: Path = README, pages: Path = PAGES) -> None:
    """Write the README's chapters, the claims in the pages, and all pictures."""
    results = [load(path) for path in sorted(folder.glob("*.json"))]
    for result in results:
        draw(result, folder)
    preface = readme.read_text().partition(MARKER)[0]
    readme.write_text(preface + MARKER + "\n" + "\n".join(chapter(result) for result in results))
    for page in pages.glob("*.md"):
        page.write_text(with_claims(page.read_text(), results))


def _claims(result: Result) -> list[str]:
    rows = [claim.cells for claim in result.claims]
    return _markdown(["claim", "ratio (range)", "goal", ""], rows) if rows else []


def _tables(result: Result) -> list[str]:
    lines = _claims(result)
    for table in result.tables:
        lines += [f"**{table.title}**", "", *_markdown(table.columns, table.rows)]
    return lines


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _picture(result: Result, plot: Plot) -> str:
    words = "".join(c if c.isalnum() else " " for c in plot.title.lower()).split()
    return f"{result.name}-{'-'.join(words)}.png"


def _commit(root: Path) -> str:
    """Return the commit; ``+`` marks changes that are not in it."""
    git = ["git", "-C", str(root)]
    if not (root / ".git").exists():
        return "unknown"
    commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True).strip()
    changed = subprocess.check_output(
        [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks"],
        text=True,
    )
    return commit + ("+" if changed else "")


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
