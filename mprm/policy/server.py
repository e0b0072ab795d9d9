"""A policy behind vLLM's OpenAI-compatible server, on this machine or another."""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import httpx

from mprm.data.examples import image_fault, open_images
from mprm.data.prompt import neutralise
from mprm.policy.policy import Completion, Prompt, check_sampling, key_hash

FIRST_PAUSE = 1.0  # seconds; every further one is twice as long
LONGEST_PAUSE = 60.0
ELSEWHERE = ("url", "parallel", "retries", "timeout", "api_key_env")  # what the completions do not depend on


@dataclass(frozen=True, kw_only=True)
class ServerPolicy:
    """Component `policy`: a running server.

    url: of the API, up to /v1; model: as the server names it; instruction: stands below every question; separator:
    between steps; parallel: requests at a time; retries: further attempts when the server can not be reached or is
    overloaded; timeout: seconds for a request; api_key_env: the environment variable that holds the key, if one is set.

    A begun solution is a last message of the assistant that the server goes on with (vLLM's continue_final_message). It
    ends with the separator. Where the server's chat template strips that, the policy may also go on with the last step.
    Every request names its seed; whether the server keeps to it in whatever company is the server's matter. n_tokens is
    the server's count of a request, divided among its completions by their length.
    """

    url: str = "http://localhost:8000/v1"
    model: str | None = None
    instruction: str = ""
    separator: str = "\n\n"
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 1024
    parallel: int = 16
    retries: int = 5
    timeout: float = 600.0
    api_key_env: str = "OPENAI_API_KEY"
    seed: int = 0

    def __post_init__(self) -> None:
        check_sampling(self.separator, self.temperature, self.top_p, self.max_new_tokens)
        for name, least in (("parallel", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"policy.{name}={getattr(self, name)} is too small; give at least {least}")

    def identity(self) -> dict[str, Any]:
        if self.model is None:
            raise ValueError("policy.model is not set; give the name under which the server serves it")
        return {name: value for name, value in asdict(self).items() if name not in ELSEWHERE}

    def refusal(self, images: Sequence[Path]) -> str | None:
        try:
            open_images(images)
        except ValueError as error:
            return image_fault(error)
        return None

    @cached_property
    def client(self) -> httpx.Client:
        key = os.environ.get(self.api_key_env)
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.timeout,
            limits=httpx.Limits(max_connections=self.parallel),
        )

    def complete(self, prompts: Sequence[Prompt]) -> list[list[Completion]]:
        """prompt.n completions of every prompt, in order.

        Raises ValueError for an image that can not be read, a request that the server refuses, and a server that does
        not answer.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._completed, prompts))

    def _completed(self, prompt: Prompt) -> list[Completion]:
        answer = self._post(self.request(prompt))
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        texts = [choice["message"]["content"] or "" for choice in choices]
        counts = shares(answer["usage"]["completion_tokens"], [len(text) for text in texts])
        finished = [choice["finish_reason"] == "stop" for choice in choices]
        return [Completion(*one) for one in zip(texts, counts, finished, strict=True)]

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
        if prompt.steps:
            steps = [neutralise(step) for step in prompt.steps]
            messages.append({"role": "assistant", "content": "".join(step + self.separator for step in steps)})
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(FIRST_PAUSE * 2 ** (attempt - 1), LONGEST_PAUSE))
            try:
                response = self.client.post("chat/completions", json=body)
            except httpx.TransportError as error:
                fault = f"{type(error).__name__}: {error}"
                continue
            if response.is_success:
                answer: dict[str, Any] = response.json()
                return answer
            fault = f"{response.status_code} {' '.join(response.text.split())}"
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS and not response.is_server_error:
                raise ValueError(
                    f"policy.url={self.url} refused a request ({fault}); mend policy.model or its settings"
                )
        raise ValueError(
            f"policy.url={self.url} does not answer after {self.retries + 1} attempts ({fault}); start the server, and "
            "then the same command again"
        )


@lru_cache(maxsize=64)  # the prompts of a question come one after the other
def data_url(path: Path) -> str:
    """The picture as all backbones see it: upright, RGB, the first frame."""
    buffer = io.BytesIO()
    open_images([path])[0].save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def shares(total: int, lengths: Sequence[int]) -> list[int]:
    """`total` divided in proportion to the lengths, evenly where all are 0; the parts sum to it."""
    whole = sum(lengths) or len(lengths)
    parts, below, given = [], 0, 0
    for length in lengths:
        below += length if sum(lengths) else 1
        upto = round(total * below / whole)
        parts.append(upto - given)
        given = upto
    return parts
