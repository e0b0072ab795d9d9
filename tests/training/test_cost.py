"""What a training needs of memory, disk and time, foretold: by arithmetic, and by one row that is computed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch

from mprm.batching.order import Shuffled
from mprm.training import cost
from mprm.training.checkpoint import latest
from mprm.training.cost import (
    BUCKET,
    GATHERED,
    GIB,
    Memory,
    announce,
    announce_disk,
    check,
    disk_need,
    operations,
    rehearse,
    states,
)
from mprm.training.lengths import measure_again
from mprm.training.module import StepScoring
from mprm.training.objectives import Hard
from mprm.training.planner import Part, plan_parts
from mprm.training.recipe import Machine, Recipe, Schedule

PLAIN = Machine()
SHARDED = Machine(accelerator="gpu", strategy="deepspeed_stage_2")


class Model(torch.nn.Module):
    """A thousand numbers are trained, a hundred are frozen."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.trained = torch.nn.Linear(99, 10, dtype=dtype)
        self.frozen = torch.nn.Parameter(torch.zeros(100, dtype=dtype), requires_grad=False)


# ---- memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_gradients_and_optimizer_are_exact(dtype: torch.dtype) -> None:
    """Plain training makes float32 of what is trained; the arithmetic may be asked for before or after."""
    model = Model(dtype)
    memory = states(model, PLAIN)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    for weight in trained:
        weight.data = weight.data.float()
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert memory.parameters == sum(weight.nbytes for weight in model.parameters())
    assert memory.gradients == sum(weight.grad.nbytes for weight in trained if weight.grad is not None)
    assert memory.optimizer == sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    assert memory.host == 0
    assert memory.step == 12 * 990, "torch's loop over the weights"
    assert states(model, Machine(accelerator="gpu")).step == 0
    assert states(model, PLAIN) == memory
    assert states(model, Machine(devices=2, strategy="ddp")).gradients == 2 * memory.gradients


def test_deepspeed_divides_what_its_stage_says() -> None:
    model = Model()
    assert min(BUCKET, GATHERED) > 1100

    def parts(**options: Any) -> tuple[float, float, float, float]:
        memory = states(model, Machine(accelerator="gpu", precision="bf16-true", **options))
        assert memory.step == (0 if memory.host else memory.optimizer // 3), "one of float32 weights and two moments"
        return memory.parameters / 1100, memory.gradients / 1000, memory.optimizer / 1000, memory.host / 1000

    # bfloat16 weights, two buckets of bfloat16 gradients, their float32 sum; float32 weights and two moments.
    assert parts(devices=1, strategy="deepspeed_stage_2") == (2, 4 + 4, 12, 0)
    assert parts(devices=4, strategy="deepspeed_stage_2") == (2, 4 + 1, 3, 0)
    assert parts(devices=2, num_nodes=2, strategy="deepspeed_stage_3") == (2.5, 5, 3, 0)
    assert parts(devices=2, num_nodes=2, strategy="deepspeed_stage_3", offload_optimizer=True) == (2.5, 4, 0, 8)


@pytest.mark.parametrize(
    ("kind", "machine"), [("foreach", SHARDED), ("fused", Machine(accelerator="gpu")), (None, PLAIN)]
)
def test_a_step_copies_what_is_foretold(kind: str | None, machine: Machine) -> None:
    """The most that torch has allocated at a time in an optimizer step, clipping included."""
    model = torch.nn.Sequential(torch.nn.Linear(300, 200), torch.nn.Linear(200, 300), torch.nn.Linear(300, 10))
    trained = [*model.parameters()]
    groups = [{"params": [p for p in trained if p.ndim == n], "weight_decay": 0.1 * (n - 1)} for n in (1, 2)]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, **({kind: True} if kind else {}))  # type: ignore[arg-type]

    def step() -> None:
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in trained if weight.grad is not None])
        torch.nn.utils.clip_grads_with_norm_(trained, 1.0, norm)
        optimizer.step()

    for weight in trained:
        weight.grad = torch.ones_like(weight)
    step()  # which makes the moments
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    assert events
    assert max(accumulate(sizes)) == pytest.approx(states(model, machine).step, rel=0.02, abs=100)


def test_activations_shrink_with_the_share_of_checkpointed_layers(backbone: Any, planned: Any) -> None:
    kept: list[int] = []
    for share in (0.0, 0.5, 1.0):
        module, train = planned(options={"checkpoint_layers": share})
        kept.append(0)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[-1] += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module.model.train()(module.collate(train.examples.__getitems__(train.plan.cut(0)[0][0])))
        assert module.model.recomputes == share
    assert kept[1] == pytest.approx((kept[0] + kept[2]) / 2, rel=0.1)
    assert kept[2] < 0.5 * kept[0]


def test_operations_are_those_of_matrices() -> None:
    """A table is looked up in; what is frozen has no gradient of its own."""
    model = torch.nn.Sequential(torch.nn.Embedding(50, 7), torch.nn.Linear(7, 9), torch.nn.Linear(9, 4))
    model[2].requires_grad_(False)
    assert operations(model) == 6 * 7 * 9 + 4 * 9 * 4


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    memory = Memory(10 * GIB, 20 * GIB, 30 * GIB, activations=2 * GIB)
    check(memory, 62 * GIB, PLAIN)
    check(memory, None, PLAIN)
    line = (
        r"^trainer: needs about 62\.0 GiB per device, this one has 47\.5 GiB; lower trainer\.max_tokens, use "
        r"backbone\.language_model=lora, trainer=deepspeed_zero3, trainer\.offload_optimizer=true \(with DeepSpeed\), "
        r"or more devices$"
    )
    with pytest.raises(ValueError, match=line):
        check(memory, int(47.5 * GIB), PLAIN)
    with pytest.raises(ValueError, match=r"backbone\.language_model=lora, or more devices$"):
        check(memory, 62 * GIB - 1, Machine(strategy="deepspeed_stage_3", offload_optimizer=True))


def test_memory_is_one_line() -> None:
    memory = Memory(int(15.1 * GIB), int(15.1 * GIB), int(22.6 * GIB), activations=9 * GIB)
    line = "memory per device: parameters 15.1 GiB, gradients 15.1 GiB, optimizer 22.6 GiB"
    assert str(memory) == f"{line}, activations 9.0 GiB, in all 61.8 GiB"
    assert str(replace(memory, step=8 * GIB)) == str(memory), "the step follows when the activations are gone"
    assert str(replace(memory, step=10 * GIB)) == f"{line}, copies in its step 10.0 GiB, in all 62.8 GiB"
    offloaded = Memory(GIB, GIB, 0, host=3 * GIB)
    assert str(offloaded) == (
        "memory per device: parameters 1.0 GiB, gradients 1.0 GiB, optimizer 0 MiB, in all 2.0 GiB; activations come "
        "on top; in the CPU memory of a node 3.0 GiB"
    )


# ---- one row


@pytest.fixture
def planned(backbone: Any, part: Any) -> Callable[..., tuple[StepScoring, Part]]:
    """planned(precision="bf16-mixed"): a training of 12 rollouts, not begun."""

    def planned(options: Any = None, **machine: Any) -> tuple[StepScoring, Part]:
        processor, model = replace(backbone, **(options or {})).load()
        schedule = Schedule(Recipe(global_batch_size=8), Machine(**machine), Shuffled(), seed=0)
        module = StepScoring(model, Hard(), schedule)
        return module, plan_parts(module, measure_again(part(processor, range(12)), {}, 0), None)[0]

    return planned


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_rehearsal_leaves_the_module_as_it_was(planned: Any, precision: str) -> None:
    strategy = "deepspeed_stage_2" if precision == "bf16-true" else "auto"
    module, train = planned(precision=precision, strategy=strategy)
    before = {name: parameter.detach().clone() for name, parameter in module.model.named_parameters()}
    random_state = torch.get_rng_state()
    seconds, activations = rehearse(module, train, train.plan.cut(0)[0][0])
    assert seconds is not None
    assert seconds > 0
    assert activations is None, "told by a GPU alone"
    for name, parameter in module.model.named_parameters():
        assert parameter.dtype == before[name].dtype
        assert parameter.equal(before[name]), name
        assert parameter.grad is None, name
        assert not parameter._post_accumulate_grad_hooks, name
    assert torch.get_rng_state().equal(random_state)
    assert module.curve["loss"].weight == 0


def test_what_a_device_cannot_hold_is_told_before_the_training(
    planned: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a GPU of 64 MiB: by the arithmetic, by the rehearsal, and by a rehearsal that runs out of memory."""

    class Properties:
        total_memory = 64 * 2**20

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    activations = 10 * 2**20
    rows: list[Any] = []

    def rehearsed(module: Any, train: Part, row: Any) -> tuple[float, int]:
        rows.append(row)
        return 0.5, activations

    monkeypatch.setattr(cost, "rehearse", rehearsed)
    module, train = planned(accelerator="gpu")
    announce(module, train, tmp_path, with_time=True)
    said = capsys.readouterr().out
    assert "optimizer 11 MiB, activations 10 MiB, in all 33 MiB\n" in said
    tokens = [train.plan.lengths.cost([position for position, _ in row]) for row in rows]
    assert (
        f"seconds, estimated from the largest row: {tokens[0]:,} tokens forward and backward took 0.50 s here" in said
    )
    assert tokens[0] == max(
        train.plan.lengths.cost([position for position, _ in row])
        for step in range(train.plan.optimizer_steps)
        for ranks in train.plan.cut(step)
        for row in ranks
    )
    activations = 50 * 2**20
    rows.clear()
    with pytest.raises(ValueError, match=r"^trainer: needs about 0\.1 GiB per device, this one has 0\.1 GiB; lower"):
        announce(module, train, tmp_path)
    assert "activations 50 MiB" in capsys.readouterr().out
    Properties.total_memory = 16 * 2**20
    with pytest.raises(ValueError, match=r"^trainer: needs about 0\.0 GiB per device, this one has 0\.0 GiB; lower"):
        announce(module, train, tmp_path)
    assert len(rows) == 1, "nothing is computed where the states alone are too large"
    assert "train" not in "".join(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("strategy", ["auto", "deepspeed_stage_3"])
def test_a_row_that_runs_out_of_memory(planned: Any, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    """DeepSpeed shards later what stands whole in a rehearsal: nothing is refused for it."""

    def loss(batch: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    module, train = planned(strategy=strategy)
    monkeypatch.setattr(module, "loss", loss)
    if strategy == "auto":
        with pytest.raises(ValueError, match=r"^trainer: a forward and backward pass of \d+ tokens does not fit this"):
            rehearse(module, train, train.plan.cut(0)[0][0])
    else:
        assert rehearse(module, train, train.plan.cut(0)[0][0]) == (None, None)


# ---- disk


def test_what_is_foretold_is_what_is_written(train: Any, tmp_path: Path) -> None:
    models: list[Any] = []
    train(tmp_path, watch=models.append)
    written = latest(tmp_path / "checkpoints")[0], tmp_path / "weights.safetensors"
    for needed, path in zip(disk_need(models[0], Machine()), written, strict=True):
        assert path is not None
        assert path.stat().st_size == pytest.approx(needed, rel=0.02)


def test_deepspeed_writes_weights_of_its_own_besides() -> None:
    plain, weights = disk_need(Model(), Machine())
    assert (plain, weights) == (12_000, 4_000)
    for precision, share in (("bf16-true", 0.5), ("32-true", 1.0)):
        machine = Machine(strategy="deepspeed_stage_3", precision=precision)
        assert disk_need(Model(), machine) == (plain + share * weights, weights)


def test_a_disk_that_is_too_small_is_one_line(
    backbone: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model = backbone.load()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    sizes = "2 checkpoints of 16 MiB and weights of 5 MiB, in all 37 MiB"
    with pytest.raises(ValueError, match=rf"^\S+ is on a disk with 1 MiB free, the training writes {sizes}; free some"):
        announce_disk(model, Machine(), tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-1.ckpt").write_bytes(bytes(40 * 2**20))  # an earlier attempt's makes room
    announce_disk(model, Machine(), tmp_path)
    assert capsys.readouterr().out.endswith(f"disk: {sizes}; 41 MiB are free\n")
