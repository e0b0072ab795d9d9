"""task=compare, and a judge that was exported, or stands behind a server: all say what the judge of the run says."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoModelForImageTextToText

from mprm import Judge, StepScorer
from mprm.batching.examples import open_images
from mprm.config import Config, validate
from mprm.inference import score_file
from mprm.inference.local import Sampler
from mprm.inference.policy import Prompt
from mprm.judge import compare
from mprm.judge.compare import orders
from mprm.judge.judge import PresentedPair
from mprm.runs.artifacts import read_json, write_text
from mprm.stages import comparing, judges, scoring, standalone
from tests.encoding import normalised

Load = Callable[..., Config]
HOW = {"instruction": "Which?", "verdict": "{}.", "temperature": 1.5, "vote_temperature": 1.5, "max_new_tokens": 8}


@pytest.fixture
def run(load: Load, taught: Any, tmp_path: Path) -> Path:
    """The folder of the judge's run."""
    raw = load("experiment=egt", "task=sft", "name=J", "judge.votes=0").raw
    raw.judge.update(HOW)
    folder = tmp_path / "runs" / "J"
    write_text(folder / "config.yaml", OmegaConf.to_yaml(raw, resolve=True))
    (folder / "sft").mkdir()
    (folder / "sft" / "weights.safetensors").write_bytes((taught.folder / "weights.safetensors").read_bytes())
    return folder


@pytest.fixture
def exported(run: Path, load: Load, tmp_path: Path) -> Path:
    standalone.export(load("task=export", f"run={run}", f"output={tmp_path / 'exported'}"))
    return tmp_path / "exported"


@pytest.fixture
def file(pairs: list[PresentedPair], tmp_path: Path) -> Path:
    """Six pairs without a label, and five lines of which none can be judged."""
    records = [record(one) for one in pairs[1:7]]
    unusable = [{**records[0], "id": "gone", "image": "gone.png"}, {**records[0], "id": "same", "answer_b": None}]
    unusable += [{**records[0], "id": "same", "answer_b": records[0]["answer_a"]}, {"prompt": "Why?"}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [*records, *unusable]) + "{broken\n")
    return path


def record(one: PresentedPair) -> dict[str, Any]:
    pair = one.pair
    texts = {"prompt": pair.prompt, "answer_a": pair.answer_a, "answer_b": pair.answer_b}
    return {"id": pair.id, "image": str(one.images[0]), **texts}


def with_run(load: Load, run: Path, *words: str) -> Config:
    """What these words, typed beside run=, make: the run's judge, asked otherwise where a word says so."""
    return load(*words, f"run={run}", typed=True)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_and_what_is_exported_of_it_compare_a_file(
    run: Path, exported: Path, file: Path, load: Load, pairs: list[PresentedPair], capsys: pytest.CaptureFixture[str]
) -> None:
    target = file.with_name("out.jsonl")
    given = ("task=compare", f"input={file}", f"output={target}")
    assert comparing.compare(load(*given, f"run={run}")) == 0
    said = capsys.readouterr().out
    assert "compared 6 pairs" in said
    assert "left out: 2 no_answer, 1 same_answers, 1 not_json, 1 missing_image_file: a wins" in said
    found, judge = lines(target), Judge.from_pretrained(run, device="cpu")
    for one, of_file in zip(pairs[1:7], found, strict=True):
        pair = one.pair
        by_api = judge.compare(one.images, pair.prompt, pair.answer_a, pair.answer_b)
        assert of_file == by_api.record(pair.id)
    assert {verdict for one in found for verdict in one["verdicts"]} == {"a", "b"}
    comparing.compare(load(*given, f"run={run}"))
    assert "was written by this very command" in capsys.readouterr().out
    with pytest.raises(ValueError, match="overwrite=true"):
        comparing.compare(load(*given, f"run={exported}"))
    comparing.compare(load(*given, f"run={exported}", "overwrite=true"))
    assert lines(target) == found
    comparing.compare(with_run(load, exported, *given, "judge.votes=3", "overwrite=true"))
    assert [len(one["verdicts"]) for one in lines(target)] == [6] * 6
    with pytest.raises(ValueError, match=r"^judge=default does nothing beside run="):
        with_run(load, exported, *given, "judge=default")
    with pytest.raises(ValueError, match=r"is a judge, which compares answers; give it to mprm.Judge or to task="):
        StepScorer.from_pretrained(exported)


@torch.inference_mode()
def test_plain_transformers_writes_what_the_judge_writes(exported: Path, pairs: list[PresentedPair]) -> None:
    judge = Judge.from_pretrained(exported, device="cpu")
    hf = AutoModelForImageTextToText.from_pretrained(exported, dtype=torch.float32).eval()
    one = pairs[2]
    found = judge.compare(one.images, one.pair.prompt, one.pair.answer_a, one.pair.answer_b)
    images = open_images(one.images)
    vision = normalised(judge.processor, judge.processor.vision(images))
    for presented, response in zip(orders(one.pair, one.images), found.responses, strict=True):
        ids = judge.processor.ask([images[0].size], presented.text, "Which?").input_ids[None]
        ends = [judge.processor.turn_end_id, judge.processor.tokenizer.eos_token_id]
        written = hf.generate(input_ids=ids, **vision, max_new_tokens=8, do_sample=False, eos_token_id=ends)
        assert judge.processor.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True) == response.text


def test_a_killed_comparison_goes_on_to_the_same_file(
    run: Path, file: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "AT_ONCE", 2)
    complete, asked, stop = Sampler.complete, [], [3]

    def killed(sampler: Sampler, prompts: list[Prompt], keep: Any = None) -> Any:
        asked.extend(prompt.key for prompt in prompts)
        stop[0] -= 1
        if not stop[0]:
            raise KeyboardInterrupt
        return complete(sampler, prompts)

    whole, cut = (file.with_name(f"{name}.jsonl") for name in ("whole", "cut"))

    def compare(target: Path) -> None:
        comparing.compare(with_run(load, run, "task=compare", f"input={file}", f"output={target}", "judge.votes=2"))

    compare(whole)
    monkeypatch.setattr(Sampler, "complete", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(cut)
    assert len(asked) == 12
    assert not cut.exists()
    asked.clear()
    compare(cut)
    assert len(asked) == 4
    assert cut.read_bytes() == whole.read_bytes()


TEXTS = [["3 and", "so 3."], ["It is 4."], ["It is 5."], ["It is 4."]]


@pytest.fixture
def candidates(pairs: list[PresentedPair], tmp_path: Path) -> Path:
    """TEXTS as answers to two questions."""
    records = [
        {"id": str(n), "image": str(one.images[0]), "question": one.pair.prompt, "answer": "4"}
        | {"candidates": [{"steps": steps} for steps in TEXTS]}
        for n, one in enumerate(pairs[2:4])
    ]
    path = tmp_path / "candidates.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_a_tournament_chooses_among_candidates(
    run: Path, pairs: list[PresentedPair], candidates: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the share of wins; the same after a kill in the middle of a question."""
    folder = run.parent / "best"
    config = load("task=rerank", f"run={run}", f"input={candidates}", f"output={folder}")
    monkeypatch.setattr(score_file, "AT_ONCE", 2)
    tournament = compare.tournament

    def killed(*given: Any) -> Iterator[Any]:
        yield from islice(tournament(*given), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(compare, "tournament", killed)
        with pytest.raises(KeyboardInterrupt):
            scoring.rerank(config)
    scoring.rerank(config)
    judge = Judge.from_pretrained(run, device="cpu")
    answers = ["\n\n".join(steps) for steps in TEXTS[:3]]
    shares = [judge.scores(one.images[0], one.pair.prompt, answers) for one in pairs[2:4]]
    found = lines(folder / "choices.jsonl")
    assert [one["score"] for one in found] == pytest.approx([max(of_each) for of_each in shares], abs=1e-5)
    log_odds = {one["candidate"]: one["log_odds"] for one in lines(folder / "scores.jsonl")}
    assert log_odds["J/0/1"] == log_odds["J/0/3"], "the same text"


@pytest.fixture
def stand_in(exported: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server that answers as the exported judge does, from what it reads in the request alone."""
    judge, lock = Judge.from_pretrained(exported, device="cpu"), threading.Lock()
    model = Sampler(processor=judge.processor, model=judge.model, temperature=0.0, max_new_tokens=8)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert (body["temperature"], body["max_tokens"], body["n"]) == (0.0, 8, 1)
            [message] = body["messages"]
            *shown, text = message["content"]
            with lock:
                paths = []
                for number, part in enumerate(shown):
                    content = base64.b64decode(part["image_url"]["url"].partition(",")[2])
                    Image.open(io.BytesIO(content)).save(tmp_path / f"sent{number}.png")
                    paths.append(tmp_path / f"sent{number}.png")
                [[said]] = model.complete([Prompt("", tuple(paths), text["text"], (), 1)])
            reason = "stop" if said.finished else "length"
            choice = {"index": 0, "message": {"content": said.text}, "finish_reason": reason}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [choice]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}/v1"
    running.shutdown()
    thread.join()
    running.server_close()


def test_a_server_says_what_the_judge_on_this_machine_says(
    exported: Path, file: Path, candidates: Path, load: Load, stand_in: str, tmp_path: Path
) -> None:
    serving = ("judge.engine=server", "policy=server", "policy.model=m", f"policy.url={stand_in}")
    here, there = (file.with_name(f"{name}.jsonl") for name in ("here", "there"))
    given = ("task=compare", f"input={file}")
    comparing.compare(with_run(load, exported, *given, f"output={here}"))
    comparing.compare(with_run(load, exported, *given, *serving, f"output={there}"))
    assert there.read_bytes() == here.read_bytes()

    scores = []
    for words in ((), serving):
        folder = tmp_path / f"best{len(words)}"
        given = ("task=rerank", f"input={candidates}", f"output={folder}", *words)
        scoring.rerank(with_run(load, exported, *given))
        scores.append([one["log_odds"] for one in lines(folder / "scores.jsonl")])
    assert scores[0] == scores[1]
    assert len({*map(tuple, scores[0])}) > 1, "some are told apart"
    assert read_json(folder / "results.json")["runs"] == {"m": None}

    world = [f"{group}.path={tmp_path / group / 'pairs.jsonl'}" for group in ("preferences", "reward_benchmark")]
    sizes = ("preferences.size=4", "reward_benchmark.size=4", "judge.votes=0")
    found = []
    for more in (serving, (f"backbone.path={exported}",)):
        raw = load("experiment=egt", "task=judge", *world, *sizes, *more).raw
        raw.judge.update(HOW)
        raw.name = None
        judges.train_judge(config := validate(raw, {}))
        found.append(lines(Path(config.runs) / str(config.name) / "judged_untrained.jsonl"))
    texts = [[one["responses"][0][key] for one in each] for each in found for key in ("text", "verdict", "in_format")]
    assert texts[:3] == texts[3:]
    assert {one["responses"][0]["entropy"] for one in found[0]} == {None}, "a server does not tell it"


def test_what_is_too_long_for_the_judge_is_counted(
    run: Path, file: Path, candidates: Path, load: Load, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In every task that asks one; the Python API refuses it."""
    written = [json.loads(line) for line in file.read_text().splitlines()[:6]]
    long = {**written[0], "id": "long", "answer_a": "I see " + "one and " * 200 + "two."}
    file.write_text("".join(json.dumps(one) + "\n" for one in [*written, long]))
    judge = Judge.from_pretrained(run, device="cpu")
    assert judge.max_length == 512
    comparing.compare(load("task=compare", f"run={run}", f"input={file}", f"output={file.with_name('out.jsonl')}"))
    assert "compared 6 pairs" in (said := capsys.readouterr().out)
    assert "left out: 1 too_long: a wins" in said
    texts = [long[name] for name in ("prompt", "answer_a", "answer_b")]
    with pytest.raises(ValueError, match=r"^the prompt with two answers and a response of 8 tokens has .*_length=5"):
        judge.compare(long["image"], *texts)
    world = [f"{group}.path={tmp_path / group / 'pairs.jsonl'}" for group in ("preferences", "reward_benchmark")]
    sizes = ("preferences.size=4", "reward_benchmark.size=4", "backbone.max_length=90")
    with pytest.raises(ValueError, match=r"none of 4 pairs can be judged \(4 too_long\)"):
        judges.train_judge(load("experiment=egt", "task=judge", *world, *sizes))
    first, second = map(json.loads, candidates.read_text().splitlines())
    first["candidates"].append({"steps": [long["answer_a"]]})
    candidates.write_text(json.dumps(first) + "\n" + json.dumps(second))
    scoring.rerank(load("task=rerank", f"run={run}", f"input={candidates}", f"output={tmp_path / 'best'}"))
    assert "5 too_long" in capsys.readouterr().out


def test_a_judge_that_is_not_there_is_one_line(load: Load, file: Path, run: Path) -> None:
    given = ("task=compare", f"input={file}", f"output={file.with_name('out.jsonl')}")
    with pytest.raises(ValueError, match=r"^judge\.engine=server asks the server of policy=; give policy=server"):
        comparing.compare(load(*given, "judge.engine=server"))
    with pytest.raises(ValueError, match=r"^policy\.model is not set; give the name under which"):
        comparing.compare(load(*given, "judge.engine=server", "policy=server"))
    with pytest.raises(ValueError, match=r"^judge\.engine=vllm is unknown; choose local, or server with policy=server"):
        load(*given, "judge.engine=vllm")
    with pytest.raises(ValueError, match=r"^judge\.engine=server judges and is not trained; give task=judge, "):
        judges.train_judge(load("task=sft", "judge.engine=server"))
    with pytest.raises(ValueError, match=r"^run=.* is no judge; give a folder that task=export wrote of one, or"):
        comparing.compare(
            load(*given, "judge.engine=server", "policy=server", "policy.model=m", f"run={file.parent}", typed=True)
        )
    with pytest.raises(ValueError, match=r"^device=cuda:99 cannot be used \(.+\); try cpu or cuda$"):
        Judge.from_pretrained(run, device="cuda:99")
    (run / "sft" / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing; train first \(task=train, a judge: task="):
        comparing.compare(load(*given, f"run={run}"))
    file.write_text(json.dumps({"prompt": "Why?", "answer_a": "a"}))
    with pytest.raises(ValueError, match=r"^input=.* has no usable record \(no_answer 1\): line 1 of .* has the keys"):
        comparing.compare(load(*given))
    file.write_text(json.dumps({"image": "gone.png", "prompt": "Why?", "answer_a": "a", "answer_b": "b"}))
    with pytest.raises(ValueError, match=r"^input=.*: no pair can be judged \(1 missing_image_file\); mend them$"):
        comparing.compare(load(*given, "judge.votes=0"))
