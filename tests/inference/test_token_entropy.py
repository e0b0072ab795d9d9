import math

import pytest
import torch

from mprm.inference import decoding as module
from mprm.inference.decoding import token_entropy

IMPOSSIBLE = -math.inf


def test_worked_rows() -> None:
    rows = [
        ([0.0, 0.0, 0.0, 0.0], math.log(4)),
        ([7.0, 7.0, IMPOSSIBLE, IMPOSSIBLE], math.log(2)),
        ([math.log(3), 0.0, IMPOSSIBLE, IMPOSSIBLE], math.log(4) - 0.75 * math.log(3)),  # 3/4 and 1/4
        ([math.log(2), 0.0, 0.0, IMPOSSIBLE], 1.5 * math.log(2)),
    ]
    logits_NV = torch.tensor([logits for logits, _ in rows])
    expected_N = torch.tensor([entropy for _, entropy in rows])
    torch.testing.assert_close(token_entropy(logits_NV), expected_N, atol=1e-6, rtol=0)
    # only differences between logits matter
    torch.testing.assert_close(token_entropy(logits_NV + 50), expected_N, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_certain_has_none_at_all(dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max
    rows = [[large, 0.0, 0.0], [large, -large, -large], [IMPOSSIBLE, -3.0, IMPOSSIBLE], [0.0, -1000.0, -1000.0]]
    assert token_entropy(torch.tensor(rows, dtype=dtype)).tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_large_vocabulary(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    n_words = 150_000
    logits_NV = torch.stack([torch.zeros(n_words), torch.randn(n_words, generator=torch.Generator().manual_seed(0))])
    logits_NV = logits_NV.to(dtype)
    exact_NV = torch.log_softmax(logits_NV.double(), dim=-1)
    expected_N = -(exact_NV.exp() * exact_NV).sum(-1).float()
    assert expected_N[0] == pytest.approx(math.log(n_words))
    whole_N = token_entropy(logits_NV)
    assert whole_N.dtype == torch.float32
    torch.testing.assert_close(whole_N, expected_N, atol=1e-6, rtol=0)
    monkeypatch.setattr(module, "CHUNK", 2)  # less than a row
    torch.testing.assert_close(token_entropy(logits_NV), whole_N, atol=1e-6, rtol=0)
