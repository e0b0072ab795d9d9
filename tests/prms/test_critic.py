"""A chat model that is asked for the first wrong step: what it is asked, what it writes, and how that is read."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, InternVLForConditionalGeneration

from mprm.inference.scoring import ScoreRequest
from mprm.metrics.predictions import NotScored, StepScores
from mprm.prms import critic
from mprm.prms.critic import Critic, first_wrong, scores_of
from tests.encoding import normalised
from tests.prms.conftest import picture


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (r"Step 0 holds. \boxed{2}", 2),
        (r"So \boxed{0}, or rather \boxed{-1}.", -1),
        (r"The answer is 7. $\boxed{\text{1}}$", 1),
        ("boxed{step_2}", 2),
        (r"\boxed{none}", -1),
        (r"\boxed{\text{No errors}}", -1),
        (r"\boxed{the answer}", None),
        (r"\boxed{3}", None),
        (r"\boxed{-2}", None),
        ("All are right, so the index is -1.", -1),
        ("The first wrong step is number 1, where 3 + 4 is said to be 8.", 1),
        ("The answer is 2 bars.", None),
        ("I check them.\n\nAnswer: 2.", 2),
        ("-1", -1),
        ("**1**", 1),
        ("red is 4.\nblue is 2 and", None),
        ("", None),
    ],
)
def test_the_last_number_that_is_meant_as_an_answer(answer: str, found: int | None) -> None:
    assert first_wrong(answer, 3) == found


@pytest.mark.parametrize(("answer", "scores"), [("-1", [1, 1, 1]), ("0", [0, 0, 0]), ("2", [1, 1, 0])])
def test_scores_are_1_before_the_first_wrong_step_and_0_from_there_on(answer: str, scores: list[float]) -> None:
    found = scores_of(answer, 3)
    assert isinstance(found, StepScores)
    assert found.scores == scores


def test_an_answer_without_a_number_is_a_miss() -> None:
    found = scores_of("I do not\nknow.", 3)
    assert isinstance(found, NotScored)
    assert (found.reason, found.message) == ("no_verdict", "the answer has no number from -1 to 2: ...I do not know.")


SIZES = [(56, 56), (40, 100)]
REQUESTS = [
    ScoreRequest("a", ["56 56", "40 100"], "What is red plus blue?", ["red is 4.", "blue is 7."]),
    ScoreRequest("b", ["56 56", "40 100"], "What is red plus blue?", ["red is 4.", "blue is 8.", "The answer is 12."]),
    ScoreRequest("gone", ["gone"], "What?", ["It is 1."]),
    ScoreRequest("c", ["56 56"], "What is <|im_end|>?", ["<IMG_CONTEXT> is 4."]),
    ScoreRequest("long", ["56 56"], "What?", ["It is 1. " * 99]),
]


def test_it_writes_what_plain_transformers_writes(
    folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy, one solution at a time; what cannot be asked is named."""
    path = folder("internvl")
    seen: list[str] = []

    def read(answer: str, n_steps: int) -> StepScores:
        seen.append(answer)
        return StepScores((0.0,) * n_steps)

    def opened(names: list[str]) -> list:
        if names == ["gone"]:
            raise ValueError("image gone cannot be read")
        return [picture(tuple(map(int, name.split()))) for name in names]

    monkeypatch.setattr(critic, "scores_of", read)
    options = {"system": "Be strict.", "instruction": "Which is wrong?", "max_tiles": 6}
    prm = Critic(path=str(path), **options, max_new_tokens=12, max_length=200)  # type: ignore[arg-type]
    found = dict(prm.scorer(4096, "cpu")(REQUESTS, opened))
    reasons = {name: one.reason for name, one in found.items() if isinstance(one, NotScored)}
    assert reasons == {"gone": "missing_image_file", "long": "too_long"}

    tokenizer = AutoTokenizer.from_pretrained(path)
    hf = InternVLForConditionalGeneration.from_pretrained(path).eval()
    sampler = critic.family_of(path)(path=str(path)).load()[0]
    expected = []
    for request in REQUESTS[:2]:
        per_image = hf.config.image_seq_length
        images = "\n".join(["<img>" + "<IMG_CONTEXT>" * (per_image * n) + "</img>" for n in tiles(sampler, SIZES)])
        steps = "\n\n".join(f"<step_{n}>\n{step}\n</step_{n}>" for n, step in enumerate(request.steps))
        text = f"<|im_start|>system\nBe strict.<|im_end|>\n<|im_start|>user\n{images}\n{request.question}\n\n{steps}\n"
        text += "Which is wrong?<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        pixels = normalised(sampler, sampler.vision([picture(size) for size in SIZES]))["pixel_values"]
        with torch.inference_mode():
            made = hf.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                pixel_values=pixels,
                max_new_tokens=12,
                do_sample=False,
                suppress_tokens=[hf.config.image_token_id],
                eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
                pad_token_id=0,
            )
        expected.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    assert len(seen) == 3
    assert [answer for answer in seen if answer in expected] == expected


def tiles(processor: object, sizes: list[tuple[int, int]]) -> list[int]:
    return [processor.image_grid(size, len(sizes))[0] for size in sizes]  # type: ignore[attr-defined]
