"""The policy of this machine against transformers, with no cache and with its own generate(); what prompts share stands
once."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mprm.backbones.auto import family_of
from mprm.backbones.chat import encode_text
from mprm.backbones.internvl import InternVL
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.collate import Example
from mprm.data.questions import Question
from mprm.inference.decoding import SharedPrefix, uniforms
from mprm.inference.local import LocalPolicy, filled
from mprm.inference.policy import Completion, Prompt
from tests.encoding import normalised

N_NEW = 24
HOT = {"temperature": 1.3, "top_p": 0.95, "max_new_tokens": N_NEW, "seed": 5}


@pytest.fixture(params=["internvl", "qwen2_5_vl"])
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def prompts(charts: list[Question], tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    """Solutions begun to different points, of one chart, of two, and of one with a wide picture, in turn."""
    folder = tmp_path_factory.mktemp("wide")
    Image.open(charts[3].images[0]).resize((168, 56)).save(folder / "wide.png")
    paths = [Path(question.images[0]) for question in charts]
    steps = ("red is 4.", "blue is 7.", "red 4 + blue 7 = 11.")
    one, two, wide = (paths[0],), (paths[1], folder / "wide.png", paths[2]), (folder / "wide.png",)
    asked = [charts[number].question for number in range(3)]
    return [
        Prompt("a", one, asked[0], (), 3),
        Prompt("b", two, asked[1], steps[:2], 2),
        Prompt("c", one, asked[0], steps, 2),
        Prompt("d", wide, asked[2], (), 1),
        Prompt("e", one, asked[0], steps[:1], 2),
        Prompt("f", two, asked[1], ("red is 5.",), 1),
        Prompt("a", wide, asked[2], steps[:2], 1),
        Prompt("g", one, asked[0], steps, 1),
    ]


def stock(policy: LocalPolicy) -> Any:
    """transformers' own model of the policy's folder."""
    return AutoModelForImageTextToText.from_pretrained(policy.path, dtype=torch.float32).eval()


def asked(policy: LocalPolicy, prompt: Prompt) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Token ids (1, L) of a prompt, and what transformers wants besides."""
    processor = policy.sampler.processor
    images = [Image.open(path).convert("RGB") for path in prompt.images]
    ids = processor.ask([image.size for image in images], prompt.question).input_ids.tolist()
    for step in prompt.steps:
        ids += encode_text(processor.tokenizer, [f"{step}\n"])[0]
    return torch.tensor([ids]), normalised(processor, processor.vision(images))


def types(hf: Any, ids_1L: torch.Tensor, vision: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What Qwen's positions depend on besides the images."""
    return {"mm_token_type_ids": (ids_1L == hf.config.image_token_id).int()} if "image_grid_thw" in vision else {}


def from_scratch(policy: LocalPolicy, hf: Any, prompt: Prompt, continuation: int) -> Completion:
    """Every token by a forward pass over all that stands before it."""
    tokenizer = policy.sampler.processor.tokenizer
    ids_1L, vision = asked(policy, prompt)
    written: list[int] = []
    for uniform in uniforms(policy.seed, prompt.key, continuation, policy.max_new_tokens):
        whole_1L = torch.cat([ids_1L, torch.tensor([written], dtype=torch.int64)], dim=1)
        logits_V = hf(input_ids=whole_1L, use_cache=False, **vision, **types(hf, whole_1L, vision)).logits[0, -1]
        p_V = torch.softmax(logits_V / policy.temperature, 0).double().numpy()
        order_V = np.argsort(-p_V, kind="stable")
        n_kept = int((np.cumsum(p_V[order_V]) < policy.top_p).sum()) + 1
        p_V[order_V[n_kept:]] = 0
        below_V = np.cumsum(p_V)
        token = int((below_V <= uniform * below_V[-1]).sum())
        if token == tokenizer.eos_token_id:
            break
        written.append(token)
    text = tokenizer.decode(written, skip_special_tokens=True)
    return Completion(text, len(written), len(written) < policy.max_new_tokens)


@pytest.fixture(scope="module")
def expected(tiny_policy: Callable[..., LocalPolicy], prompts: list[Prompt]) -> Callable[[str], list[list[Completion]]]:
    """Completions of the family by the loop, made once."""
    made: dict[str, list[list[Completion]]] = {}

    def expected(family: str) -> list[list[Completion]]:
        if family not in made:
            policy = tiny_policy(family, **HOT)
            hf = stock(policy)
            with torch.inference_mode():
                made[family] = [[from_scratch(policy, hf, p, n) for n in range(p.n)] for p in prompts]
        return made[family]

    return expected


def as_written(found: list[list[Completion]]) -> list[list[Completion]]:
    """Without the entropies, which tests/judge compares."""
    return [[replace(completion, entropy=None) for completion in group] for group in found]


@pytest.mark.parametrize("max_tokens", [1, 300, 65_536])
def test_completions_are_those_of_a_loop_without_a_cache(
    family: str, max_tokens: int, tiny_policy: Any, prompts: list[Prompt], expected: Any
) -> None:
    found = tiny_policy(family, max_tokens=max_tokens, **HOT).complete(prompts)
    assert as_written(found) == expected(family)
    texts = [completion.text for group in found for completion in group]
    assert len(set(texts)) > 0.6 * len(texts)
    assert {completion.finished for group in found for completion in group} == {True, False}


def test_neither_order_nor_company_matters(family: str, tiny_policy: Any, prompts: list[Prompt], expected: Any) -> None:
    policy = tiny_policy(family, **HOT)
    for chosen in ([7, 6, 5, 4, 3, 2, 1, 0], [3], [6, 2]):
        found = policy.complete([prompts[number] for number in chosen])
        assert as_written(found) == [expected(family)[n] for n in chosen]


def test_one_step_is_the_first_of_what_follows(
    family: str, tiny_policy: Any, prompts: list[Prompt], expected: Any
) -> None:
    """Up to and with the separator, of the same tokens; whole solutions beside them stay what they are."""
    policy = tiny_policy(family, max_tokens=300, **HOT)
    one_step = [replace(prompt, step_tokens=limit) for prompt in prompts for limit in (N_NEW, 4)]
    found = as_written(policy.complete([*one_step, *prompts]))
    assert found[len(one_step) :] == expected(family)
    ends = set()
    for prompt, of_prompt in zip(one_step, found[: len(one_step)], strict=True):
        for step, whole in zip(of_prompt, expected(family)[one_step.index(prompt) // 2], strict=True):
            text, ended, _ = whole.text.lstrip().partition("\n")
            assert whole.text.startswith(step.text)
            assert step.n_tokens <= prompt.step_tokens
            if step.n_tokens < prompt.step_tokens:
                assert step.text.lstrip() == text + ended
                assert step.finished == (whole.finished and not ended)
            ends.add("finished" if step.finished else "step" if step.text.endswith("\n") else "cut off")
    assert ends >= {"step", "cut off"}


def test_the_likeliest_tokens_are_those_of_generate(family: str, tiny_policy: Any, prompts: list[Prompt]) -> None:
    policy = tiny_policy(family, temperature=0.0, max_new_tokens=40)
    hf = stock(policy)
    for prompt, found in zip(prompts, policy.complete(prompts), strict=True):
        ids_1L, vision = asked(policy, prompt)
        written = hf.generate(
            input_ids=ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            do_sample=False,
            max_new_tokens=40,
            **vision,
            **types(hf, ids_1L, vision),
        )[0, ids_1L.shape[1] :]
        text = policy.sampler.processor.tokenizer.decode(written, skip_special_tokens=True)
        assert [completion.text for completion in found] == [text] * prompt.n


def test_the_tiny_policy_solves_most_charts(tiny_policy: Any, charts: list[Question]) -> None:
    prompts = [Prompt(q.id, (Path(q.images[0]),), q.question, (), 1) for q in charts]
    solved = tiny_policy("internvl", temperature=0.0).complete(prompts)
    right = [one.text.endswith(f"\nThe answer is {q.answer}.\n") for q, [one] in zip(charts, solved, strict=True)]
    assert np.mean(right) > 0.5
    assert all(one.finished for [one] in solved)


def test_key_continuation_and_seed_name_the_randomness(tiny_policy: Any, charts: list[Question]) -> None:
    path = (Path(charts[0].images[0]),)
    policy = tiny_policy("internvl", temperature=1.6)
    same, other = (Prompt(key, path, charts[0].question, (), 4) for key in ("a", "b"))
    first, second, third = policy.complete([same, other, same])
    assert first == third
    assert len({completion.text for completion in first + second}) > 4
    assert tiny_policy("internvl", temperature=1.6, seed=1).complete([same]) != [first]


def test_tokens_are_counted_up_to_the_limit(tiny_policy: Any, prompts: list[Prompt]) -> None:
    [[short, *_]] = tiny_policy("internvl", temperature=0.0, max_new_tokens=5).complete(prompts[:1])
    [[long, *_]] = tiny_policy("internvl", temperature=0.0).complete(prompts[:1])
    tokenizer = tiny_policy("internvl").sampler.processor.tokenizer
    assert (short.n_tokens, short.finished, long.finished) == (5, False, True)
    assert long.text.startswith(short.text)
    assert long.n_tokens == len(tokenizer.encode(long.text))


def test_images_that_can_not_be_used_have_a_reason(tiny_policy: Any, charts: list[Question], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (4000, 10)).save(tmp_path / "line.png")
    policy = tiny_policy("qwen2_5_vl")
    good = Path(charts[0].images[0])
    reasons = [policy.refusal([good, tmp_path / name]) for name in ("nowhere.png", "broken.png", "line.png")]
    assert reasons == ["missing_image_file", "unreadable_image", "refused_image"]
    assert policy.refusal([good]) is None
    assert tiny_policy("internvl").refusal([tmp_path / "line.png"]) is None


def test_identity_is_what_completions_depend_on(tiny_policy: Any) -> None:
    identity = tiny_policy("internvl").identity()
    assert identity == tiny_policy("internvl", max_tokens=9, device="cuda").identity()
    for change in ({"seed": 1}, {"instruction": "Say."}, {"top_p": 0.9}, {"max_new_tokens": 9}):
        assert tiny_policy("internvl", **change).identity() != identity


def test_the_folder_is_named_as_the_policys(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for path, said in (
        (None, "policy.path is not set"),
        ("nowhere", "policy.path=nowhere has no config.json"),
        (str(tmp_path), "holds model_type 'bert', not one of internvl"),
    ):
        with pytest.raises(ValueError, match=rf"\A.*{said}.*\Z"):
            _ = LocalPolicy(path=path).sampler
    with pytest.raises(ValueError, match=r"\Apolicy.max_tokens=0 is not positive"):
        LocalPolicy(max_tokens=0)


STEPS = ("red is 4.", "blue is 7.", "red 4 + blue 7 = 11.")


def laid_out(tiny_policy: Any, charts: Any, chosen: list[tuple[int, tuple[str, ...]]]) -> list[SharedPrefix]:
    """Sequences of prompts, each the number of a chart and its steps."""
    prompts = [Prompt("", tuple(map(Path, charts[n].images)), charts[n].question, steps, 1) for n, steps in chosen]
    return list(tiny_policy("internvl").sampler.shared_prefixes(prompts))


def test_prefixes_of_one_another_are_one_sequence(tiny_policy: Any, charts: Any) -> None:
    other = ("red is 4.", "blue is 8.")
    chosen = [(0, STEPS[:1]), (1, ()), (0, STEPS), (0, other), (0, ()), (0, STEPS), (0, STEPS[:2]), (1, STEPS)]
    found = laid_out(tiny_policy, charts, chosen)
    assert sorted(sorted(number for number, _ in one.prompts) for one in found) == [[0, 2, 4, 5, 6], [1, 7], [3]]
    assert [one.example.group for one in found] == [0, 0, 1]
    for one in found:
        lengths = dict(one.prompts)
        assert max(lengths.values()) == len(one.example.input_ids) == len(one.example.marks)
    of_first = {number: length for one in found for number, length in one.prompts}
    assert of_first[4] < of_first[0] < of_first[6] < of_first[2] == of_first[5]
    assert of_first[4] == found[0].n_question


def test_step_by_step_is_the_text_as_it_was_learnt(tiny_policy: Any, charts: Any) -> None:
    processor = tiny_policy("internvl").sampler.processor
    [one] = laid_out(tiny_policy, charts, [(0, STEPS)])
    behind = one.example.input_ids[one.n_question :].tolist()
    assert behind == processor.tokenizer.encode("\n".join(STEPS) + "\n", add_special_tokens=False)
    assert one.example.position_ids.tolist() == list(range(len(one.example.input_ids)))


def test_text_that_looks_like_tokens_is_text(tiny_policy: Any, charts: Any) -> None:
    processor = tiny_policy("internvl").sampler.processor
    [one] = laid_out(tiny_policy, charts, [(0, ("<|im_end|><IMG_CONTEXT> <image> <prm>",))])
    special = set(processor.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<IMG_CONTEXT>", "<prm>"]))
    behind = one.example.input_ids[one.n_question :].tolist()
    assert not special & set(behind)
    assert processor.tokenizer.decode(behind) == "<|im_end|><IMG_CONTEXT> [image] [prm]\n"


def test_an_unreadable_image_is_one_line(tiny_policy: Any) -> None:
    with pytest.raises(ValueError, match=r"\Aimage nowhere.png cannot be read .*\Z"):
        list(tiny_policy("internvl").sampler.shared_prefixes([Prompt("", (Path("nowhere.png"),), "Which?", (), 1)]))


def of_length(length: int, shared: int, group: int) -> SharedPrefix:
    tokens = torch.zeros(length, dtype=torch.int64)
    return SharedPrefix(Example(tokens, tokens, tokens, {}, group=group), shared, [])


@pytest.mark.parametrize(
    ("max_tokens", "rows"),
    [
        (1, [[0], [1], [2], [3]]),
        (15, [[0, 1], [2], [3]]),  # 10 and 4 behind the shared 6; 8 and 9 are too many
        (16, [[0, 1, 2], [3]]),
        (24, [[0, 1, 2], [3]]),
        (25, [[0, 1, 2, 3]]),
    ],
)
def test_rows_are_filled_with_what_is_not_shared(max_tokens: int, rows: list[list[int]]) -> None:
    everything = [of_length(10, 6, 0), of_length(10, 6, 0), of_length(8, 6, 0), of_length(9, 5, 1)]
    found = [
        [[id(other) for other in everything].index(id(one)) for one in row] for row in filled(everything, max_tokens)
    ]
    assert found == rows


def test_a_new_row_holds_the_shared_tokens_anew() -> None:
    """10 + 4 fill a row; the third costs 10 again, not 4."""
    everything = [of_length(10, 6, 0) for _ in range(4)]
    assert [len(row) for row in filled(everything, 14)] == [2, 2]
    assert [len(row) for row in filled(everything, 13)] == [1, 1, 1, 1]


def folder(path: Path, model_type: str) -> Path:
    (path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    return path


@pytest.mark.parametrize(
    ("model_type", "family"), [("internvl", InternVL), ("internvl_chat", InternVL), ("qwen2_5_vl", Qwen2_5_VL)]
)
def test_a_folder_is_of_the_family_of_its_model_type(tmp_path: Path, model_type: str, family: type) -> None:
    assert family_of(folder(tmp_path, model_type)) is family
    assert family_of(str(tmp_path)) is family


def test_what_is_of_no_family_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\A.*nowhere has no config.json.*\Z"):
        family_of(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"\A.*holds model_type 'bert', not one of internvl, .* qwen2_5_vl.*\Z"):
        family_of(folder(tmp_path, "bert"))
