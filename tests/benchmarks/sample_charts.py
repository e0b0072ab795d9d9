"""Tokens per second of the tiny policies: as they are, with nothing shared, and transformers' generate().

    OMP_NUM_THREADS=1 python tests/benchmarks/sample_charts.py [questions] [solutions]

Seconds are those of the processor, so that a busy machine does not count against anyone.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from mprm.chartworld.world import draw, question_text, sample_problems
from mprm.inference.local import LocalPolicy
from mprm.inference.policy import Prompt
from tests.encoding import normalised

WEIGHTS = Path(__file__).parents[2] / "mprm" / "chartworld" / "weights"


def rate(write: Callable[[], int]) -> float:
    """Tokens per second, the better of two."""
    rates = []
    for _ in range(2):
        started = time.process_time()
        n_tokens = write()
        rates.append(n_tokens / (time.process_time() - started))
    return max(rates)


def completed(policy: LocalPolicy, prompts: list[Prompt]) -> int:
    return sum(one.n_tokens for group in policy.complete(prompts) for one in group)


def generated(policy: LocalPolicy, hf: Any, prompts: list[Prompt], batch: int) -> int:
    """The same by transformers, `batch` questions at a time, padded on the left."""
    processor, _ = policy.loaded
    n_tokens = 0
    for start in range(0, len(prompts), batch):
        images = [Image.open(prompt.images[0]).convert("RGB") for prompt in prompts[start : start + batch]]
        asked = [processor.ask([(56, 56)], prompt.question).input_ids for prompt in prompts[start : start + batch]]
        longest = max(map(len, asked))
        ids_BL = torch.stack([torch.nn.functional.pad(ids, (longest - len(ids), 0)) for ids in asked])
        visions = [normalised(processor, processor.vision([image])) for image in images]
        vision = {name: torch.cat([one[name] for one in visions]) for name in visions[0]}
        if "image_grid_thw" in vision:
            vision["mm_token_type_ids"] = (ids_BL == hf.config.image_token_id).int()
        mask_BL = torch.stack([torch.arange(longest) >= longest - len(ids) for ids in asked]).long()
        written = hf.generate(
            input_ids=ids_BL,
            attention_mask=mask_BL,
            do_sample=True,
            top_k=0,
            num_return_sequences=prompts[0].n,
            max_new_tokens=policy.max_new_tokens,
            **vision,
        )[:, longest:]
        ended = (written == processor.tokenizer.eos_token_id).int()
        n_tokens += int(torch.where(ended.any(1), ended.argmax(1), written.shape[1]).sum())
    return n_tokens


def main(n_questions: int, solutions: int) -> None:
    problems = sample_problems(np.random.default_rng(0), n_questions)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared, apart = [], []
        for number, pixels in enumerate(draw(problems)):
            Image.fromarray(pixels).save(folder / f"{number}.png")
            question = question_text(problems, number)
            shared.append(Prompt(str(number), (folder / f"{number}.png",), question, (), solutions))
            for copy in range(solutions):  # another file is another question, with which nothing is shared
                shutil.copy(folder / f"{number}.png", folder / f"{number}-{copy}.png")
                apart.append(Prompt(f"{number} {copy}", (folder / f"{number}-{copy}.png",), question, (), 1))
        for family in ("internvl", "qwen2_5_vl"):
            policy = LocalPolicy(
                path=str(WEIGHTS / family), max_tiles=1, dtype="float32", separator="\n", max_new_tokens=96
            )
            hf = AutoModelForImageTextToText.from_pretrained(policy.path, dtype=torch.float32).eval()
            ours = rate(lambda policy=policy: completed(policy, shared))
            print(f"{family}: {ours:.0f} tokens/s", flush=True)
            for what, write in (
                ("nothing shared", lambda policy=policy: completed(policy, apart)),
                ("generate, all questions", lambda p=policy, hf=hf: generated(p, hf, shared, n_questions)),
                ("generate, one by one", lambda p=policy, hf=hf: generated(p, hf, shared, 1)),
            ):
                other = rate(write)
                print(f"  {what}: {other:.0f} tokens/s, {ours / other:.2f} times slower", flush=True)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:] or ("64", "16")))
