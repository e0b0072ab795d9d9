"""The Python API: the scores of any form of asking are those of one solution alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from omegaconf import OmegaConf
from PIL import Image

from mprm import StepScorer
from mprm.backbones.internvl import InternVL
from mprm.backbones.loading import ChatBackbone
from mprm.backbones.qwen2_5_vl import Qwen2_5_VL
from mprm.batching.collate import collate
from mprm.config import Config
from mprm.metrics.predictions import NotScored
from mprm.runs.artifacts import write_text
from mprm.training.checkpoint import export, save_weights
from tests.encoding import encode
from tools import tiny

QUESTION = "What is <image2> plus red?"
CANDIDATES = [
    ["red is 4.", "blue is 3.", "The answer is 7."],
    ["red is 4."],
    ["red is 4.", "I look <prm> again. " * 30, "red is 5.", "blue is 3.", "The answer is 8."],
    ["The answer is 7."],
]
FAMILIES: dict[str, Callable[..., ChatBackbone]] = {"internvl": InternVL, "qwen2_5_vl": Qwen2_5_VL}


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng([width, height])
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=list(FAMILIES))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with random weights and a kappa head."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    tiny.build(request.param, folder / "backbone")
    backbone = FAMILIES[request.param](path=str(folder / "backbone"), system="Be strict.")
    processor, model = backbone.load()
    model.set_kappa(True)
    with torch.no_grad():  # random scores that differ
        for parameter in (*model.hf.model.language_model.parameters(), model.head.weight):
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    export(model, processor, backbone, folder / "exported", "hf")
    return folder / "exported"


def one_by_one(scorer: StepScorer, images: list[Image.Image]) -> list[np.ndarray]:
    """Each candidate in a forward pass of its own, from the model itself."""
    rows = [collate([encode(scorer.processor, images, QUESTION, steps)]) for steps in CANDIDATES]
    with torch.inference_mode():
        return [scorer.model(row).logits_M2.softmax(-1)[:, 1].numpy() for row in rows]


@pytest.mark.parametrize("max_tokens", [64, 16_384])
def test_many_candidates_are_scored_as_each_alone(exported: Path, max_tokens: int) -> None:
    images = [picture(120, 60), picture(56, 84), picture(200, 200)]
    scorer = StepScorer.from_pretrained(exported, device="cpu", max_tokens=max_tokens)
    alone = one_by_one(scorer, images)
    together = scorer.score_candidates(images, QUESTION, CANDIDATES)
    assert [len(scores) for scores in together] == [len(steps) for steps in CANDIDATES]
    assert np.std(np.concatenate(alone)) > 0.01
    for found, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    mixed = scorer.score_batch([(images, QUESTION, steps) for steps in CANDIDATES] + [(images[0], "Why?", ["So."])])
    for found, expected in zip(mixed, alone, strict=False):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(scorer.score(images, QUESTION, CANDIDATES[2]), alone[2], atol=1e-5)


def counted_pixels(scorer: StepScorer) -> list[int]:
    """Grows by the pictures' size whenever the model embeds some."""
    pixels: list[int] = []
    model: Any = scorer.model
    embeddings = model.image_embeddings

    def counted(vision: dict[str, torch.Tensor]) -> torch.Tensor:
        pixels.append(len(vision["pixel_values"]))
        found: torch.Tensor = embeddings(vision)
        return found

    model.image_embeddings = counted
    return pixels


def test_the_images_of_a_question_are_computed_once(exported: Path) -> None:
    scorer = StepScorer.from_pretrained(exported, device="cpu")
    pixels = counted_pixels(scorer)
    scorer.score(picture(56, 56), QUESTION, CANDIDATES[0])
    scorer.score_candidates(picture(56, 56), QUESTION, CANDIDATES)
    assert pixels == [pixels[0]] * 2


def test_a_picture_is_a_path_or_an_image(exported: Path, tmp_path: Path) -> None:
    image = picture(70, 50)
    image.save(tmp_path / "a.png")
    scorer = StepScorer.from_pretrained(str(exported), device="cpu", dtype="float32")
    scores = scorer.score(image, QUESTION, CANDIDATES[0])
    for form in (str(tmp_path / "a.png"), tmp_path / "a.png", [image], image.convert("RGBA")):
        np.testing.assert_allclose(scorer.score(form, QUESTION, CANDIDATES[0]), scores, atol=1e-6)


def test_how_sure_the_model_is(exported: Path) -> None:
    (found,) = StepScorer.from_pretrained(exported, device="cpu").step_scores([(picture(56, 56), "Why?", ["a", "b"])])
    assert found.sigmas is not None
    assert found.kappa is not None
    mu = np.array(found.scores)
    np.testing.assert_allclose(found.sigmas, np.sqrt(mu * (1 - mu) / (np.array(found.kappa) + 1)))


def test_a_question_may_have_no_picture(exported: Path) -> None:
    """Alone, and in a row with one that has."""
    scorer = StepScorer.from_pretrained(exported, device="cpu")
    alone = scorer.score(None, "Why?", ["a", "b"])
    assert alone.shape == (2,)
    shown, *bare = scorer.score_batch([(one, "Why?", ["a", "b"]) for one in (picture(56, 56), [], None)])
    np.testing.assert_allclose(bare, [alone, alone], atol=1e-6)
    assert abs(shown - alone).max() > 1e-4


def test_a_type_can_be_asked_for(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    transformers.utils.logging.enable_progress_bar()
    scorer = StepScorer.from_pretrained(exported, device="cpu", dtype="bfloat16")
    assert capfd.readouterr() == ("", ""), "no library's bar"
    assert scorer.model.hf.dtype == torch.bfloat16
    exact = StepScorer.from_pretrained(exported, device="cpu").score(picture(56, 56), QUESTION, CANDIDATES[0])
    np.testing.assert_allclose(scorer.score(picture(56, 56), QUESTION, CANDIDATES[0]), exact, atol=0.05)


def test_what_can_not_be_scored_is_one_line(exported: Path, tmp_path: Path) -> None:
    scorer = StepScorer.from_pretrained(exported, device="cpu")
    with pytest.raises(ValueError, match=r"^device=foo cannot be used \(.+\); try cpu or cuda$"):
        StepScorer.from_pretrained(exported, device="foo")
    with pytest.raises(ValueError, match=r"^solution 0 cannot be scored: image .*none\.png cannot be read"):
        scorer.score(tmp_path / "none.png", "Why?", ["a"])
    with pytest.raises(ValueError, match=r"^steps of solution 0 are \[\]; give a list"):
        scorer.score(picture(56, 56), "Why?", [])
    with pytest.raises(ValueError, match=r"^steps of solution 0 are 'red is 4'; give a list"):
        scorer.score(picture(56, 56), "Why?", "red is 4")
    scorer.max_length = 60
    with pytest.raises(ValueError, match=r"^solution 1 cannot be scored: \d+ tokens, more than max_length=60"):
        scorer.score_batch([(picture(28, 28), "?", ["a"]), (picture(56, 56), "Why?", ["a " * 40])])


def test_a_run_is_a_model_too(load: Callable[..., Config], tmp_path: Path) -> None:
    config = load("backbone=chartworld_internvl")
    model = config.backbone.load()[1]
    with torch.no_grad():
        model.head.weight.mul_(-1)
    run = tmp_path / "run"
    write_text(run / "config.yaml", OmegaConf.to_yaml(config.raw, resolve=True))
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing; train first"):
        StepScorer.from_pretrained(run)
    save_weights(model, run / "weights.safetensors")
    scorer = StepScorer.from_pretrained(run, device="cpu")
    untrained = StepScorer(*config.backbone.load(), config.backbone.max_length, device="cpu")
    scores = scorer.score(picture(56, 56), QUESTION, CANDIDATES[0])
    np.testing.assert_allclose(scores, 1 - untrained.score(picture(56, 56), QUESTION, CANDIDATES[0]), atol=1e-5)


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no trained model; give a folder that task=export wrote, or a run"):
        StepScorer.from_pretrained(tmp_path)
    (tmp_path / "mprm.json").write_text("{}")
    with pytest.raises(ValueError, match=r"backbone of your own; give backbone=NAME backbone\.path=\S+ instead of"):
        StepScorer.from_pretrained(tmp_path)


def chat(question: str, n_images: int) -> list[dict[str, Any]]:
    """A policy's prompt, without its images."""
    parts = [*[{"type": "image"}] * n_images, {"type": "text", "text": question}]
    return [{"role": "system", "content": "Think."}, {"role": "user", "content": parts}]


def handed_over(images: list[Image.Image], texts: list[str]) -> dict[str, Any]:
    """The keywords of TRL's trainer: images decoded anew for every completion stand in the prompts and in a column."""
    columns = [[image.copy() for image in images] for _ in texts]
    prompts = []
    for column in columns:
        system, user = chat(QUESTION, len(column))
        filled = [part | {"image": image} for part, image in zip(user["content"], column, strict=False)]
        prompts.append([system, user | {"content": [*filled, user["content"][-1]]}])
    return {
        "prompts": prompts,
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": [[1, 2]] * len(texts),
        "images": columns,
        "answer": ["7"] * len(texts),
        "trainer_state": object(),
        "log_extra": print,
    }


@pytest.mark.parametrize("aggregate", ["mean", "min", "product"])
def test_a_reward_is_the_worth_of_the_steps(exported: Path, aggregate: str) -> None:
    images = [picture(120, 60), picture(56, 84)]
    scorer = StepScorer.from_pretrained(exported, device="cpu")
    texts = ["\n\n".join(steps) for steps in CANDIDATES]
    logged: list[tuple[str, float]] = []

    def log_metric(name: str, value: float) -> None:
        logged.append((name, value))

    given = handed_over(images, ["", *texts])
    none, *found = scorer.reward(**given, aggregate=aggregate, log_metric=log_metric)
    assert none is None, "an empty completion has no reward"
    assert logged == [("not_scored", 1 / 5)]
    # the space at the end of a step is none of its own
    steps = scorer.score_candidates(images, QUESTION, [[step.strip() for step in steps] for steps in CANDIDATES])
    worth = {"mean": np.mean, "min": np.min, "product": lambda scores: np.log(scores).sum()}[aggregate]
    np.testing.assert_allclose(found, [worth(scores) for scores in steps], atol=1e-5)


def test_prompts_and_images_have_several_forms(exported: Path) -> None:
    image = picture(120, 60)
    scorer = StepScorer.from_pretrained(exported, device="cpu")
    text = "red is 4.\n\n\n\n The answer is 7. \n"
    expected = scorer.score(image, QUESTION, ["red is 4.", "The answer is 7."]).mean()
    told = "Think aloud: " + QUESTION
    for found in (
        scorer.reward([QUESTION], [text], images=[image]),
        scorer.reward([QUESTION], [text], image=[image]),
        scorer.reward([chat(told, 0)], [text], images=[[image]], question=[QUESTION]),
        scorer.reward(**handed_over([image], [text]) | {"images": [None]}),
        scorer.reward([QUESTION], [text.replace("\n\n", "|")], images=[image], separator="|"),
    ):
        np.testing.assert_allclose(found, [expected], atol=1e-5)
    assert scorer.reward([told], [text], images=[image]) != pytest.approx([expected], abs=1e-5)


def test_completions_of_a_prompt_share_its_images(exported: Path) -> None:
    scorer = StepScorer.from_pretrained(exported, device="cpu")
    pixels = counted_pixels(scorer)
    scorer.reward(**handed_over([picture(56, 56)], ["a", "b", "c"]))
    scorer.score(picture(56, 56), QUESTION, ["a"])
    assert pixels == [pixels[0]] * 2


def test_step_rewards_say_where_the_steps_stand(exported: Path) -> None:
    scorer = StepScorer.from_pretrained(exported, device="cpu")
    image, text = picture(56, 56), "red is 4.\n\nThe answer is 7."
    scorer.max_length = 120
    found, long, empty = scorer.step_rewards([QUESTION] * 3, [text, "a " * 200, " \n"], [image] * 3)
    assert not isinstance(found, NotScored)
    assert [text[start:end] for start, end in found.spans] == ["red is 4.", "The answer is 7."]
    np.testing.assert_allclose(found.scores, scorer.score(image, QUESTION, text.split("\n\n")), atol=1e-6)
    assert found.sigmas is not None
    assert isinstance(long, NotScored)
    assert long.reason == "too_long"
    assert isinstance(empty, NotScored)
    assert empty.reason == "no_steps"
    assert scorer.reward([QUESTION], ["a " * 200], [image]) == [None]


def test_an_option_of_a_reward_is_not_misspelt_in_silence(exported: Path) -> None:
    scorer = StepScorer.from_pretrained(exported, device="cpu")
    given = {"prompts": [QUESTION], "completions": ["a"], "images": [picture(56, 56)]}
    with pytest.raises(
        ValueError, match=r"^agregate='min' is no option of reward\(\); there are aggregate and separator"
    ):
        scorer.reward(**given, agregate="min")
    with pytest.raises(ValueError, match=r"^separator='' parts no steps; give a text such as"):
        scorer.reward(**given, separator="")
    with pytest.raises(ValueError, match=r"^aggregate=median is unknown; choose one of mean, min, "):
        scorer.reward(**given, aggregate="median")
