"""Writes the dashboards as the JSON that Grafana is provisioned with."""

from __future__ import annotations

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from observability.dashboards import bank, generator, overview, trainer

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"


def rendered() -> dict[str, str]:
    """Return each dashboard's file name and content."""
    boards = {
        "overview": overview.BOARD,
        "generator": generator.BOARD,
        "bank": bank.BOARD,
        "trainer": trainer.BOARD,
    }
    return {
        f"{name}.json": json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, board in boards.items()
    }


def main() -> None:
    """Write all of them."""
    for name, content in rendered().items():
        (FOLDER / name).write_text(content)


if __name__ == "__main__":
    main()
