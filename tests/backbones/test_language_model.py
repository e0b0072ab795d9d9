"""A language model on its own: the prompt without an image line, no image ever, what it writes, and its export."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mprm.backbones.auto import family_of
from mprm.backbones.language_model import LanguageModel
from mprm.batching.collate import collate
from mprm.inference.local import Sampler
from mprm.inference.policy import Prompt
from mprm.inference.scoring import ScoreRequest, Scoring
from mprm.training.checkpoint import export
from tools import tiny

QUESTION = "What is red plus blue?"
STEPS = ["red is 4.", "blue is 7.", "The answer is 11."]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "tie_word_embeddings": False,
}
SMALL |= {"num_attention_heads": 4, "num_key_value_heads": 2}
TURN = "<|im_start|>user\n"
BODY = "Question: What is red plus blue?\nProcess: red is 4.<prm>\n\nblue is 7.<prm>\n\nThe answer is 11.<prm>"


@pytest.fixture(scope="module")
def loaded(component: Any) -> Any:
    processor, model = component("qwen2").load()
    return processor, model.eval()


def test_the_prompt_is_the_published_one_without_the_line_of_the_image(loaded: Any) -> None:
    processor, model = loaded
    example = processor.layout([], QUESTION, STEPS)
    text = processor.tokenizer.decode(example.input_ids)
    assert text == f"{TURN}<|im_end|>\n<|im_start|>assistant\n{BODY}<|im_end|>\n"
    assert (example.input_ids[example.marks] == model.mark_id).all()
    asked = processor.tokenizer.decode(processor.ask([], QUESTION, "Step by step.").input_ids)
    assert asked == f"{TURN}{QUESTION}\nStep by step.<|im_end|>\n<|im_start|>assistant\n"


LLAMA_3 = {"<|im_start|>": "<|start_header_id|>", "<|im_end|>": "<|eot_id|>", "<|endoftext|>": "<|begin_of_text|>"}


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
def test_other_kinds_give_what_transformers_gives(kind: str, tmp_path: Path) -> None:
    """Solutions that share a beginning; Llama 3 has its own turns."""
    tokenizer = tiny.build_tokenizer("qwen2")
    config = AutoConfig.for_model(kind, **SMALL, vocab_size=len(tokenizer) + 1, sliding_window=None)
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(config).eval()
    hf.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if kind == "llama":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            text = (tmp_path / name).read_text()
            for token, other in LLAMA_3.items():
                text = text.replace(token, other)
            (tmp_path / name).write_text(text)
        again = AutoTokenizer.from_pretrained(tmp_path)
        again.add_special_tokens({"additional_special_tokens": ["<|end_header_id|>"]})
        again.save_pretrained(tmp_path)
    processor, model = LanguageModel(path=str(tmp_path), system="Be kind.").load()
    solutions = [STEPS, [*STEPS[:2], "The answer is 3."]]
    examples = [replace(processor.layout([], QUESTION, steps), group=0) for steps in solutions]
    text = processor.tokenizer.decode(examples[0].input_ids)
    if kind == "llama":
        head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
        system = f"<|begin_of_text|>{head('system')}Be kind.<|eot_id|>"
        assert text == f"{system}{head('user')}<|eot_id|>{head('assistant')}{BODY}<|eot_id|>"
        assert processor.tokenizer.decode([processor.turn_end_id]) == "<|eot_id|>"
    else:
        assert text.startswith(f"<|im_start|>system\nBe kind.<|im_end|>\n{TURN}<|im_end|>\n")
    hf.resize_token_embeddings(model.mark_id + 1, mean_resizing=False)
    with torch.inference_mode():
        found_M2 = model.eval()(collate(examples)).logits_M2
        hf.get_input_embeddings().weight[model.mark_id] = model.mark_D
        h_MD = torch.cat([hf.model(e.input_ids[None]).last_hidden_state[0, e.marks] for e in examples])
        expected_M2 = h_MD @ model.head.weight.T
    assert expected_M2.std() > 0.01
    torch.testing.assert_close(found_M2, expected_M2, atol=1e-5, rtol=1e-5)


def test_images_are_refused(loaded: Any, picture: Any) -> None:
    """Of a file of solutions only those that have some are not scored."""
    processor, model = loaded
    with pytest.raises(ValueError, match=r"^a language model sees no images; choose a vision-language backbone=$"):
        processor.layout([(56, 56)], QUESTION, STEPS)
    requests = [ScoreRequest(name, images, QUESTION, STEPS) for name, images in (("shown", ["a.png"]), ("text", []))]
    open_images = {(): [], ("a.png",): [picture(56, 56)]}
    scores = Scoring(model, processor, 999, 999, "cpu").scores(requests, lambda names: open_images[tuple(names)])
    found: Any = dict(scores)
    assert (found["shown"].reason, len(found["text"].scores)) == ("refused_image", 3)


def test_a_tokenizer_without_turns_is_one_line(component: Any, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(component("qwen2").path, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text().replace("<|im_start|>", "<|other|>")
        (folder / name).write_text(text)
    with pytest.raises(
        ValueError, match=r"^backbone\.path=\S+folder: its tokenizer has neither <\|im_start\|> nor .*; choose"
    ):
        LanguageModel(path=str(folder)).load()


def test_it_writes_what_transformers_writes(loaded: Any, component: Any) -> None:
    """Behind a shared prefix, several at once, without a token that could not be written."""
    processor, model = loaded
    hf = AutoModelForCausalLM.from_pretrained(component("qwen2").path).eval()
    hf.generation_config.eos_token_id = None
    sampler = Sampler(processor=processor, model=model, temperature=0.0, max_new_tokens=8)
    prompts = [Prompt("a", (), QUESTION, (), 1), Prompt("b", (), QUESTION, tuple(STEPS[:1]), 1)]
    for prompt, (found,) in zip(prompts, sampler.generate(prompts), strict=True):
        text = f"{TURN}{QUESTION}<|im_end|>\n<|im_start|>assistant\n" + "".join(f"{step}\n\n" for step in prompt.steps)
        ids_1L = processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        written = hf.generate(ids_1L, max_new_tokens=8, do_sample=False)[0, ids_1L.shape[1] :]
        assert found.tokens == written.tolist()[: len(found.tokens)]
        assert len(found.tokens) == 8 or found.finished


def test_entropies_are_those_of_all_logits(loaded: Any, component: Any) -> None:
    processor, model = loaded
    request = ScoreRequest("one", [], QUESTION, STEPS)
    ((_, entropy),) = Scoring(model, processor, 999, 999, "cpu").entropies([request], lambda names: [])
    hf = AutoModelForCausalLM.from_pretrained(component("qwen2").path).eval()
    asked = f"{TURN}{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    ids = [
        processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (asked, *(f"{s}\n\n" for s in STEPS))
    ]
    with torch.inference_mode():
        logits_LV = hf(torch.tensor([[token for piece in ids for token in piece]])).logits[0]
    entropy_L = torch.distributions.Categorical(logits=logits_LV[len(ids[0]) - 1 : -1]).entropy()
    assert entropy == pytest.approx(float(entropy_L.mean()), abs=1e-5)


@pytest.mark.parametrize("language_model", ["trained", "lora"])
def test_an_export_is_read_by_plain_transformers_and_by_the_backbone(
    component: Any, tmp_path: Path, language_model: str
) -> None:
    backbone = component("qwen2", language_model=language_model)
    torch.manual_seed(0)
    processor, model = backbone.load()
    batch = collate([processor.layout([], QUESTION, STEPS)])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        model.train()(batch).logits_M2[:, 1].sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        expected_M2 = model.eval()(batch).logits_M2
    backbone.export(model, processor, tmp_path, "hf")

    tokenizer, hf = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    text = f"{TURN}<|im_end|>\n<|im_start|>assistant\n{BODY}<|im_end|>\n"
    ids_1L = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits_LV = hf.eval()(ids_1L).logits[0]
    marks = ids_1L[0] == tokenizer.convert_tokens_to_ids("<prm>")
    found_M2 = logits_LV[marks][:, tokenizer.convert_tokens_to_ids(["No", "Yes"])]
    torch.testing.assert_close(found_M2, expected_M2, atol=1e-5, rtol=1e-5)

    assert family_of(tmp_path) is LanguageModel
    _, again = replace(backbone, path=str(tmp_path), language_model="trained").load()
    with torch.inference_mode():
        torch.testing.assert_close(again.eval()(batch).logits_M2, expected_M2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
def test_a_reward_model_is_a_sequence_classifier_of_transformers(
    kind: str, component: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its one logit is the score, alone by the code in docs/judges.md, and padded on either side."""
    tokenizer = AutoTokenizer.from_pretrained(component("qwen2").path)
    tokenizer.pad_token = "<|endoftext|>"
    small = {**SMALL, "vocab_size": len(tokenizer), "tie_word_embeddings": kind == "qwen3"}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    backbone = LanguageModel(path=str(tmp_path / "base"))
    processor, model = backbone.load()
    torch.nn.init.normal_(model.head.weight)
    answers = ["The answer is 11.", "11, I think."]
    requests = [ScoreRequest(answer, [], QUESTION, [answer]) for answer in answers]
    scored: Any = dict(Scoring(model, processor, 999, 999, "cpu").scores(requests, lambda names: [], whole=True))
    expected_B = torch.tensor([scored[answer].log_odds[0] for answer in answers])
    model.rates_answers = True
    export(model, processor, backbone, tmp_path / "exported", "hf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "exported")
    texts = [f"{TURN}{QUESTION}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n" for answer in answers]
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported", dtype=torch.float32).eval()
    assert classifier.config.num_labels == 1
    with torch.inference_mode():
        for side in ("left", "right"):
            tokenizer.padding_side = side
            padded = tokenizer(texts, padding=True, return_tensors="pt")
            torch.testing.assert_close(classifier(**padded).logits[:, 0], expected_B, atol=1e-5, rtol=0)
    assert expected_B.diff().abs() > 1e-3
    page = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    [code] = [block for block in blocks if "SequenceClassification" in block]
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code.replace("What is blue plus purple?", QUESTION).replace("The answer is 10.", answers[0]), found)
    assert found["score"] == pytest.approx(float(expected_B[0]), abs=1e-5)
