"""The policy behind a server, against one that speaks vLLM's protocol."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mprm.data.questions import Question
from mprm.inference import server
from mprm.inference.policy import Prompt
from mprm.inference.server import ServerPolicy, shares


@dataclass
class StandIn:
    """What the server does and saw. failures: how many requests get `status` before one is answered; cap: choices that
    it gives at most; change: what becomes of an answer; raw: sent as it is, head included."""

    url: str = ""
    failures: int = 0
    status: int = 503
    body: str = '{"error": {"message": "no such\\n model"}}'
    reply_headers: dict[str, str] = field(default_factory=dict)
    cap: int = 99
    more: int = 0
    change: Callable[[dict[str, Any]], Any] = lambda answered: answered
    raw: bytes | None = None
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answered: int = 0
    together: int = 0
    most_together: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def answer(body: dict[str, Any], cap: int = 99, more: int = 0) -> dict[str, Any]:
    """Completions that can be told from each other: by seed and number; the last one is cut off."""
    texts = [f"seed {body['seed']}.\nnumber {n}." + "!" * 10 * n for n in range(min(cap, body["n"] + more))]
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
            if failing and state.raw is not None:
                self.wfile.write(state.raw)
                self.close_connection = True
                return
            content = state.body if failing else json.dumps(state.change(answer(body, state.cap, state.more)))
            self.send_response(state.status if failing else 200)
            for name, value in state.reply_headers.items() if failing else ():
                self.send_header(name, value)
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


def test_one_step_is_asked_for_by_the_separator_that_ends_it(stand_in: StandIn, prompt: Any) -> None:
    policy = ServerPolicy(url=stand_in.url, model="m", separator="\n")
    [[first, *_]] = policy.complete([replace(prompt(), step_tokens=40)])
    [body] = stand_in.seen
    assert (body["max_tokens"], body["stop"], body["include_stop_str_in_output"]) == (40, ["\n"], True)
    assert not first.finished  # the server says "stop" of the step
    assert policy.complete([prompt()])[0][0].finished


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


@pytest.mark.parametrize(("cap", "requests"), [(1, 5), (2, 3), (5, 1)])
def test_choices_that_are_missing_are_asked_for_again(stand_in: StandIn, prompt: Any, cap: int, requests: int) -> None:
    """A server that ignores n, or caps it."""
    stand_in.cap = cap
    policy = ServerPolicy(url=stand_in.url, model="m")
    [found] = policy.complete([prompt(n=5)])
    assert len(found) == 5
    assert len(stand_in.seen) == requests
    assert len({body["seed"] for body in stand_in.seen}) == requests
    assert len({completion.text for completion in found}) == 5
    assert [found] == policy.complete([prompt(n=5)])


def test_more_choices_than_asked_for_are_cut(stand_in: StandIn, prompt: Any) -> None:
    stand_in.more = 2
    [found] = ServerPolicy(url=stand_in.url, model="m").complete([prompt(n=2)])
    assert [completion.text.split(".")[1] for completion in found] == ["\nnumber 0", "\nnumber 1"]


def changed(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    """The first choice's message, or a choice, with other fields; DROP takes one out."""

    def change(answered: dict[str, Any]) -> dict[str, Any]:
        for choice in answered["choices"]:
            of = choice["message"] if "content" in fields else choice
            of.update(fields)
            for name in [name for name, value in of.items() if value is DROP]:
                del of[name]
        return answered

    return change


DROP = object()
PARTS = [{"type": "text", "text": "red is 4."}, {"type": "image"}, {"type": "text", "text": "\nThe answer is 4."}]


@pytest.mark.parametrize(
    ("change", "texts", "tokens"),
    [
        (changed(content=PARTS), ["red is 4.\nThe answer is 4."] * 2, 20),
        (changed(content=["red ", "is 4."]), ["red is 4."] * 2, 20),
        (changed(content=None), ["", ""], 20),
        (changed(content=DROP), ["", ""], 20),
        (changed(content="half \ud83d"), ["half \ufffd"] * 2, 20),
        (changed(content="\ud83d\ude00"), ["\U0001f600"] * 2, 20),
        (changed(index=DROP, message={"content": "red."}), ["red."] * 2, 20),
        (changed(index=None, message={"content": "red."}), ["red."] * 2, 20),
        (lambda answered: {**answered, "usage": None}, None, None),
        (lambda answered: {"choices": answered["choices"]}, None, None),
        (lambda answered: {**answered, "usage": {"completion_tokens": None}}, None, None),
        (lambda answered: {**answered, "usage": {"completion_tokens": "20"}}, None, None),
    ],
)
def test_what_servers_leave_out_or_write_in_another_way(
    stand_in: StandIn, prompt: Any, change: Any, texts: list[str] | None, tokens: int | None
) -> None:
    stand_in.change = change
    [found] = ServerPolicy(url=stand_in.url, model="m", retries=0).complete([prompt(n=2)])
    if texts is not None:
        assert [completion.text for completion in found] == texts
    assert {completion.n_tokens is None for completion in found} == {tokens is None}
    assert tokens is None or sum(completion.n_tokens or 0 for completion in found) == tokens
    json.dumps([completion.text for completion in found], ensure_ascii=False).encode()


NOT_AN_ANSWER = [
    *('{"choices": [{"index": 0, "mess', "<html>\n<body>Sign in</body></html>", "", "null", "[]", '"text"', "{}"),
    *('{"choices": []}', '{"choices": null}', '{"choices": [null]}', '{"choices": [{"index": 0}]}', "[" * 100_000),
    *('{"choices": [{"message": {"content": 4}}]}', '{"choices": [{"message": "red"}]}', "\xff\xfe"),
    '{"error": {"message": "out of memory"}}',
]


@pytest.mark.parametrize("body", NOT_AN_ANSWER)
def test_an_answer_that_is_none_is_asked_for_again_and_then_one_line(stand_in: StandIn, prompt: Any, body: str) -> None:
    stand_in.failures, stand_in.status, stand_in.body = 2, 200, body
    [found] = ServerPolicy(url=stand_in.url, model="m", retries=2).complete([prompt()])
    assert len(found) == 3
    stand_in.failures = 99
    with pytest.raises(ValueError, match=r"\Apolicy.url=\S+ does not answer after 2 attempts \(.{1,600}\); start.*\Z"):
        ServerPolicy(url=stand_in.url, model="m", retries=1).complete([prompt()])


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{}", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n"),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_a_broken_connection_is_tried_again(stand_in: StandIn, prompt: Any, raw: bytes) -> None:
    stand_in.failures, stand_in.raw = 1, raw
    [found] = ServerPolicy(url=stand_in.url, model="m", retries=1).complete([prompt()])
    assert len(found) == 3


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        *(("7", 7.0), ("100000", 60.0), ("0", 1.0), ("-5", 1.0), ("nan", 1.0), ("soon", 1.0), ("", 1.0)),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 1.0),
    ],
)
def test_a_pause_that_the_server_asks_for_is_kept_within_a_bound(
    stand_in: StandIn, prompt: Any, monkeypatch: pytest.MonkeyPatch, header: str, pause: float
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(server, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(server.time, "sleep", pauses.append)
    stand_in.failures, stand_in.status, stand_in.reply_headers = 1, 429, {"Retry-After": header}
    ServerPolicy(url=stand_in.url, model="m").complete([prompt()])
    assert pauses == [pause]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_server_that_has_moved_says_where(stand_in: StandIn, prompt: Any, status: int) -> None:
    stand_in.failures, stand_in.status = 1, status
    stand_in.reply_headers = {"Location": "/new/v1/chat/completions"}
    with pytest.raises(ValueError, match=r"\Apolicy.url=\S+ has moved; give policy.url=\S+\Z") as moved:
        ServerPolicy(url=stand_in.url, model="m").complete([prompt()])
    url = str(moved.value).rpartition("policy.url=")[2]
    assert url == stand_in.url.replace("/v1", "/new/v1")
    ServerPolicy(url=url, model="m").complete([prompt()])
    assert stand_in.seen[-1]["path"] == "/new/v1/chat/completions"


LONGER = [
    (
        400,
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens (4000 in the messages",
    ),
    (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
    (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
    (400, "the request exceeds the available context size, try increasing it"),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"),
    (413, "context_length_exceeded"),
    (200, "This model's maximum context length is 4096 tokens."),
]


@pytest.mark.parametrize(("status", "message"), LONGER)
def test_a_prompt_longer_than_the_servers_context_has_no_completions(
    stand_in: StandIn, prompt: Any, status: int, message: str
) -> None:
    stand_in.failures, stand_in.status, stand_in.body = 1, status, json.dumps({"error": {"message": message}})
    policy = ServerPolicy(url=stand_in.url, model="m", parallel=1)
    long, short = policy.complete([prompt(key="long"), prompt(key="short")])
    assert (long, len(short)) == ([], 3)
    assert len(stand_in.seen) == 2


def test_completions_are_handed_over_as_they_come_also_when_one_fails(stand_in: StandIn, prompt: Any) -> None:
    kept: list[str] = []

    def change(answered: dict[str, Any]) -> Any:
        return {} if f"seed {seed}." in json.dumps(answered) else answered

    policy = ServerPolicy(url=stand_in.url, model="m", parallel=2, retries=0)
    prompts = [prompt(key=f"q{number}", n=1) for number in range(6)]
    seed = policy.request(prompts[2])["seed"]
    stand_in.change = change
    with pytest.raises(ValueError, match="no choices"):
        policy.complete(prompts, lambda one, found: kept.append(one.key))
    assert kept[:2] == ["q0", "q1"] or kept[:2] == ["q1", "q0"]
    assert len(kept) == stand_in.answered - 1  # nothing that was answered is lost
    assert "q2" not in kept


@pytest.mark.parametrize("status", [503, 429, 500, 408])
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
        ({"model": "m", "url": "localhost:8000/v1"}, "policy.url=localhost:8000/v1 is no address"),
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
