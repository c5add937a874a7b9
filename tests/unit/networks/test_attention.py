from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from realuid_lightning.networks.attention import attend

Inputs = tuple[Tensor, Tensor, Tensor]


def inputs(tokens: int, dtype: torch.dtype) -> Inputs:
    values = torch.randn(3, 2, 2, tokens, 8, generator=torch.Generator().manual_seed(0))
    q, k, v = (each.to(dtype).requires_grad_() for each in values)
    return q, k, v


def in_float32(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)


def there_and_back(attention: Callable[[Tensor, Tensor, Tensor], Tensor], given: Inputs) -> list[Tensor]:
    mixed = attention(*given)
    return [mixed, *torch.autograd.grad(mixed.float().square().sum(), given)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("tokens", "dtype"), [(5, torch.float32), (300, torch.float32), (300, torch.bfloat16)])
def test_attention_is_that_of_pytorch(tokens: int, dtype: torch.dtype) -> None:
    given = inputs(tokens, dtype)
    assert same(there_and_back(attend, given), there_and_back(scaled_dot_product_attention, given))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_few_tokens_in_half_precision_go_back_through_float32(dtype: torch.dtype, autocast: bool) -> None:
    given = inputs(16, dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        found = there_and_back(attend, given)
    assert same(found, there_and_back(in_float32, given))
    assert found[0].dtype == dtype


@pytest.mark.parametrize("training", [False, True])
def test_what_is_not_gone_back_through_stays_in_half_precision(training: bool) -> None:
    q, k, v = inputs(16, torch.bfloat16)
    exact = in_float32(q, k, v)
    with torch.set_grad_enabled(training):
        q, k, v = q.detach(), k.detach(), v.detach()
        assert torch.equal(attend(q, k, v), scaled_dot_product_attention(q, k, v))
    assert not torch.equal(scaled_dot_product_attention(q, k, v), exact)  # so that the line above can tell them apart
