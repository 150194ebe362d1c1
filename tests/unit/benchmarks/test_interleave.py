from __future__ import annotations

from benchmarks.harness.interleave import Spread, interleaved, ratios


def test_sides_are_measured_in_alternating_order_and_the_warm_up_is_dropped() -> None:
    calls = []

    def side(name: str):
        def measure(repetition: int) -> int:
            calls.append((repetition, name))
            return repetition

        return measure

    results = interleaved({"a": side("a"), "b": side("b")}, repetitions=2, warm_up=1)
    assert calls == [(-1, "b"), (-1, "a"), (0, "a"), (0, "b"), (1, "b"), (1, "a")]
    assert results == {"a": [0, 1], "b": [0, 1]}


def test_a_ratio_is_taken_within_its_repetition() -> None:
    assert ratios([1.0, 20.0], [2.0, 40.0]) == [0.5, 0.5]


def test_a_spread_is_the_median_and_the_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, lowest=1.0, highest=3.0)
    assert str(Spread(0.2123, 0.2, 0.25)) == "0.212 (0.2 … 0.25)"
