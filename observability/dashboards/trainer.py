"""How a training run goes, and what came of it."""

from __future__ import annotations

from gmem_shared import telemetry as ours
from observability.dashboards.board import Row, board
from observability.dashboards.panels import lines, number
from observability.dashboards.promql import rate, select

_STEP, _STEPS = select(ours.TRAINER_STEP), select(ours.TRAINER_STEPS)


def _where() -> Row:
    return (
        lines(
            "stage",
            "none",
            (f"{select(ours.TRAINER_STAGE)} == 1", "{{stage}} {{instance}}"),
            width=12,
        ),
        number("steps done", "percentunit", (f"{_STEP} / {_STEPS}", "{{instance}}")),
        number(
            "time left",
            "s",
            (f"({_STEPS} - {_STEP}) / deriv({_STEP}[$__rate_interval]) > 0", "{{instance}}"),
            help="At the present pace; training alone.",
        ),
        number(
            "served",
            "bool_yes_no",
            (select(ours.TRAINER_PROMOTED), "{{name}}"),
            help="Whether the default aliases lead to what was published.",
        ),
    )


def _training() -> Row:
    return (
        lines("loss", "none", (select(ours.TRAINER_LOSS), "{{part}} {{instance}}"), width=12),
        lines(
            "images / s",
            "none",
            (rate(ours.TRAINER_IMAGES, by=("instance",)), "trained {{instance}}"),
            (rate(ours.TRAINER_PREPARED, by=("instance",)), "prepared {{instance}}"),
            width=12,
        ),
        lines(
            "gradient norm",
            "none",
            (select(ours.TRAINER_GRADIENT_NORM), "{{instance}}"),
            width=12,
        ),
        lines(
            "learning rate",
            "sci",
            (select(ours.TRAINER_LEARNING_RATE), "{{instance}}"),
            width=12,
        ),
    )


def _outcome() -> Row:
    return (
        lines(
            "accuracy, precision, recall",
            "percentunit",
            (
                select(ours.TRAINER_EVALUATION, figure="~class_accuracy|precision|recall|copy5"),
                "{{part}} {{figure}}",
            ),
        ),
        lines(
            "distances",
            "none",
            (
                select(ours.TRAINER_EVALUATION, figure="~frechet_.*|nn_ratio"),
                "{{part}} {{figure}}",
            ),
        ),
        lines("published version", "none", (select(ours.TRAINER_PUBLISHED), "{{kind}}/{{name}}")),
        number(
            "published",
            "dateTimeFromNow",
            (f"{select(ours.TRAINER_PUBLISHED_TIME)} * 1000", "{{kind}}/{{name}}"),
            width=8,
        ),
    )


BOARD = board(
    "trainer",
    "How a training run goes, and what came of it.",
    jobs="trainer",
    rows={
        "Where is it?": _where(),
        "Training": _training(),
        "What came of it": _outcome(),
    },
)
