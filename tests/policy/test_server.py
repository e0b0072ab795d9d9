"""The policy behind a server, against one that speaks vLLM's protocol."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mprm.data.questions import Question
from mprm.policy import server
from mprm.policy.policy import Prompt
from mprm.policy.server import ServerPolicy, shares


@dataclass
class StandIn:
    """What the server does and saw. failures: how many requests get `status` before one is answered."""

    url: str = ""
    failures: int = 0
    status: int = 503
    body: str = '{"error": {"message": "no such\\n model"}}'
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answered: int = 0
    together: int = 0
    most_together: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Completions that can be told from each other: by seed and number; the last one is cut off."""
    texts = [f"seed {body['seed']}.\nnumber {n}." + "!" * 10 * n for n in range(body["n"])]
    choices = [
        {
            "index": n,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop" if n < body["n"] - 1 or n == 0 else "length",
        }
        for n, text in enumerate(texts)
    ]
    return {"choices": choices[::-1], "usage": {"completion_tokens": 10 * body["n"]}}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(server, "FIRST_PAUSE", 0.001)
    state = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                state.together += 1
                state.most_together = max(state.most_together, state.together)
                state.seen.append(body | {"path": self.path})
                state.headers.append(dict(self.headers))
                failing = len(state.seen) <= state.failures
            pause.wait(0.02)
            with state.lock:
                state.together -= 1
                state.answered += not failing
            content = state.body if failing else json.dumps(answer(body))
            self.send_response(state.status if failing else 200)
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_: object) -> None:
            pass

    pause = threading.Event()
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{running.server_address[1]}/v1"
    yield state
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def prompt(charts: list[Question]) -> Callable[..., Prompt]:
    def prompt(key: str = "q0", steps: tuple[str, ...] = (), n: int = 3) -> Prompt:
        return Prompt(key, tuple(Path(q.images[0]) for q in charts[:2]), "Which <image1>?", steps, n)

    return prompt


def test_a_question_is_asked_in_the_servers_protocol(stand_in: StandIn, prompt: Any, charts: list[Question]) -> None:
    policy = ServerPolicy(url=stand_in.url, model="m", instruction="Say.", temperature=0.7, top_p=0.9, seed=3)
    policy.complete([prompt()])
    [body] = stand_in.seen
    [message] = body.pop("messages")
    assert message["role"] == "user"
    *images, text = message["content"]
    assert text == {"type": "text", "text": "Which [image 1]?\nSay."}
    for image, question in zip(images, charts[:2], strict=True):
        head, _, data = image["image_url"]["url"].partition(",")
        assert (image["type"], head) == ("image_url", "data:image/png;base64")
        with Image.open(io.BytesIO(base64.b64decode(data))) as sent, Image.open(question.images[0]) as own:
            assert sent.tobytes() == own.tobytes()
    seed = body.pop("seed")
    assert isinstance(seed, int)
    assert body == {
        "path": "/v1/chat/completions",
        "model": "m",
        "n": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 1024,
    }


def test_a_begun_solution_is_a_last_message_to_be_continued(stand_in: StandIn, prompt: Any) -> None:
    policy = ServerPolicy(url=stand_in.url, model="m")
    policy.complete([prompt(steps=("red is 4.", "<image> is\nblue."))])
    [body] = stand_in.seen
    assert body["messages"][1:] == [{"role": "assistant", "content": "red is 4.\n\n[image] is\nblue.\n\n"}]
    assert body["continue_final_message"] is True
    assert body["add_generation_prompt"] is False


def test_completions_come_in_order_with_their_share_of_the_tokens(stand_in: StandIn, prompt: Any) -> None:
    policy = ServerPolicy(url=stand_in.url, model="m", parallel=4)
    prompts = [prompt(key=f"q{number}", n=1 + number % 3) for number in range(12)]
    found = policy.complete(prompts)
    assert stand_in.most_together in (2, 3, 4)
    assert [len(group) for group in found] == [one.n for one in prompts]
    for one, group in zip(prompts, found, strict=True):
        seed = policy.request(one)["seed"]
        assert [c.text for c in group] == [f"seed {seed}.\nnumber {n}." + "!" * 10 * n for n in range(one.n)]
        assert sum(c.n_tokens for c in group) == 10 * one.n
        assert [c.finished for c in group] == [n < one.n - 1 or n == 0 for n in range(one.n)]
    assert len({policy.request(one)["seed"] for one in prompts}) == 12
    assert ServerPolicy(model="m", seed=1).request(prompts[0])["seed"] != policy.request(prompts[0])["seed"]


@pytest.mark.parametrize("status", [503, 429, 500])
def test_an_overloaded_server_is_asked_again(stand_in: StandIn, prompt: Any, status: int) -> None:
    stand_in.failures, stand_in.status = 2, status
    [found] = ServerPolicy(url=stand_in.url, model="m", retries=2).complete([prompt()])
    assert len(found) == 3
    assert (len(stand_in.seen), stand_in.answered) == (3, 1)
    assert stand_in.seen[0] == stand_in.seen[2]


def test_what_stays_overloaded_is_one_line(stand_in: StandIn, prompt: Any) -> None:
    stand_in.failures = 9
    with pytest.raises(ValueError, match=r"\Apolicy.url=\S+ does not answer after 2 attempts \(503 .*\Z"):
        ServerPolicy(url=stand_in.url, model="m", retries=1).complete([prompt()])
    assert len(stand_in.seen) == 2


@pytest.mark.parametrize("status", [400, 404, 401])
def test_a_refusal_is_the_servers_message_in_one_line(stand_in: StandIn, prompt: Any, status: int) -> None:
    stand_in.failures, stand_in.status = 9, status
    with pytest.raises(ValueError, match=rf"\Apolicy.url=\S+ refused a request \({status} .*no such.* model.*\Z"):
        ServerPolicy(url=stand_in.url, model="m").complete([prompt()])
    assert len(stand_in.seen) == 1


def test_no_server_is_one_line(monkeypatch: pytest.MonkeyPatch, prompt: Any) -> None:
    monkeypatch.setattr(server, "FIRST_PAUSE", 0.001)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_address[1]}/v1"
    with pytest.raises(ValueError, match=r"\Apolicy.url=\S+ does not answer after 3 attempts \(ConnectError.*\Z"):
        ServerPolicy(url=url, model="m", retries=2).complete([prompt()])


def test_the_key_comes_from_the_environment(stand_in: StandIn, prompt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    policy = ServerPolicy(url=stand_in.url, model="m", api_key_env="SOME_KEY")
    policy.complete([prompt()])
    monkeypatch.delenv("SOME_KEY")
    ServerPolicy(url=stand_in.url, model="m", api_key_env="SOME_KEY").complete([prompt()])
    assert [headers.get("Authorization") for headers in stand_in.headers] == ["Bearer secret", None]
    assert "secret" not in json.dumps(policy.identity())


def test_identity_is_what_completions_depend_on() -> None:
    identity = ServerPolicy(model="m").identity()
    assert identity == ServerPolicy(model="m", url="http://elsewhere/v1", parallel=2, retries=0, timeout=1.0).identity()
    assert identity != ServerPolicy(model="other").identity()
    assert identity != ServerPolicy(model="m", seed=1).identity()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "policy.model is not set"),
        ({"model": "m", "parallel": 0}, "policy.parallel=0 "),
        ({"model": "m", "retries": -1}, "policy.retries=-1 "),
        ({"model": "m", "top_p": 2.0}, "policy.top_p=2.0 "),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{said}.*\Z"):
        ServerPolicy(**options).identity()


def test_images_that_can_not_be_used_have_a_reason(charts: list[Question], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    policy = ServerPolicy(model="m")
    assert policy.refusal([Path(charts[0].images[0])]) is None
    assert policy.refusal([tmp_path / "nowhere.png"]) == "missing_image_file"
    assert policy.refusal([tmp_path / "broken.png"]) == "unreadable_image"


def test_shares_by_hand() -> None:
    assert shares(10, [1, 3]) == [2, 8]  # 2.5 rounds to 2
    assert shares(9, [0, 0, 0]) == [3, 3, 3]
    assert shares(7, [5]) == [7]


@given(st.integers(0, 10_000), st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_shares_sum_to_the_whole(total: int, lengths: list[int]) -> None:
    parts = shares(total, lengths)
    assert sum(parts) == total
    if sum(lengths):
        exact = [total * length / sum(lengths) for length in lengths]
        assert all(abs(part - share) <= 1 for part, share in zip(parts, exact, strict=True))
