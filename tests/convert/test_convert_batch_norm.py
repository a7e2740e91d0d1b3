import pytest
import torch
from torch import nn

from ghostnet.convert.batch_norm import reestimate_batch_norm_
from ghostnet.errors import InputError


def test_statistics_are_the_exact_average_and_modes_return() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5)).train()
    model[1].eval()
    batches = [torch.randn(4, 3, 5, 5) * 2 + 1 for _ in range(3)]
    reestimate_batch_norm_(model, batches)
    torch.testing.assert_close(
        model[0].running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    )
    torch.testing.assert_close(model[0].running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert model[0].momentum == 0.3
    assert model[0].training
    assert not model[1].training


def test_no_batches_is_an_error() -> None:
    with pytest.raises(InputError, match="no batches"):
        reestimate_batch_norm_(nn.BatchNorm2d(1), [])


def behind_a_pooling() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)).eval()


def test_a_single_image_at_the_end_belongs_to_the_batch_before_it() -> None:
    images = torch.randn(9, 3, 5, 5)
    model = reestimate_batch_norm_(behind_a_pooling(), [images[:4], images[4:8], images[8:]])
    wanted = reestimate_batch_norm_(behind_a_pooling(), [images[:4], images[4:]])
    assert torch.equal(model[1].running_var, wanted[1].running_var)


def test_one_image_has_no_variance_of_pixels() -> None:
    with pytest.raises(InputError, match="at least two images a batch"):
        reestimate_batch_norm_(behind_a_pooling(), [torch.randn(1, 3, 5, 5)])


class Auxiliary(nn.Module):
    """A branch that runs in training only, and an error for images of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.branch = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in (self.main, self.branch):
            nn.init.constant_(norm.running_mean, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.main(x)
        if len(x) != 4:
            raise RuntimeError("four at a time")
        return result + self.branch(x) if self.training else result


def test_norms_that_do_not_run_keep_their_statistics_and_all_do_after_an_error() -> None:
    model = Auxiliary()
    reestimate_batch_norm_(model, [torch.zeros(4, 3, 5, 5)])
    assert (model.main.running_mean == 0).all()
    assert (model.branch.running_mean == 2).all()
    with pytest.raises(RuntimeError):
        reestimate_batch_norm_(model, [torch.ones(4, 3, 5, 5), torch.ones(5, 3, 5, 5)])
    assert (model.main.running_mean == 0).all()
    assert model.main.num_batches_tracked == 1
