"""What every step model has: its outputs; the kappa head, whose gradient is ten times the loss's, its precision and its
file; and a line where it is asked to write."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mprm.backbones.base import KAPPA, KappaHead, StepHead, StepModel, stored_kappa
from mprm.batching.collate import Batch, Example, collate
from mprm.inference.scoring import Scoring


def head(hidden_size: int = 16) -> KappaHead:
    """A head in the middle of a training."""
    torch.manual_seed(0)
    drawn = KappaHead(hidden_size)
    for parameter in drawn.parameters():
        parameter.data = torch.randn_like(parameter)
    return drawn


def test_kappa_starts_at_four() -> None:
    torch.manual_seed(0)
    kappa_M = KappaHead(256)(50 * torch.randn(32, 256))
    assert kappa_M.shape == (32,)
    torch.testing.assert_close(kappa_M, torch.full((32,), 4.0), atol=0.1, rtol=0)
    assert kappa_M.std() > 0.001, "not the same for every step"


def test_kappa_is_a_softplus_of_the_normed_hidden_state() -> None:
    """(1, 3) becomes (-1, 1), scaled and shifted (-1, 1.5); 1 x -1 + 2 x 1.5 + .5 = 2.5."""
    one = KappaHead(2)
    values = {"scale": [1.0, 1.0], "shift": [0.0, 0.5], "weight": [[1.0, 2.0]], "bias": [0.5]}
    one.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    assert one(torch.tensor([[1.0, 3.0]])).item() == pytest.approx(math.log(1 + math.exp(2.5)) + 1e-3, abs=1e-4)
    one.bias.data -= 1000
    assert one(torch.tensor([[1.0, 3.0]])).item() == pytest.approx(1e-3)


def test_the_gradient_is_ten_times_that_of_the_loss_for_the_parameters_and_once_for_the_hidden_state() -> None:
    """All of the head's parameters, those of its norm too."""
    scaled, plain = head(), head()
    h_MD = torch.randn(5, 16, requires_grad=True)
    g_MD = h_MD.detach().clone().requires_grad_()
    normed_MD = nn.functional.layer_norm(g_MD, (16,), plain.scale, plain.shift)
    kappa_M = nn.functional.softplus(nn.functional.linear(normed_MD, plain.weight, plain.bias)[:, 0]) + 1e-3
    assert scaled(h_MD).equal(kappa_M)
    (kappa_M**2).sum().backward()
    (scaled(h_MD) ** 2).sum().backward()
    assert g_MD.grad is not None
    assert g_MD.grad.abs().min() > 0
    torch.testing.assert_close(h_MD.grad, g_MD.grad, atol=1e-5, rtol=1e-5)
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(scaled.get_parameter(name).grad, 10 * parameter.grad, atol=1e-4, rtol=1e-5)


def test_kappa_is_computed_in_float32() -> None:
    """Under autocast, and where DeepSpeed has made the parameters bfloat16."""
    one, h_MD = head(), torch.randn(5, 16)
    expected = one(h_MD)
    with torch.autocast("cpu", torch.bfloat16):
        assert one(h_MD).equal(expected)
    for parameter in one.parameters():
        parameter.data = parameter.data.bfloat16()
    rounded = one(h_MD.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, atol=0.1, rtol=0.02)


def test_a_stored_head_comes_back_and_draws_nothing(tmp_path: Path) -> None:
    assert stored_kappa(None) is None
    assert stored_kappa(str(tmp_path)) is None
    one = head()
    save_file(one.state_dict(), tmp_path / KAPPA)
    before = torch.get_rng_state()
    again = stored_kappa(str(tmp_path))
    assert torch.get_rng_state().equal(before)
    assert again is not None
    assert all(parameter.requires_grad for parameter in again.parameters())
    assert all(again.get_parameter(name).equal(parameter) for name, parameter in one.named_parameters())
    (tmp_path / KAPPA).write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"^\S+kappa\.safetensors cannot be read \(.*\); export the folder again$"):
        stored_kappa(str(tmp_path))


class Marks(StepModel):
    """Hidden states that are given."""

    def __init__(self, h_MD: torch.Tensor) -> None:
        super().__init__()
        self.h_MD = h_MD
        self.head = StepHead(torch.eye(2, h_MD.shape[1]))

    def marked(self, batch: Batch) -> torch.Tensor:
        return self.h_MD


def test_a_family_gives_hidden_states_and_has_all_else() -> None:
    h_MD = torch.tensor([[1.0, 3.0, 9.0], [2.0, 2.0, 9.0]])
    model, batch = Marks(h_MD), collate([Example(torch.arange(4), torch.tensor([1, 3]), torch.arange(4), {})])
    logits_M2, kappa_M = model(batch)
    assert logits_M2.tolist() == model(batch).logits_M2.tolist() == [[1.0, 3.0], [2.0, 2.0]]
    assert kappa_M is None
    model.set_kappa(True)
    assert model(batch).kappa_M.tolist() == pytest.approx([4.0, 4.0], abs=0.01)
    head = model.kappa
    model.set_kappa(True)
    assert model.kappa is head, "the one that is there is kept"
    model.set_kappa(False)
    assert model(batch).kappa_M is None
    assert not model.recomputes
    model.check_training()


def test_a_model_that_writes_nothing_says_so() -> None:
    model = Marks(torch.zeros(1, 2))
    with pytest.raises(
        ValueError, match=r"^backbone: Marks cannot write text, as a judge must; choose a chat model.*$"
    ):
        model.train_generation()
    scoring: Any = Scoring(model, None, 9, 9, "cpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^backbone: Marks writes no text, so that .* no entropy under it; choose.*$"):
        scoring.entropies([], None)
