"""What task=contamination finds of planted copies, and what it takes for one by mistake.

    OMP_NUM_THREADS=1 python tests/benchmarks/contamination.py        # a few minutes

Pictures: all questions are the same, so that the pictures alone decide; of seven kinds, in each of which they resemble
each other. Questions: of templates, so that others differ from them in a name or two.
"""

import csv
import io
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from mprm.chartworld.world import draw, sample_part
from mprm.selection.likeness import NEAR, NUMBERS, SAME, Questions

REPOSITORY = Path(__file__).resolve().parents[2]
DISTANCES = (8, 12, 16, 20, 24, 32)
SIMILARITIES = (0.6, 0.7, 0.8, 0.9)
N_BENCHMARK, N_OTHERS = 30, 150  # of every kind of picture
Picture = Image.Image

rng = np.random.default_rng(0)


# ---- pictures


def bars() -> Picture:
    fig, ax = plt.subplots(figsize=(4, 3), dpi=80)
    ax.bar(list("ABCDE"), rng.integers(5, 100, 5))
    ax.set(ylim=(0, 100), title="Sales by month")
    return drawn(fig)


def lines() -> Picture:
    fig, ax = plt.subplots(figsize=(4, 3), dpi=80)
    ax.plot(np.cumsum(rng.normal(size=12)))
    ax.set(ylim=(-8, 8), title="Temperature")
    ax.grid()
    return drawn(fig)


def drawn(fig: plt.Figure) -> Picture:
    file = io.BytesIO()
    fig.savefig(file, format="png")
    plt.close(fig)
    return Image.open(file).convert("RGB")


def diagram() -> Picture:
    image = Image.new("RGB", (400, 300), "white")
    pen = ImageDraw.Draw(image)
    corners = [(int(rng.integers(20, 380)), int(rng.integers(20, 280))) for _ in range(3)]
    pen.polygon(corners, outline="black", width=2)
    for corner, name in zip(corners, "ABC", strict=True):
        pen.text(corner, name, fill="black", font_size=18)
    return image


def page() -> Picture:
    image = Image.new("RGB", (480, 200), "white")
    words = ["the", "area", "of", "a", "triangle", "is", "the", "ratio", "of", "its", "sides", "and", "angles"]
    for row in range(6):
        line = f"{' '.join(rng.choice(words, 8))} {rng.integers(100)}"
        ImageDraw.Draw(image).text((10, 10 + 30 * row), line, fill="black", font_size=14)
    return image


def formula() -> Picture:
    image = Image.new("RGB", (300, 60), "white")
    a, b, c = rng.integers(2, 99, 3)
    ImageDraw.Draw(image).text((20, 15), f"{a} x + {b} = {c}", fill="black", font_size=24)
    return image


def photograph() -> Picture:
    """Noise whose amplitude falls with frequency as in photographs."""
    frequency = np.fft.fftfreq(200)[:, None] ** 2 + np.fft.fftfreq(300) ** 2
    frequency[0, 0] = 1
    first, second = (np.fft.ifft2(np.fft.fft2(rng.normal(size=(200, 300))) / frequency**0.6).real for _ in "12")
    colours = np.stack([first, 0.7 * first + 0.3 * second, second], axis=-1)
    return Image.fromarray((255 * (colours - colours.min()) / np.ptp(colours)).astype(np.uint8))


def charts(part: str, count: int) -> list[Picture]:
    return [Image.fromarray(pixels) for pixels in draw(sample_part(rng, count, part))]


def jpeg(image: Picture, quality: int) -> Picture:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image: Picture, factor: float) -> Picture:
    width, height = (round(factor * length) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


KINDS: dict[str, Callable[[], Picture] | None] = {
    **{"chartworld": None, "bar charts": bars, "line charts": lines, "diagrams": diagram},
    **{"pages": page, "formulas": formula, "photographs": photograph},
}
COPIES: dict[str, Callable[[Picture], Picture]] = {
    "the same": lambda image: image,
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 50": lambda image: jpeg(image, 50),
    "half": lambda image: scaled(image, 0.5),
    "double": lambda image: scaled(image, 2),
    "half, JPEG 50": lambda image: jpeg(scaled(image, 0.5), 50),
    "64 colours": lambda image: image.quantize(64).convert("RGB"),
}
CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "cut 2 %": lambda image: ImageOps.crop(image, round(0.02 * min(image.size))),
    "framed 5 %": lambda image: ImageOps.expand(image, round(0.05 * min(image.size)), "white"),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


def write(folder: Path) -> None:
    """annotations/KIND COPY.jsonl of planted pictures, KIND others.jsonl of others; benchmark/test.jsonl."""
    for name in ("annotations", "images", "benchmark"):
        (folder / name).mkdir()
    benchmark = []
    for kind, make in KINDS.items():
        ours = [make() for _ in range(N_OTHERS)] if make else charts("corpus", 3000)
        theirs = [make() for _ in range(N_BENCHMARK)] if make else charts("benchmark", N_BENCHMARK)
        for number, image in enumerate(theirs):
            image.save(folder / "benchmark" / f"{kind} {number}.png")
            answer = {"steps": ["One."], "process_correctness": [1]}
            benchmark.append(
                {"image": f"{kind} {number}.png", "question": "What is it?", "data_source": kind, "response": answer}
            )
        made = {name: [change(image) for image in theirs] for name, change in (COPIES | CHANGES).items()}
        for name, images in (made | {"others": ours}).items():
            records = []
            for number, image in enumerate(images):
                path = f"images/{kind} {name} {number}.png"
                image.save(folder / path)
                record = {"image": path, "question": "What is it?", "steps_with_score": [{"step": "1", "score": 1.0}]}
                records.append(json.dumps(record) + "\n")
            (folder / "annotations" / f"{kind} {name}.jsonl").write_text("".join(records))
    (folder / "benchmark" / "test.jsonl").write_text("".join(json.dumps(record) + "\n" for record in benchmark))


def measure_pictures() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        given = ("dataset=visualprm400k", f"dataset.root={folder}", "benchmark=visualprocessbench")
        words = (*given, f"benchmark.path={folder / 'benchmark' / 'test.jsonl'}", "output=shared", "distance=64")
        command = [sys.executable, str(REPOSITORY / "run.py"), "task=contamination", *words]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with open(folder / "shared" / "matches.csv", encoding="utf-8", newline="") as file:
            found = [row for row in csv.DictReader(file) if row["finding"] == "copy"]
        right = [row for row in found if is_right(row)]
        print(f"| share found, distance 16 | {' | '.join([*COPIES, *CHANGES])} |")
        for kind in KINDS:
            shares = [share(right, f"{kind} {copy}", N_BENCHMARK, 16) for copy in (*COPIES, *CHANGES)]
            print(f"| {kind} | {' | '.join(f'{one:.2f}' for one in shares)} |")
        print(f"\n| found (all copies) / others taken for one, distance | {' | '.join(map(str, DISTANCES))} |")
        for kind in KINDS:
            n_others = N_OTHERS if KINDS[kind] else 3000
            cells = [
                f"{np.mean([share(right, f'{kind} {copy}', N_BENCHMARK, at) for copy in COPIES]):.3f} / "
                f"{share(found, f'{kind} others', n_others, at):.3f}"
                for at in DISTANCES
            ]
            print(f"| {kind} | {' | '.join(cells)} |")


def is_right(row: dict[str, str]) -> bool:
    """Is the benchmark's picture the one that this is made of?"""
    kind, number = re.fullmatch(r"(.*) (\d+)\.png", row["benchmark images"]).groups()  # type: ignore[union-attr]
    return row["source"].startswith(kind) and row["images"].endswith(f" {number}.png")


def share(rows: list[dict[str, str]], source: str, of: int, distance: int) -> float:
    return sum(row["source"] == source and int(row["distance"]) <= distance for row in rows) / of


# ---- questions

TEMPLATES = (
    "In the figure, {N} is a point on the {shape} and the angle {N} measures {a} degrees. What is the length of {M}?",
    "A {who} buys {a} {what} for {b} dollars each and sells them for {c} dollars each. How much does the {who} make?",
    "According to the {chart}, how many {what} were sold in {year}?",
    "What is the difference between the numbers of {what} in {year} and in {then}, according to the {chart}?",
    "Find the area of the shaded region in the {shape} with side {a} {unit}.",
    "As shown in the figure, the {shape} has a height of {a} {unit}. A {who} paints {b} of them. What is the painted "
    "area?\nChoices:\n(A) {a} (B) {b} (C) {c} (D) none of these",
    "The {chart} shows the favourite {what} of {a} students. Which {what} are the least popular?",
    "Solve for ${M}$: $\\frac{{{a}}}{{{b}}} {M} + {b} = {c}$",
    "If the {shape} is rotated by {a} degrees around the point {N}, where will the vertex {M} be on the grid?",
    "{a} {who}s stand in a line. The distance between two of them is {b} {unit}. How long is the line in {unit}?",
)
SLOTS = {
    **{"N": "A B D P O M", "M": "AB CD BC EF PQ", "unit": "cm m inches feet km"},
    "shape": "triangle square rectangle circle parallelogram trapezoid cone cylinder rhombus hexagon",
    "who": "farmer teacher student baker child painter driver",
    "what": "apples pencils books cars tickets shirts bottles cakes flowers chairs",
    "chart": "bar-chart line-graph pie-chart table pictograph",
}
Slots = dict[str, object]


def numbers(draws: random.Random) -> Slots:
    return {key: draws.randint(2, 150) for key in "abc"} | {key: draws.randint(1990, 2020) for key in ("year", "then")}


def names(draws: random.Random) -> Slots:
    return {key: draws.choice(choices.split()) for key, choices in SLOTS.items()}


def copied(draws: random.Random, text: str) -> str:
    """The same question otherwise typed."""
    ways = (
        str.upper,
        lambda t: t.replace(" ", "  "),
        lambda t: f"<image>\n{t}",
        lambda t: f"<image 1> {t.rstrip('?')} ?",
    )
    return draws.choice(ways)(text)  # type: ignore[no-untyped-call]


def reworded(draws: random.Random, text: str) -> str:
    """A word or a few less, more or otherwise, but no number."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if not re.search(r"\d", word)]
    place, way = draws.choice(places), draws.randrange(5)
    replaced = [[], ["other"], ["also", words[place]]]
    if way < 3:
        return " ".join(words[:place] + replaced[way] + words[place + 1 :])
    return f"Look at the picture. {text}" if way == 3 else f"{text} Please answer the question."


def measure_questions() -> None:
    draws = random.Random(0)
    asked = [(TEMPLATES[i % len(TEMPLATES)], names(draws), numbers(draws)) for i in range(1000)]
    texts = [template.format(**named, **counted) for template, named, counted in asked]
    print(
        "\n| questions, similarity | copied | reworded | other numbers: as such / as copy | others taken for a copy |"
    )
    for similarity in SIMILARITIES:
        index, draws = Questions(texts, similarity), random.Random(1)

        def kinds(text: str, of: int, index: Questions = index) -> int | None:
            return index.like(text).get(of, (None,))[0]

        first = range(500)
        same = [kinds(copied(draws, texts[i]), i) == SAME for i in first]
        near = [kinds(reworded(draws, texts[i]), i) in (SAME, NEAR) for i in first]
        other = [kinds(asked[i][0].format(**asked[i][1], **numbers(draws)), i) for i in first]
        wrong = list(taken(draws, index, texts))
        print(
            f"| {similarity} | {np.mean(same):.3f} | {np.mean(near):.3f} | {other.count(NUMBERS) / 500:.3f} / "
            f"{(other.count(SAME) + other.count(NEAR)) / 500:.3f} | {np.mean(wrong):.3f} |"
        )


def taken(draws: random.Random, index: Questions, texts: list[str]) -> Iterator[bool]:
    """Of questions of the same templates with other names and numbers: is one taken for a copy?"""
    for i in range(1000):
        text = TEMPLATES[i % len(TEMPLATES)].format(**names(draws), **numbers(draws))
        if text not in texts:
            yield any(kind in (SAME, NEAR) for kind, _ in index.like(text).values())


if __name__ == "__main__":
    measure_pictures()
    measure_questions()
