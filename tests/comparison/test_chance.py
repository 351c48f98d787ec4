"""What the comparisons say where only chance is at work, and where something is.

Everything is resampled under fixed seeds, so that a test gives the same answer each time. Where nothing differs, a
permutation test at level 0.05 finds a difference in at most 5% of the comparisons: on average in 10 of 200, and in more
than 18 by an accident that happens once in 150 times. Fewer than 2 would say that it cannot find anything.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefopt.comparison.differences import Difference, differences
from prefopt.comparison.results import Results
from prefopt.comparison.statistics import paired_permutation, t_intervals
from prefopt.comparison.suite import Suite
from prefopt.comparison.summary import Setting, frame
from prefopt.sampling import Generation
from prefopt.tasks.generation import generate
from prefopt.tasks.planted import PlantedTask

pytestmark = pytest.mark.slow

TIMES, LEVEL = 200, 0.05
FEWEST, MOST = 2, 18
"""P(X < 2) < 0.0005 and P(X > 18) < 0.007 for X ~ Binomial(200, 0.05)."""
SEEDS, ITEMS, SAMPLES = 8, 16, 2
TASK = {"pairs": 4, "held_out": 2, "prompts": 64, "shortest": 10, "longest": 10, "bearing": 0.3, "reference_steps": 30}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """[prompts, samples]: the true reward of what one policy wrote, many times on each prompt."""
    task = PlantedTask(**TASK)
    material = task.prepare(tmp_path_factory.mktemp("material"), 0)
    policy, reference = (AutoModelForCausalLM.from_pretrained(material.model).eval() for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(material.model)
    prompts = [json.loads(line)["prompt"] for line in material.prompts.read_text().splitlines()]
    written = generate(policy, reference, tokenizer, prompts, Generation(samples=24, max_new_tokens=11), seed=0)
    language = task.language(0)
    rewards = torch.tensor([[float(language.reward(text.split())) for text in texts] for texts in written.texts])
    assert rewards.std() > 0.5
    return rewards


class Draw:
    """Comparisons drawn from the pool: in each seed other prompts, and of each name other samples on the same ones."""

    def __init__(self, pool: torch.Tensor, *, training: float) -> None:
        self.pool = pool
        self.training = training
        self.generator = torch.Generator().manual_seed(0)

    def compare(self, *names: str, better: float = 0.0) -> list[Difference]:
        """Each name against "base"; `training` is how much a policy differs from another training of the same, `better`
        what is added to the rewards of the names."""
        lines: list[tuple[str, Setting, str, int, str, float]] = []
        for seed in range(SEEDS):
            items = torch.randint(len(self.pool), (ITEMS,), generator=self.generator)
            for name in ("base", *names):
                drawn = torch.randint(self.pool.shape[1], (ITEMS, SAMPLES), generator=self.generator)
                rewards = self.pool[items[:, None], drawn].mean(-1)
                rewards += self.training * torch.randn((), generator=self.generator)
                rewards += better if name in names else 0.0
                lines += [("reward", (), name, seed, str(item), value) for item, value in enumerate(rewards.tolist())]
        return differences(frame(lines), dict.fromkeys(names, "base"))


def test_an_objective_is_not_found_different_from_itself_over_items(pool: torch.Tensor) -> None:
    draw = Draw(pool, training=0.0)
    p_values = [draw.compare("same")[0].p_items or 0.0 for _ in range(TIMES)]
    assert FEWEST <= sum(p < LEVEL for p in p_values) <= MOST


def test_nor_over_seeds_where_trainings_differ(pool: torch.Tensor) -> None:
    draw = Draw(pool, training=0.3)
    p_values = [draw.compare("same")[0].p for _ in range(TIMES)]
    assert FEWEST <= sum(p < LEVEL for p in p_values) <= MOST


def test_on_average_it_is_as_rare_as_it_says(pool: torch.Tensor) -> None:
    """Of 8 differences 12 of 256 changes of sign have a p below 0.05: so should 4.69% of null comparisons."""
    generator, times = torch.Generator().manual_seed(0), 4000
    rewards = pool[:, torch.randint(pool.shape[1], (2, times, SEEDS), generator=generator)].mean(0)
    rewards += 0.3 * torch.randn(rewards.shape, generator=generator)
    p_values = (paired_permutation(sample, seed=0, resamples=2000) for sample in rewards[0] - rewards[1])
    rate = sum(p < LEVEL for p in p_values) / times
    assert rate == pytest.approx(12 / 256, abs=3 * math.sqrt(0.0469 * 0.9531 / times))


def test_items_know_nothing_of_another_training(pool: torch.Tensor) -> None:
    """Why p over items is said to be of these trained policies."""
    draw = Draw(pool, training=0.3)
    p_values = [draw.compare("same")[0].p_items or 0.0 for _ in range(TIMES)]
    assert sum(p < LEVEL for p in p_values) > 2 * MOST


def test_a_planted_difference_is_found(pool: torch.Tensor) -> None:
    draw = Draw(pool, training=0.1)
    compared = [draw.compare("better", better=0.8)[0] for _ in range(TIMES)]
    assert sum((d.p_items or 0.0) < LEVEL and d.estimate.mean > 0 for d in compared) >= 0.95 * TIMES
    assert sum(d.told and d.estimate.mean > 0 for d in compared) >= 0.95 * TIMES
    assert all((d.estimate.low > 0) == (d.p_t < LEVEL) for d in compared)  # type: ignore[operator]
    covered = sum(d.estimate.low < 0.8 < d.estimate.high for d in compared)  # type: ignore[operator]
    assert 0.9 * TIMES <= covered <= 0.99 * TIMES


@pytest.mark.long
def test_holm_keeps_the_error_of_several_objectives_together(pool: torch.Tensor) -> None:
    draw = Draw(pool, training=0.0)
    families = [draw.compare(*"abcd") for _ in range(TIMES)]
    unadjusted = sum(any((d.p_t or 0.0) < LEVEL for d in family) for family in families)
    kept = sum(any(d.told for d in family) for family in families)
    assert kept <= MOST < unadjusted


@pytest.mark.parametrize("seeds", [2, 3, 6, 40])
def test_an_interval_over_seeds_holds_the_truth_as_often_as_it_says(seeds: int) -> None:
    values = torch.randn(1000, seeds, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = t_intervals(values.numpy())
    assert 0.93 < ((low < 0) & (high > 0)).mean() < 0.97


BETAS = [0.1, 0.2, 0.4, 0.8, 1.6]
SUITE: dict[str, Any] = {
    "task": "planted",
    "objectives": {"dpo": "dpo", "half as strong": "tdpo1"},
    "sweeps": {"objective.beta": BETAS},
    "seeds": [0, 1, 2],
}


@pytest.mark.parametrize(("times", "most"), [(10, 3), pytest.param(50, 7, marks=pytest.mark.long)])
def test_on_one_frontier_there_is_no_difference_at_matched_distance(times: int, most: int) -> None:
    """Two objectives whose runs lie on the same frontier, and of which one goes half as far at the same beta."""
    suite = Suite.model_validate(SUITE)
    runs, generator = suite.runs(), torch.Generator().manual_seed(0)
    at_equal_beta = at_matched = 0
    for _ in range(times):
        easy = {seed: torch.randn(24, generator=generator) for seed in suite.seeds}
        records = {}
        for run in runs:
            part = {"dpo": 1.0, "half as strong": 0.5}.get(run.name, 0.0)
            distance = part * 4 / float(run.setting.get("objective.beta", 1.0)) ** 0.7
            rewards = easy[run.seed] + 3 * (1 - math.exp(-distance / 15)) + 0.3 * torch.randn(24, generator=generator)
            values = {"reward": rewards.tolist(), "sequence_kl": [distance] * 24}
            by_item = {
                name: {str(item): value for item, value in enumerate(figures)} for name, figures in values.items()
            }
            records[run.key] = {"values": by_item, "error": None}
        results = Results.compute(suite, records)
        equal = next(d for d in results.differences if d.setting == (("objective.beta", "0.2"),))
        (plane,) = results.planes
        matched = plane.matched[0].differences[0]
        assert plane.matched[0].distance == pytest.approx(5.5, rel=0.1)
        at_equal_beta += (equal.p_items or 0.0) < LEVEL
        at_matched += (matched.p_items or 0.0) < LEVEL
    assert at_equal_beta >= 0.95 * times
    assert at_matched <= most  # for X ~ Binomial(times, 0.05): P(X > 3) < 0.002 of 10, P(X > 7) < 0.005 of 50
