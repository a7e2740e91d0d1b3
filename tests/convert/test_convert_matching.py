import itertools

import numpy as np
import pytest
import torch

from ghostnet.convert.matching import _nearest_pairs, match
from ghostnet.errors import InputError


def _total(
    errors: torch.Tensor, own: torch.Tensor, heads: torch.Tensor, ghosts: torch.Tensor, sources
) -> float:
    return float(own[heads].sum() + errors[heads[sources], ghosts].sum())


@pytest.mark.parametrize(("count", "sources"), [(6, [0, 1, 2]), (7, [0, 0, 1, 1, 2 - 1]), (5, [0, 1])])
def test_each_target_is_used_once(count: int, sources: list[int]) -> None:
    torch.manual_seed(0)
    heads, ghosts = match(torch.rand(count, count), torch.rand(count), torch.tensor(sources))
    assert sorted([*heads.tolist(), *ghosts.tolist()]) == list(range(count))


def test_pairing_is_close_to_the_best_of_all_pairings() -> None:
    torch.manual_seed(1)
    sources = torch.arange(3)
    for _ in range(5):
        errors, own = torch.rand(6, 6), torch.rand(6)
        best = min(
            _total(errors, own, torch.tensor(order[:3]), torch.tensor(order[3:]), sources)
            for order in itertools.permutations(range(6))
        )
        heads, ghosts = match(errors, own, sources)
        assert _total(errors, own, heads, ghosts, sources) <= 1.25 * best


@pytest.mark.parametrize("seed", range(5))
def test_no_exchange_between_two_pairs_would_help_any_more(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    errors = torch.rand(32, 32, generator=generator).double()
    own = torch.rand(32, generator=generator).double()
    heads, ghosts = match(errors, own, torch.arange(16))
    directed = errors + own[:, None]
    cost = torch.minimum(directed, directed.T)
    for (a, b), (c, d) in itertools.combinations(zip(heads.tolist(), ghosts.tolist(), strict=True), 2):
        present = cost[a, b] + cost[c, d]
        assert cost[a, c] + cost[b, d] >= present - 1e-9
        assert cost[a, d] + cost[b, c] >= present - 1e-9


def test_groups_of_copies_are_found_at_ratio_three() -> None:
    family = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2])
    errors = (family[:, None] != family[None]).float()
    sources = torch.tensor([0, 0, 1, 1, 2, 2])
    heads, ghosts = match(errors, torch.zeros(9), sources)
    assert bool((family[heads[sources]] == family[ghosts]).all())


def test_shapes_that_do_not_belong_together() -> None:
    with pytest.raises(InputError, match="do not belong together"):
        match(torch.zeros(4, 4), torch.zeros(3), torch.tensor([0]))


def _nearest_first(costs: np.ndarray) -> list[tuple[int, int]]:
    left, pairs = set(range(len(costs))), []
    while len(left) > 1:
        _, one, two = min((costs[i, j], i, j) for i in left for j in left if i != j)
        pairs.append((one, two))
        left -= {one, two}
    return pairs


@pytest.mark.parametrize("count", [2, 3, 9, 24])
@pytest.mark.parametrize("steps", [2, 1000], ids=["ties", "none alike"])
def test_the_nearest_pair_that_is_left_is_taken_first(count: int, steps: int) -> None:
    draw = np.random.default_rng(count)
    costs = draw.integers(steps, size=(count, count)).astype(float)
    costs += costs.T
    np.fill_diagonal(costs, np.inf)
    assert list(map(tuple, _nearest_pairs(costs.copy()))) == _nearest_first(costs)
