"""Malformed records: each is used as it stands or dropped with a documented reason, and the counts add up.

The suite judges a few thousand; `python tests/test_malformed.py 100000 [seed]` as many as are asked for.
"""

import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mprm.data.visualprm400k import VisualPRM400K
from mprm.selection.examples import read_examples
from mprm.selection.selectors import Full
from mprm.selection.signals import build_signals
from mprm.selection.subset import write_subset

FORMATS = (Path(__file__).parents[1] / "docs" / "formats.md").read_text()

Pairs = list[tuple[str, str]]  # an object as keys and JSON literals, so that a key can be there twice
Reading = tuple[list[str], str, list[tuple[str, float | None, int | None, int | None]]]  # images, question, steps

SOURCES = ("plain", "with blank", "\u6bcf\u65e5", "-dash", "x=y,[z]", "${seed}")
# JSON literals, between blanks
LITERALS = r"""null true false 0 -1 1 0.5 1.5 -0.0 8.0 16 1e400 -1e400 1e-320 NaN Infinity -Infinity 4294967296 "" "0.5"
    "16" "n/a" "1_0" "nan" "0x1" ".5" "\u0663" "\ud800" "a\u0000b" "\ufeff" "\u00a0" "<prm>" "<image>" [] [[]] [null]
    ["a"] [1,2] {} {"a":1} {"step":"x"} [{}]"""
ODD = [*LITERALS.split(), "9" * 400, "0." + "3" * 400, '" "', '"' + "long " * 999 + '"']
# score, num_mc_correct, num_mc_total
MEASURED = r"""0.9,0,16 0.5,8.0,16.0 0.5,"8","16" 0.06,1,16 0.0,0,0 0.5,0,0 null,0,0 NaN,0,0 0.5,null,0 0,null,0.0
    0.5,17,16 0.5,-1,16 0.5,null,-16 0.5,null,"x" 0.5,-8,null null,3,null null,null,16 0.5,true,true 0.5,8.5,17
    1e-320,0,9 0.501,500,1000 null,5,7 0.71,5,7 0,1,999 1,2147483648,2147483648"""
FOUND = ['"images/0.png"', '"VisualPRM400K-v1.1-Raw/images/1.png"', '["images/0.png","images/1.png"]']
ELSEWHERE = r""""images/no.png" "../../etc/passwd" "/etc/passwd" "http://x/y.png" "images" "." ["images/0.png",""] {}
    "images/\u0000" ["images/0.png",3] "any/0.png" "images\\0.png" "./images//1.png" "../images/0.png" """
IMAGES = [*ELSEWHERE.split(), *FOUND, '" "', '"' + "no/" * 2000 + '0.png"']


def literal(pairs: Pairs) -> str:
    return "{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}"


def step(rng: random.Random, number: int, dead: bool) -> Pairs:
    k, n = (0, 0) if dead else (rng.choice((0, rng.randint(1, 16))), 16)
    measured = [("score", f"{k / 16}"), ("num_mc_correct", f"{k}"), ("num_mc_total", f"{n}")]
    return [("step", f'"Step {number}: a part."'), *measured]


def line(rng: random.Random, number: int) -> bytes:
    """A record as the public files have them, with up to three faults."""
    steps: list[Pairs | str] = []
    dead = False
    for position in range(rng.randint(1, 6)):
        steps.append(step(rng, position, dead))
        dead = dead or (rng.random() < 0.5 and dict(steps[-1])["num_mc_correct"] == "0")
    fields = [("image", rng.choice(FOUND)), ("question", f'"<image>\\n{number}?"'), ("question_orig", f'"{number}?"')]
    fields.append(("answer", f'"{number}"'))
    faults = rng.choice((0, 1, 1, 1, 2, 3))
    for _ in range(faults):
        place = rng.choice(("field", "image", "step", "step", "counts", "counts", "whole step"))
        chosen = rng.randrange(len(steps))
        if place == "field":
            spoil(rng, fields)
        elif place == "image":
            fields = [(key, rng.choice(IMAGES) if key == "image" else value) for key, value in fields]
        elif place == "whole step":
            steps[chosen] = rng.choice(ODD)
        elif isinstance(pairs := steps[chosen], list):
            if place == "step":
                spoil(rng, pairs)
            else:
                counts = zip(
                    ("score", "num_mc_correct", "num_mc_total"), rng.choice(MEASURED.split()).split(","), strict=True
                )
                steps[chosen] = [pair for pair in pairs if pair[0] == "step"] + list(counts)
    listed = ", ".join(one if isinstance(one, str) else literal(one) for one in steps)
    fields.append(("steps_with_score", rng.choice(ODD) if rng.random() < 0.02 else f"[{listed}]"))
    if rng.random() < 0.05:
        spoil(rng, fields)
    content = literal(fields).encode()
    return torn(rng, content) if rng.random() < 0.15 else content


def spoil(rng: random.Random, pairs: Pairs) -> None:
    """Take a pair out, give it another value, or a second one."""
    if not pairs:
        return
    place = rng.randrange(len(pairs))
    key, value = pairs.pop(place)
    fault = rng.choice(("gone", "odd", "odd", "odd", "twice"))
    if fault != "gone":
        pairs.insert(place, (key, value if fault == "twice" else rng.choice(ODD)))
    if fault == "twice":
        pairs.append((key, rng.choice((value, rng.choice(ODD)))))


def torn(rng: random.Random, content: bytes) -> bytes:
    """Not what it was as bytes; never with a line break."""
    cut = rng.randrange(len(content))
    whole = (*b" |null|[]|NaN|//|\xff\xfe{\0}\0|\t\r|".split(b"|"), b"[" * 100_000, b'{"a":' * 3000)
    behind = (b" x", b"{}", b",", b"\0", b"\r", b" \t", b"\x0c", "\u00a0".encode())
    inside = (b"\0", b"\xff", b"\xed\xa0\x80", b"\xe2\x82", b"\r", b"\xef\xbb\xbf", b'"', b"\\")
    return rng.choice(
        (
            content[:cut],
            content[:cut] + rng.choice(inside) + content[cut:],
            content + rng.choice(behind),
            b"  " + content + b"  ",
            b"[" + content + b"]",
            content.replace(b'"', b"'"),
            rng.choice(whole),
        )
    )


def judge(content: bytes) -> Reading | None:
    """What a record says, None if it says nothing that can be trained on; by other means than the reader's."""
    twice: list[str] = []

    def pairs_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return dict(pairs)

    try:
        record = json.loads(content.decode("utf-8").strip(" \t\r\n"), object_pairs_hook=pairs_of)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or twice:
        return None
    image = record.get("image")
    named = image if isinstance(image, list) else [] if image is None else [image]  # without one it is text
    images = [judged_image(name) for name in named]
    question = record.get("question_orig")
    if question is None or (isinstance(question, str) and not question.strip()):
        question = record.get("question")
        question = re.sub(r"^(<image>\s*)+", "", question.strip()) if isinstance(question, str) else ""
    question = question if isinstance(question, str) else ""
    steps = record.get("steps_with_score")
    if None in images or not question.strip() or not isinstance(steps, list) or not steps:
        return None
    read, dead = [], False
    for raw in steps:
        measured = judged_step(raw) if isinstance(raw, dict) else None
        if measured is None:
            return None
        text, score, k, n = measured
        if n == 0 and dead:
            score = 0.0
        dead = dead or score == 0
        read.append((text, score, k, n))
    if all(score is None for _, score, _, _ in read):
        return None
    try:
        "".join([question, *(text for text, *_ in read)]).encode()
    except UnicodeEncodeError:
        return None
    return images, question.strip(), read  # type: ignore[return-value]


def judged_image(name: object) -> str | None:
    """The file's name; paths may start with any one folder, in the root or in its images."""
    parts: list[str] = []
    for part in name.replace("\\", "/").split("/") if isinstance(name, str) else ():
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    found = re.fullmatch(r"([^/\0]+/)?(images/)?([01]\.png)", "/".join(parts))
    outside = parts[:1] == [".."] or str(name).startswith(("/", "\\"))
    return found[3] if found and not outside else None


def judged_step(raw: dict[str, Any]) -> tuple[str, float | None, int | None, int | None] | None:
    text = raw.get("step")
    given = [raw.get(key) for key in ("score", "num_mc_correct", "num_mc_total")]
    numbers = [None if value is None else number(value) for value in given]
    if not isinstance(text, str) or not text.strip() or "no number" in numbers:
        return None
    score, k, n = numbers
    if any(count is not None and (count != count // 1 or not 0 <= count < 2**31) for count in (k, n)):  # type: ignore
        return None
    if score is not None and not 0 <= score <= 1:  # type: ignore[operator]
        return None
    if n == 0 and (score or k):
        return None
    if n == 0:
        return text.strip(), None, 0, 0
    if k is None or n is None:
        return text.strip(), score, None, None  # type: ignore[return-value]
    share = k / n  # type: ignore[operator]
    if k > n or (score is not None and ((score == 0) != (k == 0) or abs(score - share) > min(0.005, 0.5 / n))):  # type: ignore
        return None
    return text.strip(), share if score is None else score, int(k), int(n)  # type: ignore[return-value,arg-type]


def number(value: object) -> float | str:
    """A number, also one that is written as text."""
    written = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return "no number"
    if isinstance(value, str) and not written.fullmatch(value):
        return "no number"
    try:
        found = float(value)
    except OverflowError:
        return "no number"
    return found if abs(found) < float("inf") else "no number"


def check(folder: Path, records: int, seed: int) -> Counter[str]:
    """Write so many records, read them, and hold against the judge what became of each; returns counts by reason."""
    rng = random.Random(seed)
    (folder / "annotations").mkdir()
    (folder / "images").mkdir()
    for name in ("0.png", "1.png"):
        Image.new("RGB", (8, 8)).save(folder / "images" / name)
    written: dict[tuple[str, int], bytes] = {}
    for place, source in enumerate(SOURCES):
        lines = [line(rng, number) for number in range(records // len(SOURCES) + (place < records % len(SOURCES)))]
        (folder / "annotations" / f"{source}.jsonl").write_bytes(b"\n".join(lines) + b"\n" * (place % 2))
        written |= {(source, number): content for number, content in enumerate(lines) if content.strip()}
    for cleaning in ("published", "strict"):
        dataset = VisualPRM400K(root=str(folder), cleaning=cleaning)
        signals = build_signals(dataset, folder / "cache")
        manifest = write_subset(folder / cleaning, dataset, signals, Full(), seed=0)
        places = list(zip(signals["source"].to_pylist(), signals["line"].to_pylist(), strict=True))
        assert sorted(places) == sorted(written)
        dropped = [json.loads(one) for one in (folder / cleaning / "dropped.jsonl").read_text().splitlines()]
        reasons = {(one["source"], one["line"]): one["reason"] for one in dropped}
        assert len(reasons) == len(dropped) == sum(manifest.dropped.values())
        kept = pq.read_table(folder / cleaning / "kept.parquet")
        assert sum(source.records for source in manifest.sources.values()) == len(written)
        assert len(kept) + len(dropped) == len(written)
        assert all(f"| `{reason}` |" in FORMATS for reason in reasons.values())
    examples = pa.Table.from_batches(read_examples(dataset, kept)).to_pylist()
    found = {
        (one["source"], int(one["id"].rpartition(":")[2])): reading(one, dataset.image_folder.path) for one in examples
    }
    assert found.keys().isdisjoint(reasons)
    for place, content in written.items():
        assert found.get(place) == judge(content), (place, reasons.get(place), content[:2000])
    return Counter(reasons.values()) + Counter(kept=len(found))


def reading(example: dict[str, Any], image_path: Callable[[str], Path]) -> Reading:
    steps = zip(*(example[name] for name in ("steps", "scores", "n_correct", "n_total")), strict=True)
    return [image_path(name).name for name in example["images"]], example["question"], list(steps)


@pytest.mark.parametrize("seed", [0, 1])
def test_every_record_is_used_as_it_stands_or_dropped_with_a_reason(seed: int, tmp_path: Path) -> None:
    counts = check(tmp_path, 3_000, seed)
    assert counts["kept"] > 500
    assert len(counts) >= 15, "the generator makes faults of all kinds"


if __name__ == "__main__":
    asked, chosen = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        for reason, count in check(Path(place), asked, chosen).most_common():
            print(f"{count:8,} {reason}")
    print(f"{asked:,} records (blank lines included), seed {chosen}, {time.monotonic() - started:.0f} s")
