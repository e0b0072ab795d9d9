"""What trainers hand over, read as solutions: prompts of any form, pictures, and the places of steps."""

from typing import Any

import pytest
from PIL import Image

from mprm.inference.rewards import pictures_of, question_of, read_completions, step_spans, text_of


@pytest.mark.parametrize(
    ("text", "separator", "spans"),
    [
        ("a.\n\n\n b. ", "\n\n", [(0, 2), (6, 8)]),
        ("a.\nb.", "\n\n", [(0, 5)]),
        ("a.\nb.", "\n", [(0, 2), (3, 5)]),
        ("\n\n\n\n  aa b \n\n", "\n\n", [(6, 10)]),
        (" \n\n \n", "\n\n", []),
        ("", "\n\n", []),
    ],
)
def test_steps_stand_between_separators(text: str, separator: str, spans: list[tuple[int, int]]) -> None:
    assert step_spans(text, separator) == spans


def test_a_prompt_asks_in_one_user_message() -> None:
    image = Image.new("RGB", (2, 2))
    system = {"role": "system", "content": "Put steps on lines of their own."}
    parts = [{"type": "image", "image": image}, {"type": "text", "text": "Why?"}, {"type": "text", "text": "Say it."}]
    user = {"role": "user", "content": parts}
    assert (question_of("Why?"), pictures_of("Why?")) == ("Why?", [])
    assert (question_of([system, user]), pictures_of([system, user])) == ("Why?\nSay it.", [image])
    assert question_of([{"role": "user", "content": "Why?"}]) == "Why?"
    with pytest.raises(
        ValueError, match=r"^prompts: one has turns of user, assistant, user; give one user message, or"
    ):
        question_of([system, user, {"role": "assistant", "content": "So."}, user])
    with pytest.raises(ValueError, match=r"^a message has a part of type video; a step scorer reads text and image"):
        question_of([{"role": "user", "content": [{"type": "video", "video": "a.mp4"}]}])
    with pytest.raises(
        ValueError, match=r"^prompts: an image part has no image; give it the key image, or give images"
    ):
        pictures_of([{"role": "user", "content": [{"type": "image"}]}])


def test_a_completion_is_one_message() -> None:
    call: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
    assert text_of("So.") == "So."
    assert text_of([{"role": "assistant", "content": [{"type": "text", "text": "So."}]}]) == "So."
    assert text_of([call]) == ""
    with pytest.raises(ValueError, match=r"^completions: one has 2 messages; give one, chosen or joined by a"):
        text_of([call, {"role": "tool", "content": "7"}])


def test_pictures_that_look_alike_become_one() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0])
    red, blue = Image.new("RGB", (2, 1), "red"), Image.new("RGB", (2, 1), "blue")
    tall, unreadable = Image.new("RGB", (1, 2), "red"), Image.new("F", (2, 1))
    images = [palette, red, [blue, red], tall, unreadable, "a.png"]
    found = read_completions(["?"] * 6, ["So."] * 6, images)
    expected = [[palette], [palette], [blue, palette], [tall], [unreadable], ["a.png"]]
    assert [[id(one) for one in asked.images] for asked in found] == [[id(one) for one in each] for each in expected]


def test_there_is_one_of_everything_per_completion() -> None:
    for given in ({"completions": ["a"]}, {"images": []}, {"question": ["b"]}):
        whole: dict[str, Any] = {"prompts": ["?"] * 2, "completions": ["a"] * 2} | given
        ((name, values),) = given.items()
        with pytest.raises(
            ValueError, match=f"^prompts has 2 values and {name} {len(values)}; give one per completion"
        ):
            read_completions(**whole)
