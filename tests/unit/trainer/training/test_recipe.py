import pytest

from gmem_trainer.training.recipe import ConstantAverage, PowerAverage, TrainingRecipe


def test_learning_rate_warms_up_stays_and_falls_to_zero() -> None:
    recipe = TrainingRecipe(steps=100, learning_rate=1.0, warmup_steps=10, decay=True)
    assert [recipe.learning_rate_at(step) for step in (0, 4, 9, 30, 50)] == [0.1, 0.5, 1, 1, 1]
    assert recipe.learning_rate_at(75) == pytest.approx(0.5)
    assert recipe.learning_rate_at(99) == pytest.approx(0.02)


def test_without_warm_up_and_decay_the_learning_rate_stays() -> None:
    recipe = TrainingRecipe(steps=100, learning_rate=2.0)
    assert {recipe.learning_rate_at(step) for step in range(100)} == {2.0}


def test_a_constant_average_takes_the_same_share_of_every_step() -> None:
    assert {ConstantAverage(0.75).weight(step) for step in (1, 10, 1000)} == {0.25}


def test_a_power_average_begins_with_all_and_ends_with_little_of_a_step() -> None:
    assert PowerAverage(6.94).weight(1) == 1.0
    assert PowerAverage(6.94).weight(1000) == pytest.approx(7.94 / 1000, rel=0.01)
