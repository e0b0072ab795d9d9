"""Qwen2.5-Math-PRM and Math-Shepherd beside plain transformers, as their model cards have it: one solution at a time,
the whole written as one string, the scores read where its tokens are those of the separator."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece as spm
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2Model

from mprm.backbones.sentencepiece import load_tokenizer
from mprm.prms.text import MathShepherd, QwenMathPRM
from tests.prms.conftest import Solution
from tools import tiny

SYSTEM = r"Please reason step by step, and put your final answer within \boxed{}."
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
SOLUTIONS: list[Solution] = [
    ([], "What is red plus blue?", ["red is 4.", "blue is 7.", "The answer is 11."]),
    ([], "What is red plus blue?", ["red is 4.", "blue is 8."]),
    ([], "How much is - 3 + 4?\n", ["\n-3 + 4\n\n= 1."]),
]
Scores = Callable[..., list[list[float]]]


def stronger(folder: Path, factor: float) -> None:
    """Weights so large that every part shows in the scores."""
    weights = folder / "model.safetensors"
    tensors = {name: factor * value if value.ndim > 1 else value for name, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def qwen_math(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Laid out as the published folder: `model.*` and `score.*`, no LM head, a separator that is no special token."""
    folder = tmp_path_factory.mktemp("qwen_math")
    tokenizer = tiny.build_tokenizer("qwen2")
    tokenizer.add_tokens(["<extra_0>"], special_tokens=False)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(**SMALL, vocab_size=len(tokenizer) + 5, sliding_window=131072, use_sliding_window=False)
    model = Qwen2Model(config)
    config.save_pretrained(folder)
    about = json.loads((folder / "config.json").read_text())
    about |= {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForProcessRewardModel"],
        "auto_map": {
            "AutoConfig": "configuration_qwen2_rm.Qwen2RMConfig",
            "AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel",
        },
    }
    (folder / "config.json").write_text(json.dumps(about))
    score = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"score.{name}": value for name, value in score.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stronger(folder, 3)
    return folder


@torch.inference_mode()
def as_the_card_of_qwen(folder: Path, solution: Solution) -> list[float]:
    _, question, steps = solution
    tokenizer, weights = AutoTokenizer.from_pretrained(folder), load_file(folder / "model.safetensors")
    model = Qwen2Model(Qwen2Config(**SMALL, vocab_size=len(tokenizer) + 5)).eval()
    model.load_state_dict({name[6:]: value for name, value in weights.items() if name.startswith("model.")})
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    text += "<extra_0>".join(steps) + "<extra_0><|im_end|>\n"
    ids = tokenizer.encode(text, return_tensors="pt")
    h_MD = model(ids).last_hidden_state[ids == tokenizer.encode("<extra_0>")[0]]
    h_MD = torch.relu(h_MD @ weights["score.0.weight"].T + weights["score.0.bias"])
    logits_M2 = h_MD @ weights["score.2.weight"].T + weights["score.2.bias"]
    return logits_M2.softmax(-1)[:, 1].tolist()


def test_qwen_math_prm_is_asked_as_published(qwen_math: Path, scores: Scores) -> None:
    found = scores(QwenMathPRM(path=str(qwen_math), system=SYSTEM), SOLUTIONS)
    for solution, ours in zip(SOLUTIONS, found, strict=True):
        assert ours == pytest.approx(as_the_card_of_qwen(qwen_math, solution), abs=1e-5)
    assert max(map(max, found)) - min(map(min, found)) > 0.02  # the model says something
    one_by_one = scores(QwenMathPRM(path=str(qwen_math), system=SYSTEM, exact=False), SOLUTIONS)
    for ours, theirs in zip(found, one_by_one, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_the_separator_in_the_text_is_text(qwen_math: Path) -> None:
    processor, _ = QwenMathPRM(path=str(qwen_math)).load()
    example = processor.layout([], "Is <extra_0> one?<|im_end|>", ["It is <extra_0>.", "+<extra_0>"])
    assert (example.input_ids == processor.tokenizer.convert_tokens_to_ids("<extra_0>")).nonzero()[
        :, 0
    ].tolist() == example.marks.tolist()
    assert len(example.marks) == 2
    text = processor.tokenizer.decode(example.input_ids)
    assert text == (
        "<|im_start|>user\nIs [extra_0] one?<|im_end|><|im_end|>\n<|im_start|>assistant\n"
        "It is [extra_0].<extra_0>+[extra_0]<extra_0>"
    )
    assert (example.input_ids == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")).sum() == 1


@pytest.fixture(scope="module")
def shepherd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentencepiece tokenizer as Mistral's, without tokenizer.json, and Mistral's decoder with its window."""
    folder = tmp_path_factory.mktemp("shepherd")
    sentence = "Step 1: red is 4. ки\nStep 2: blue is 7. ки\nThe answer is 11 + 3 - 2. What is - + ки ?"
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([sentence, "ки + - a  b"] * 40),
        model_writer=model,
        model_type="bpe",
        vocab_size=340,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        byte_fallback=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    named = {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    own = {str(i): {"content": token, "special": True} for i, token in enumerate(("<unk>", "<s>", "</s>"))}
    (folder / "tokenizer_config.json").write_text(json.dumps(named | {"added_tokens_decoder": own}))
    torch.manual_seed(0)
    config = MistralConfig(**SMALL, vocab_size=len(load_tokenizer(folder)), sliding_window=4096)
    MistralForCausalLM(config).save_pretrained(folder)
    stronger(folder, 6)
    return folder


@torch.inference_mode()
def as_the_card_of_shepherd(folder: Path, text: str) -> list[float]:
    """The text with its tags, encoded by sentencepiece itself."""
    original = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    plus_minus, tag = original.encode("+ -"), original.encode("ки")[-1]
    assert [original.id_to_piece(one) for one in (*plus_minus, tag)] == ["▁+", "▁-", "▁ки"]
    ids = torch.tensor([[original.bos_id(), *original.encode(text)]])
    logits = MistralForCausalLM.from_pretrained(folder).eval()(ids).logits[0, :, plus_minus]
    return logits.softmax(-1)[:, 0][ids[0] == tag].tolist()


def test_math_shepherd_is_asked_as_published(shepherd: Path, scores: Scores) -> None:
    texts = [
        "What is red plus blue? Step 1: red is 4. ки\nStep 2: blue is 7. ки\nStep 3: The answer is 11. ки",
        "What is red plus blue? Step 1: red is 4. ки\nStep 2: blue is 8. ки",
        "How much is - 3 + 4?\n Step 1: \n-3 + 4\n\n= 1. ки",
        "a Step 1: b ки\nStep 2: ки\nStep 7: c ки",
    ]
    solutions: list[Solution] = [*SOLUTIONS, ([], "a", ["Step 1: b  ", " ", "Step 7: c"])]
    found = scores(MathShepherd(path=str(shepherd)), solutions)
    for text, ours in zip(texts, found, strict=True):
        assert ours == pytest.approx(as_the_card_of_shepherd(shepherd, text), abs=1e-5)
    assert max(map(max, found)) - min(map(min, found)) > 0.1


def test_a_tag_in_the_text_is_no_tag(shepherd: Path) -> None:
    processor, _ = MathShepherd(path=str(shepherd)).load()
    example = processor.layout([], "Is ки + or - ?</s>", ["It is ки.", "ки ки"])
    tag = processor.tokenizer.convert_tokens_to_ids("▁ки")
    assert (example.input_ids[example.marks] == tag).all()
    assert [processor.tokenizer.decode(example.input_ids[: mark + 1])[-9:] for mark in example.marks] == [
        "is ки. ки",
        " ки ки ки",
    ]
    assert (example.input_ids == 2).sum() == 0


def test_a_window_that_is_too_small_is_refused(shepherd: Path) -> None:
    with pytest.raises(ValueError, match=r"^model\.path=.* looks back 4096 .* give model\.max_length=4096 "):
        MathShepherd(path=str(shepherd), max_length=8192).scorer(4096, "cpu")


def test_images_are_refused_or_left_aside_when_that_is_said(qwen_math: Path, scores: Scores) -> None:
    with_image: list[Solution] = [([(56, 56)], *SOLUTIONS[0][1:])]
    with pytest.raises(AssertionError, match=r"refused_image.*model\.ignore_images=true"):
        scores(QwenMathPRM(path=str(qwen_math)), with_image)
    blind = QwenMathPRM(path=str(qwen_math), ignore_images=True)
    assert scores(blind, with_image) == scores(blind, SOLUTIONS[:1])


def test_a_folder_of_another_kind_is_one_line(shepherd: Path, qwen_math: Path) -> None:
    with pytest.raises(ValueError, match=r"^model\.path=.*: the weights have no .*bias"):
        QwenMathPRM(path=str(shepherd)).scorer(4096, "cpu")
    with pytest.raises(ValueError, match=r"^model\.path=.*: the weights have no lm_head\.weight"):
        MathShepherd(path=str(qwen_math)).scorer(4096, "cpu")
