"""Readers of the public benchmarks of multimodal reward models, each in the layout in which it is published.

The `source` of a pair is the group of the benchmark over which accuracy is reported. Its `id` is the record's, a colon
and the number of the record from 0, because the ids of a benchmark may repeat. Answers keep the order of the file, also
where the better one always comes first: in which order a judge sees them is decided elsewhere, by seed.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mprm.data.image_folder import ImageFolder
from mprm.data.lines import Unusable
from mprm.data.questions import Pair, PairFile
from mprm.data.records import image_field, image_names
from mprm.runs.artifacts import atomic_file

COLUMNS = ("id", "query", "response", "human_ranking")  # of VL-RewardBench's parquet files
IMAGES = ("image", "images")
RANKED = {(0, 1): "a", (1, 0): "b", (0, 0): "tie", (1, 1): "tie"}


@dataclass(frozen=True)
class Published:
    """How a benchmark's own scripts count verdicts (mprm/metrics/published_judges.py)."""

    words: str  # the rule, for reports
    silent: Literal["wrong", "coin", "left_out"]  # what a response without a verdict is; left_out: its pair
    random_order: bool = False  # drawn for every response; else the answers are in the order of the record
    votes: tuple[int, ...] = ()  # numbers of sampled responses whose majority counts; (): the one that is measured


@dataclass(frozen=True, kw_only=True)
class RewardBenchmark(PairFile):
    """Your own pairs, in the layout of `preferences`."""

    group = "reward_benchmark"
    rule: ClassVar[Published | None] = None


@dataclass(frozen=True, kw_only=True)
class VLRewardBench(RewardBenchmark):
    """VL-RewardBench (arXiv 2411.17451): `path` is the parquet file of the test split, its images inside, or, where it
    is in shards, their folder or a glob of them, read in name order.

    Read are id, query, response (two), human_ranking and image (or images). The images are written once into `images`,
    by default PATH.images, for a glob that of the folder, under the hash of their bytes. A `path` that ends in .jsonl
    is read as JSON lines with id, image, prompt, chosen and rejected, its images below the file's folder.

    Fields, and that rank 0 is the better one ([0, 1]: the first answer), are said by the card of the data set
    MMInstruction/VL-RewardBench and by the repository vl-rewardbench/VL_RewardBench. The groups are `general`,
    `hallucination` and `reasoning`, by the beginning of the id as in the repository's cal.py; that the ids from POVID
    begin with `hallucination` is taken from its data.jsonl, where cal.py looks for another prefix. Two equal ranks are
    our reading of a tie. As in its inference.py "<image>" and a line's end are removed from query and answers.
    The rule is that of inference.py and cal.py, but for top_p, there .2.
    """

    wanted = "the test parquet file of VL-RewardBench"
    all_have_images = True
    rule = Published(
        "cal.py of VL-RewardBench: an order of the answers is drawn for every response, a pair one of whose responses "
        "has no verdict is left out. Published are votes at temperature .2: judge.votes=9 judge.vote_temperature=0.2",
        "left_out",
        random_order=True,
        votes=(1, 3, 5, 7, 9),
    )

    def layout(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        fields = self._layout(record, number)
        return {key: one.replace("<image>\n", "") if isinstance(one, str) else one for key, one in fields.items()}

    def _layout(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        name = str(record.get("id"))
        source = "general"
        if name.startswith(("RLAIF", "RLHF", "hallucination")):
            source = "hallucination"
        elif name.startswith(("mathverse", "mmmu")):
            source = "reasoning"
        if self._is_json:
            return _chosen_first(record, number, source)
        answers, ranks = record["response"], record["human_ranking"]
        if not isinstance(answers, list) or len(answers) != 2:
            raise Unusable("no_answer")
        return {
            "id": _numbered(record["id"], number),
            "source": source,
            "image": [name for image in _images_in(record) for name in _stored_name(image)],
            "prompt": record["query"],
            "answer_a": answers[0],
            "answer_b": answers[1],
            "label": RANKED.get(tuple(ranks)) if isinstance(ranks, list) else None,
        }

    def items(self) -> Iterable[tuple[int, Any]]:
        return super().items() if self._is_json else enumerate(self._rows(*COLUMNS))

    @property
    def _is_json(self) -> bool:
        return (self.path or "").lower().endswith(".jsonl")

    def file(self) -> Path:
        return super().file() if self._is_json else self._shards()[0]

    def _shards(self) -> list[Path]:
        """In name order. Raises ValueError when there is none."""
        if self.path is not None and Path(self.path).is_dir():
            found = sorted(Path(self.path).glob("*.parquet"))
        elif self.path is not None and not Path(self.path).is_file():
            found = sorted(Path(name) for name in glob(self.path, recursive=True))
        else:
            found = [super().file()]
        if not found:
            raise ValueError(f"{self.group}.path={self.path} is and holds no parquet file; give {self.wanted}")
        return found

    @cached_property
    def image_folder(self) -> ImageFolder:
        """Where images are looked for, those of the file written there first."""
        remedy = f"restore it, or give {self.group}.images"
        if self._is_json:
            return ImageFolder(self.images or self.file().parent, remedy)
        path = Path(str(self.path))
        folder = Path(self.images or f"{path if path.exists() else self.file().parent}.images")
        for row in self._rows():
            for image in _images_in(row):
                for name in _stored_name(image):
                    try:
                        if not (folder / name).exists():
                            with atomic_file(folder / name) as temporary:
                                temporary.write_bytes(image["bytes"])
                    except OSError as error:
                        raise ValueError(
                            f"{self.group}.images={folder} cannot be written ({error.strerror}); give a folder that can"
                        ) from None
        return ImageFolder(folder, remedy)

    def _rows(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Every row with these columns and its images."""
        for path in self._shards():
            try:
                with pq.ParquetFile(path) as file:
                    names = file.schema_arrow.names
                    images = [name for name in IMAGES if name in names]
                    if missing := {*COLUMNS, *(images or ["image"])}.difference(names):
                        raise pa.ArrowInvalid(f"no column {min(missing)}")
                    for batch in file.iter_batches(batch_size=64, columns=[*columns, *images]):
                        yield from batch.to_pylist()
            except (pa.ArrowException, OSError) as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(f"{self.group}.path={path} cannot be read ({reason}); give {self.wanted}") from None


@dataclass(frozen=True, kw_only=True)
class MultimodalRewardBench(RewardBenchmark):
    """Multimodal RewardBench (arXiv 2502.14191): `path` is all_data.json, one JSON list, as the script of the
    repository facebookresearch/multimodal_rewardbench writes it beside the images it downloads.

    Read are ID, Category, Text, Image, Output1, Output2 and Better. Fields and groups are those of its scripts: a group
    is the category, with `safety` split into `safety/bias` (ID begins with pairs) and `safety/toxicity`, `reasoning`
    into `reasoning/math` (ID begins with math) and `reasoning/coding`. The scripts take whatever is not Output2 as
    Output1; here a third value is no label. The repository leaves out the 500 toxicity pairs of the paper's 5,211.
    The rule is that of 1_run_model_as_judge_gpt4o.py and 2_get_accuracy.py; its coin has a seed, one draw around ours.
    """

    wanted = "the all_data.json of Multimodal RewardBench"
    all_have_images = True
    rule = Published(
        "2_get_accuracy.py of Multimodal RewardBench: the answers are in the order of the file, and a response without "
        "a verdict counts a half, the expectation of the script's coin",
        "coin",
    )

    def items(self) -> Iterable[tuple[int, Any]]:
        content = self.file().read_bytes()
        try:
            records = json.loads(content)
        except (ValueError, RecursionError):
            records = None
        if not isinstance(records, list):
            raise ValueError(f"{self.group}.path={self.path} is no JSON list; give {self.wanted}")
        return enumerate(records)

    def layout(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        name, category, better = record.get("ID"), record.get("Category"), record.get("Better")
        if category == "safety":
            category = "safety/bias" if str(name).lower().startswith("pairs") else "safety/toxicity"
        elif category == "reasoning":
            category = "reasoning/math" if str(name).lower().startswith("math") else "reasoning/coding"
        return {
            "id": _numbered(name, number),
            "source": category,
            "image": record.get("Image") or record.get("Images"),
            "prompt": record.get("Text"),
            "answer_a": record.get("Output1"),
            "answer_b": record.get("Output2"),
            "label": "a" if better == "Output1" else "b" if better == "Output2" else None,
        }


@dataclass(frozen=True, kw_only=True)
class MMRLHFRewardBench(RewardBenchmark):
    """MM-RLHF-RewardBench (arXiv 2502.10391): `path` is mm_reward_bench.jsonl, the unpacked images beside it.

    Read are id, image (or images), prompt, chosen and rejected; the label is always a. Fields are taken from the file
    itself and the scripts beside it in the repository yfzhang114/r1_reward, and from a copy of MM-RLHF
    (julyanghar/MM-RLHF), which agree. A group is the folder of the image: `mcq`, `long`, `short` or `safety` (the
    scripts look for these words anywhere in the path). The fifth group, records with a video, is dropped as video. All
    pairs of one question share the record's id: it is their item, and ACC+ counts the items whose pairs are all right.
    The rule is that of r1_reward.py and get_acc.py in that repository; MM-RLHF's own reward model gives scores.
    """

    wanted = "the mm_reward_bench.jsonl of MM-RLHF-RewardBench"
    all_have_images = True
    rule = Published(
        "get_acc.py of R1-Reward: the chosen answer is always shown first, which flatters a judge that prefers the "
        "first; no verdict is wrong; records with a video are left out",
        "wrong",
    )

    def layout(self, record: dict[str, Any], number: int) -> dict[str, Any]:
        if record.get("video"):
            raise Unusable("video")
        images = image_names(image_field(record))
        folders = {folder for image in images for folder in PurePosixPath(image).parts[:-1]}
        group = next((group for group in ("mcq", "long", "short", "safety") if group in folders), None)
        return _chosen_first(record, number, group)

    def read(self, record: dict[str, Any], stem: str, number: int) -> Pair:
        pair = super().read(record, stem, number)
        return replace(pair, item=pair.id.rpartition(":")[0])


def _chosen_first(record: dict[str, Any], number: int, source: str | None) -> dict[str, Any]:
    return {
        "id": _numbered(record.get("id"), number),
        "source": source,
        "image": image_field(record),
        "prompt": record.get("prompt"),
        "answer_a": record.get("chosen"),
        "answer_b": record.get("rejected"),
        "label": "a",
    }


def _numbered(name: object, number: int) -> str | None:
    """The id of a pair; None when the record's is neither text nor an integer."""
    return f"{name}:{number}" if type(name) in (str, int) and name != "" else None


def _images_in(row: dict[str, Any]) -> list[Any]:
    image = row.get("image") or row.get("images")
    return image if isinstance(image, list) else [image]


def _stored_name(image: Any) -> tuple[str, ...]:
    """The name under which the bytes of a parquet image lie in the image folder; () when it has none.

    The hash of the bytes and not the row: the next edition of the file may lie at the same path.
    """
    if not isinstance(image, dict) or not image.get("bytes"):
        return ()
    digest = hashlib.blake2b(image["bytes"], digest_size=16).hexdigest()
    return (digest + PurePosixPath(image.get("path") or "").suffix,)
