"""No step of a training waits for the device but where its loss is read: nothing that is computed there is asked for on
the host, and what the host knows is copied there without waiting."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torchmetrics import MeanMetric

from mprm.backbones import chat
from mprm.backbones.auto import Auto
from mprm.batching.collate import Batch, collate
from mprm.batching.order import Shuffled
from mprm.judge.sft import Imitation, ResponseBatch
from mprm.training import module as module_file
from mprm.training.module import StepScoring, TrainingModule
from mprm.training.objectives import Hard
from mprm.training.recipe import Machine, Recipe, Schedule
from tests.backbones.families import FAMILIES, write
from tests.backbones.test_packed import encoded

SCHEDULE = Schedule(Recipe(), Machine(), Shuffled(), seed=0)
ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "masked_scatter_backward", "unique", "equal", "is_nonzero")


class Device(TorchDispatchMode):
    """Notes what of the tensors that would lie on a CUDA device, and of all that is computed of them, is asked for."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__()
        self.held: dict[int, torch.UntypedStorage] = {}  # kept, so that no other storage gets its address
        self.waits: list[str] = []
        self.take(tensors)

    def take(self, tensors: Any) -> None:
        for tensor in tree_iter(tensors):
            if isinstance(tensor, torch.Tensor):
                self.held[tensor.untyped_storage()._cdata] = tensor.untyped_storage()

    def has(self, *tensors: Any) -> bool:
        found = (tensor.untyped_storage() for tensor in tree_iter(tensors) if isinstance(tensor, torch.Tensor))
        return any(storage._cdata in self.held for storage in found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.has(args, kwargs):
            return func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        by_mask = name.startswith("index") and any(getattr(x, "dtype", None) == torch.bool for x in tree_iter(args[1]))
        repeated = func is torch.ops.aten.repeat_interleave.Tensor and (kwargs or {}).get("output_size") is None
        if by_mask or repeated or name.strip("_").startswith(tuple(part.strip("_") for part in ASKING)):
            self.waits.append(name)
        found = func(*args, **(kwargs or {}))
        self.take(found)
        return found


class Host(TorchFunctionMode):
    """Notes what a dispatched operation does not show: a tensor as Python's numbers, and copies that wait."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = getattr(func, "__name__", ""), kwargs or {}
        found = func(*args, **options)
        if name in ("tolist", "cpu", "numpy") and self.device.has(args[0]):
            self.device.waits.append(name)
        index = args[1] if name in ("__getitem__", "__setitem__") and self.device.has(args[0]) else ()
        if any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,))):
            self.device.waits.append(f"{name} by a list")
        if name in ("tensor", "as_tensor") and options.get("device") is not None:
            self.device.waits.append(f"{name} on the device")
        if name == "to" and isinstance((*args, None)[1], torch.device) and not self.device.has(args[0]):
            if not options.get("non_blocking"):
                self.device.waits.append("a copy that waits")
            found = found.clone()
            self.device.take(found)
        return found


@pytest.fixture(scope="module")
def module_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[TrainingModule, Batch]]:
    """module_of("internvl"): a training of the family and one row."""

    folders: dict[str, Path] = {}

    def module_of(family: str) -> tuple[TrainingModule, Batch]:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp("family")
            write(FAMILIES[family], folders[family])
        folder = folders[family]
        processor, model = Auto(path=str(folder), **dict(FAMILIES[family].options)).load()
        module = StepScoring(model, Hard(ignore=[0.0, 0.5]), SCHEDULE, 0.4)
        examples = encoded(processor, lambda *size: Image.new("RGB", size, "red"))
        rng = random.Random(0)
        for example in examples:
            mc = [rng.choice([0.0, 0.25, 1.0, float("nan")]) for _ in example.marks]
            object.__setattr__(example, "mc", torch.tensor(mc))
        return module, collate(examples)

    return module_of


def waits(module: TrainingModule, batch: Any) -> list[str]:
    """What a step waits for: its batch is copied, its loss computed, differentiated, and read."""
    module.train()
    module.loss(batch)  # so that the layout of every size of an image, which is worked out on the host, is known
    metrics = [tensor for metric in module.curve.values() for tensor in vars(metric).values()]
    device = Device(*module.parameters(), *module.buffers(), *(x for x in metrics if isinstance(x, torch.Tensor)))
    with Host(device), device:
        module.loss(batch.to(torch.device("cpu"), non_blocking=True)).backward()
        read = module.curve["loss"].compute()
        assert not device.waits, device.waits
        float(read)
    assert any(parameter.grad is not None for parameter in module.parameters())
    return device.waits


@pytest.mark.parametrize("family", ["internvl", "qwen2_5_vl", "qwen3_vl"])
def test_a_step_waits_for_its_loss_alone(family: str, module_of: Any) -> None:
    assert waits(*module_of(family)) == ["_local_scalar_dense"]


def test_a_judges_step_waits_for_its_loss_alone(module_of: Any) -> None:
    scoring, row = module_of("internvl")
    module = Imitation(scoring.model, SCHEDULE)
    module.prepare()
    assert waits(module, ResponseBatch(row, torch.zeros_like(row.mark_M))) == ["_local_scalar_dense"]


def _scattered(x_ND: torch.Tensor, is_image_BL: torch.Tensor) -> torch.Tensor:
    return torch.zeros(*is_image_BL.shape, x_ND.shape[-1]).masked_scatter(is_image_BL[..., None], x_ND)


def _moved(batch: Batch, device: torch.device, non_blocking: bool = False) -> Batch:
    vision = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.vision.items()}
    return replace(Batch_to(batch, device, non_blocking), vision=vision)


Batch_to = Batch.to
PUT_BACK: dict[str, tuple[Any, str, Any]] = {
    "masked_scatter": (chat, "laid_out", _scattered),
    "tolist": (Batch, "to", _moved),
    "_local_scalar_dense": (module_file, "Mean", MeanMetric),
}


@pytest.mark.parametrize("wait", PUT_BACK)
def test_one_that_is_put_back_is_found(wait: str, module_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*PUT_BACK[wait])
    with pytest.raises(AssertionError, match=wait):
        waits(*module_of("qwen2_5_vl"))


ASKED: list[Callable[[torch.Tensor], Any]] = [
    lambda x: x[0].item(),
    lambda x: bool((x > 0).all()),
    lambda x: x[x > 0],
    lambda x: x.nonzero(),
    lambda x: x.unique(),
    lambda x: x.cpu(),
    lambda x: x.clone().index_put_((x > 0,), torch.ones(1)),
    lambda x: x.repeat_interleave(x.long()),
    lambda x: x[[0, 1]],
    lambda x: x + torch.tensor([1.0], device=x.device),
    lambda x: x + torch.ones(1).to(x.device),
]


@pytest.mark.parametrize("asked", ASKED)
def test_what_waits_is_known(asked: Any) -> None:
    x = torch.tensor([0.0, 1.0])
    device = Device(x)
    with Host(device), device:
        _ = x.sum() + torch.ones(1).to(x.device, non_blocking=True)
        assert not device.waits
        asked(x)
    assert device.waits
