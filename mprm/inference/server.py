"""A policy behind vLLM's OpenAI-compatible server, on this machine or another."""

from __future__ import annotations

import base64
import io
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import httpx

from mprm.batching.examples import image_refusal, neutralise, open_images
from mprm.inference.policy import Completion, Keep, Prompt, SamplingSettings, key_hash

FIRST_PAUSE = 1.0  # seconds; every further one is twice as long
LONGEST_PAUSE = 60.0
SHOWN = 300  # characters of what a server says
AGAIN = (408, 425, 429)  # and 5xx: the same request may be answered later
ERROR = re.compile(r'\s*\{\s*"(?:error|object"\s*:\s*"error)"')
TOO_LONG = re.compile(  # vLLM, SGLang, llama.cpp, OpenAI and TGI
    r"context[ _](?:length|window|size)|maximum model length|max_model_len|tokens. must have less|max_new_tokens. must",
    re.IGNORECASE,
)
ELSEWHERE = ("url", "parallel", "retries", "timeout", "api_key_env")  # what the completions do not depend on


@dataclass(frozen=True, kw_only=True)
class ServerPolicy(SamplingSettings):
    """Component `policy`: a running server.

    A begun solution is a last message of the assistant that the server goes on with (vLLM's continue_final_message). It
    ends with the separator. Where the server's chat template strips that, the policy may also go on with the last step.
    Every request names its seed; whether the server keeps to it in whatever company is the server's matter. A server
    that gives fewer completions than it was asked for is asked for the others, with other seeds. n_tokens is the
    server's count of a request, divided among its completions by their length; None where it does not count.
    """

    url: str = "http://localhost:8000/v1"  # of the API, up to /v1
    model: str | None = None  # as the server names it
    parallel: int = 16  # requests at a time
    retries: int = 5  # when the server cannot be reached, is overloaded, or answers out of its protocol
    timeout: float = 600.0  # seconds for a request
    api_key_env: str = "OPENAI_API_KEY"  # the environment variable that holds the key, if one is set

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.match("https?://[^/]", self.url):
            raise ValueError(f"policy.url={self.url} is no address; give for example http://localhost:8000/v1")
        for name, least in (("parallel", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"policy.{name}={getattr(self, name)} is too small; give at least {least}")

    def identity(self) -> dict[str, Any]:
        if self.model is None:
            raise ValueError("policy.model is not set; give the name under which the server serves it")
        return {name: value for name, value in asdict(self).items() if name not in ELSEWHERE}

    def refusal(self, images: Sequence[Path]) -> str | None:
        return image_refusal(images)

    @cached_property
    def client(self) -> httpx.Client:
        key = os.environ.get(self.api_key_env)
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.timeout,
            limits=httpx.Limits(max_connections=self.parallel),
        )

    def complete(self, prompts: Sequence[Prompt], keep: Keep | None = None) -> list[list[Completion]]:
        """keep is told of every prompt's completions, also of those that were under way when one failed. Raises
        ValueError for an image that cannot be read, a refused request, and a server that does not answer, or not in
        its protocol."""
        assert self.client, "opened here, not by several threads"
        one_at_a_time = Lock()

        def completed(prompt: Prompt) -> list[Completion]:
            found = self._completed(prompt)
            if keep is not None:
                with one_at_a_time:
                    keep(prompt, found)
            return found

        pool = ThreadPoolExecutor(self.parallel)
        try:
            waiting = [pool.submit(completed, prompt) for prompt in prompts]
            done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()  # raises what has failed
            return [future.result() for future in waiting]
        finally:
            pool.shutdown(cancel_futures=True)

    def _completed(self, prompt: Prompt) -> list[Completion]:
        found: list[Completion] = []
        while len(found) < prompt.n:
            body = self.request(prompt)
            if found:
                seed = key_hash(f"{self.seed}\0{prompt.key}\0{len(found)}") % 2**31
                body |= {"n": prompt.n - len(found), "seed": seed}
            choices, total = self._post(body)
            if not choices:
                return []
            texts = [text for text, _ in choices]
            counts = [None] * len(texts) if total is None else shares(total, [len(text) for text in texts])
            for (text, ended), n in zip(choices, counts, strict=True):
                stopped = prompt.step_tokens is not None and self.separator in text
                found.append(Completion(text, n, ended and not stopped))
        return found[: prompt.n]

    def request(self, prompt: Prompt) -> dict[str, Any]:
        """Body of the POST /chat/completions for a prompt."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(path)}} for path in prompt.images
        ]
        text = "\n".join([neutralise(prompt.question), *([self.instruction] if self.instruction else [])])
        messages: list[dict[str, Any]] = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
        body = {
            "model": self.model,
            "messages": messages,
            "n": prompt.n,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_new_tokens,
            "seed": key_hash(f"{self.seed}\0{prompt.key}") % 2**31,
        }
        if prompt.step_tokens is not None:  # with the separator, which tells the end of a step from that of a solution
            stop: dict[str, Any] = {"stop": [self.separator], "include_stop_str_in_output": True}
            body |= {"max_tokens": prompt.step_tokens} | stop
        if prompt.steps:
            steps = [neutralise(step) for step in prompt.steps]
            messages.append({"role": "assistant", "content": "".join(step + self.separator for step in steps)})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body

    def _post(self, body: dict[str, Any]) -> tuple[list[tuple[str, bool]], int | None]:
        """What choices_of() finds in the answer; no choices when the server says that the prompt is too long."""
        pause = 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(max(pause, FIRST_PAUSE * 2 ** (attempt - 1)), LONGEST_PAUSE))
            try:
                response = self.client.post("chat/completions", json=body)
            except httpx.RequestError as error:
                fault, pause = f"{type(error).__name__}: {error}", 0.0
                continue
            asked = response.headers.get("Retry-After", "")
            pause = float(asked) if asked.isdecimal() else 0.0
            fault = f"{response.status_code} {' '.join(response.text.split())[:SHOWN]}"
            if response.is_success:
                try:
                    return choices_of(response.json())
                except (ValueError, RecursionError) as error:
                    fault = f"{error}: {fault}"
            if response.next_request is not None:
                url = str(response.next_request.url).removesuffix("/chat/completions")
                raise ValueError(f"policy.url={self.url} has moved; give policy.url={url}")
            is_error = response.is_client_error or (response.is_success and ERROR.match(response.text))
            if is_error and TOO_LONG.search(response.text):
                return [], None
            if response.is_client_error and response.status_code not in AGAIN:
                raise ValueError(
                    f"policy.url={self.url} refused a request ({fault}); mend policy.model or its settings"
                )
        raise ValueError(
            f"policy.url={self.url} does not answer after {self.retries + 1} attempts ({fault}); start the server, see "
            "that policy.url is that of its API, up to /v1, and give the same command again"
        )


def choices_of(answer: Any) -> tuple[list[tuple[str, bool]], int | None]:
    """Text of every choice, and whether the policy ended it, in order; the tokens of all, None where they are not told.
    Raises ValueError unless the answer holds choices of the protocol."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("no choices")
    if not all(isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices):
        raise ValueError("a choice without a message")
    if all(type(choice.get("index")) is int for choice in choices):
        choices = sorted(choices, key=lambda choice: choice["index"])
    found = [(_text(choice["message"].get("content")), choice.get("finish_reason") == "stop") for choice in choices]
    usage = answer.get("usage")
    total = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return found, total if type(total) is int and total >= 0 else None


def _text(content: object) -> str:
    """The text of a message: a string, a list of parts, or null. Half a character is U+FFFD, as tokenizers have it."""
    parts = content if isinstance(content, list) else ["" if content is None else content]
    texts: list[Any] = [part.get("text", "") if isinstance(part, dict) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a message without text")
    return "".join(texts).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@lru_cache(maxsize=64)  # the prompts of a question come one after the other
def data_url(path: Path) -> str:
    """The picture as all backbones see it: upright, RGB, the first frame."""
    buffer = io.BytesIO()
    open_images([path])[0].save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shares(total: int, lengths: Sequence[int]) -> list[int]:
    """`total` divided in proportion to the lengths, evenly where all are 0; the parts sum to it."""
    upto = list(accumulate(lengths if sum(lengths) else [1] * len(lengths)))
    ends = [round(total * end / upto[-1]) for end in upto]
    return [end - start for start, end in pairwise([0, *ends])]
