"""A small world of pairs, and a tiny judge that has learnt how to answer, though not which answer is better.

Shape suffixes: L tokens of a prompt and its response, R tokens of a response, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from mprm.backbones.internvl import InternVL, InternVLProcessor, InternVLStepModel
from mprm.batching.examples import open_images
from mprm.batching.order import Shuffled
from mprm.chartworld.questions import ChartWorldPairs
from mprm.data.questions import Pair
from mprm.inference.local import Sampler
from mprm.judge.judge import JudgeSettings, PresentedPair
from mprm.judge.sft import SFT, Imitation, Traces, faithful_traces
from mprm.training import fit as fit_module
from mprm.training.checkpoint import load_weights
from mprm.training.fit import fit
from mprm.training.lengths import measure_again
from mprm.training.recipe import Machine, Schedule
from tests.encoding import normalised

WEIGHTS = Path(__file__).parents[2] / "mprm" / "chartworld" / "weights" / "internvl"
BACKBONE = InternVL(path=str(WEIGHTS), max_tiles=1, max_length=512)
JUDGE = JudgeSettings(instruction="Which?", verdict="{}.", temperature=1.5, max_new_tokens=8)
Loaded = tuple[InternVLProcessor, InternVLStepModel]


Run = tuple[Path, list[dict[str, Any]]]  # folder of a training, lines of its metrics.jsonl


def assert_same(found: Run, expected: Run, atol: float) -> None:
    """0: bit for bit."""
    for one, two in zip(found[1], expected[1], strict=True):
        assert one == (pytest.approx(two, rel=1e-5, abs=atol) if atol else two)
    one, two = (load_file(folder / "weights.safetensors") for folder in (found[0], expected[0]))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=atol, rtol=0)


@pytest.fixture(scope="session")
def judge() -> JudgeSettings:
    return JUDGE


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[PresentedPair]:
    """24 pairs, all with a short trace; every eighth has a long answer."""
    path = tmp_path_factory.mktemp("world") / "pairs" / "pairs.jsonl"
    world = ChartWorldPairs(path=str(path), size=24, traced=0.77)
    read = [pair for pair in world.records() if isinstance(pair, Pair)]
    traced = [replace(pair, trace=f"The {pair.label.upper()}.") for pair in read]
    for number in (0, 8, 16):
        traced[number] = replace(traced[number], answer_b="I look at the chart.\n" * 6 + traced[number].answer_b)
    presented, left_out = faithful_traces(traced, JUDGE, world.image_folder.path)
    assert len(presented) == 24
    assert not left_out
    return presented


@dataclass(frozen=True)
class Taught:
    """The judge after its fine-tuning. folder: of the training; counted: what fit() has returned; lines: of its
    metrics.jsonl."""

    folder: Path
    counted: dict[str, int]
    lines: list[dict[str, float]]

    def load(self) -> Loaded:
        """A judge of one's own, to be trained or changed."""
        processor, model = BACKBONE.load()
        model.train_generation()
        load_weights(model, self.folder / "weights.safetensors")
        return processor, model.eval()


@pytest.fixture(scope="session")
def taught(pairs: list[PresentedPair], tmp_path_factory: pytest.TempPathFactory) -> Taught:
    """24 steps of 4 traces: nearly all responses have a verdict, A about as often as B."""
    folder = tmp_path_factory.mktemp("taught")
    lines: list[dict[str, float]] = []
    processor, model = BACKBONE.load()
    recipe = SFT(learning_rate=4e-3, weight_decay=0.0, epochs=4, global_batch_size=4)
    module = Imitation(model, Schedule(recipe, Machine(), Shuffled(), seed=0))
    traces = measure_again(Traces(pairs, processor, JUDGE), {}, 0)
    return Taught(folder, fit(module, traces, None, folder, lines.append), lines)


@pytest.fixture(scope="session")
def loaded(taught: Taught) -> Loaded:
    """The judge, not to be changed."""
    return taught.load()


@pytest.fixture(scope="session")
def sampler() -> Callable[..., Sampler]:
    """sampler(*loaded, temperature=0.0): one that asks as the judge is asked."""

    def sampler(processor: InternVLProcessor, model: InternVLStepModel, **options: Any) -> Sampler:
        settings = {"temperature": JUDGE.temperature, "max_new_tokens": JUDGE.max_new_tokens} | options
        return Sampler(processor=processor, model=model, instruction=JUDGE.instruction, **settings)

    return sampler


@pytest.fixture(scope="session")
def stock(taught: Taught) -> Any:
    """transformers' own model with the weights of the judge."""
    hf = AutoModelForImageTextToText.from_pretrained(WEIGHTS, dtype=torch.float32).eval()
    trained = load_file(taught.folder / "weights.safetensors")
    missing = hf.load_state_dict({name.removeprefix("hf."): value for name, value in trained.items()}, strict=False)
    assert not missing.unexpected_keys
    return hf


@pytest.fixture(scope="session")
def stock_logits(stock: Any, loaded: Loaded) -> Callable[[PresentedPair, list[int]], torch.Tensor]:
    """Logits (R, V) before every token of a response, by one pass over all of it in transformers."""
    processor, _ = loaded

    def logits(one: PresentedPair, ids: list[int]) -> torch.Tensor:
        images = open_images(one.images)
        prompt_ids = processor.ask([image.size for image in images], one.text, JUDGE.instruction).input_ids.tolist()
        ids_1L = torch.tensor([prompt_ids + ids])
        all_1LV = stock(input_ids=ids_1L, use_cache=False, **normalised(processor, processor.vision(images))).logits
        return all_1LV[0, len(prompt_ids) - 1 : -1]

    return logits


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks are forked: spawned, they would import all again."""
    strategy = DDPStrategy(process_group_backend="gloo", start_method="fork")
    monkeypatch.setattr(fit_module, "build_strategy", lambda machine: strategy)


@pytest.fixture
def with_bias(taught: Taught) -> Callable[[dict[str, float]], Loaded]:
    """with_bias({"<|im_end|>": 2.0}): a judge of which every next token has these logits, all others -inf; no logits
    at all: all of them 0."""

    def with_bias(logits: dict[str, float]) -> Loaded:
        processor, model = taught.load()
        size, width = model.hf.lm_head.weight.shape
        head = torch.nn.Linear(width, size)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, -torch.inf if logits else 0.0)
        for token, value in logits.items():
            head.bias.data[processor.tokenizer.convert_tokens_to_ids(token)] = value
        model.hf.lm_head = head
        return processor, model

    return with_bias
