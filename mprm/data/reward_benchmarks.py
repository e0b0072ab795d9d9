"""Readers of the public benchmarks of multimodal reward models, each in the layout in which it is published.

The `source` of a pair is the group of the benchmark over which accuracy is reported. Its `id` is the record's, a colon
and the number of the record from 0, because the ids of a benchmark may repeat. Answers keep the order of the file, also
where the better one always comes first: in which order a judge sees them is decided elsewhere, by seed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from mprm.data.image_folder import ImageFolder
from mprm.data.preferences import Pair, Preferences, checked_pair, named_images
from mprm.data.rollouts import Dropped, Unusable, image_names, json_object
from mprm.runs.artifacts import atomic_file


@dataclass(frozen=True, kw_only=True)
class RewardBenchmark(Preferences):
    """Component `reward_benchmark`: pairs that judges are measured on, in the layout of `preferences`."""

    GROUP: ClassVar[str] = "reward_benchmark"


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
    our reading of a tie.
    """

    WANTED: ClassVar[str] = "the test parquet file of VL-RewardBench"
    COLUMNS: ClassVar[tuple[str, ...]] = ("id", "query", "response", "human_ranking")
    IMAGES: ClassVar[tuple[str, ...]] = ("image", "images")

    def pairs(self) -> Iterator[Pair | Dropped]:
        """Every row, as a Pair or as the reason why it can not be one.

        Raises:
            ValueError: `path` is no such file, or the images can not be written.
        """
        if self._is_json:
            return self.each(lambda _, n, line: self.with_images(_chosen_first(n, json_object(line), _vl_group_of)))
        return _each(self.files()[0].stem, self._rows(*self.COLUMNS), self._pair)

    @property
    def _is_json(self) -> bool:
        return (self.path or "").lower().endswith(".jsonl")

    def files(self) -> list[Path]:
        """The shards in name order. Raises ValueError when there is none."""
        if self.path is not None and Path(self.path).is_dir():
            found = sorted(Path(self.path).glob("*.parquet"))
        elif self.path is not None and not Path(self.path).is_file():
            found = sorted(Path(name) for name in glob(self.path, recursive=True))
        else:
            found = [self.file()]
        if not found:
            raise ValueError(f"{self.GROUP}.path={self.path} is and holds no parquet file; give {self.WANTED}")
        return found

    @cached_property
    def image_folder(self) -> ImageFolder:
        """Where images are looked for, those of the file written there first."""
        if self._is_json:
            return ImageFolder(self.images or self.file().parent)
        files, path = self.files(), Path(str(self.path))
        folder = Path(self.images or f"{path if path.exists() else files[0].parent}.images")
        for row in self._rows():
            for image in _images_in(row):
                for name in _stored_name(image):
                    self._store(folder / name, image["bytes"])
        return ImageFolder(folder)

    def _store(self, path: Path, image: bytes) -> None:
        try:
            if not path.exists():
                with atomic_file(path) as temporary:
                    temporary.write_bytes(image)
        except OSError as error:
            raise ValueError(
                f"{self.GROUP}.images={path.parent} can not be written ({error.strerror}); give a folder that can"
            ) from None

    def _rows(self, *columns: str) -> Iterator[dict[str, Any]]:
        """Every row with these columns and its images."""
        for path in self.files():
            try:
                with pq.ParquetFile(path) as file:
                    names = file.schema_arrow.names
                    images = [name for name in self.IMAGES if name in names]
                    if missing := {*self.COLUMNS, *(images or ["image"])}.difference(names):
                        raise pa.ArrowInvalid(f"no column {min(missing)}")
                    for batch in file.iter_batches(batch_size=64, columns=[*columns, *images]):
                        yield from batch.to_pylist()
            except (pa.ArrowException, OSError) as error:
                reason = str(error).partition("\n")[0]
                raise ValueError(f"{self.GROUP}.path={path} can not be read ({reason}); give {self.WANTED}") from None

    def _pair(self, number: int, row: dict[str, Any]) -> Pair:
        ranks, answers, name = row["human_ranking"], row["response"], row["id"]
        if not isinstance(answers, list) or len(answers) != 2:
            raise Unusable("no_answer")
        labels = {(0, 1): "a", (1, 0): "b", (0, 0): "tie", (1, 1): "tie"}
        pair = checked_pair(
            id=_numbered(name, number),
            source=_vl_group(str(name)),
            images=tuple(name for image in _images_in(row) for name in _stored_name(image)),
            prompt=row["query"],
            answers=(answers[0], answers[1]),
            label=labels.get(tuple(ranks)) if isinstance(ranks, list) else None,
        )
        return self.with_images(pair)


@dataclass(frozen=True, kw_only=True)
class MultimodalRewardBench(RewardBenchmark):
    """Multimodal RewardBench (arXiv 2502.14191): `path` is all_data.json, one JSON list, as the script of the
    repository facebookresearch/multimodal_rewardbench writes it beside the images it downloads.

    Read are ID, Category, Text, Image, Output1, Output2 and Better. Fields and groups are those of its scripts: a group
    is the category, with `safety` split into `safety/bias` (ID begins with pairs) and `safety/toxicity`, `reasoning`
    into `reasoning/math` (ID begins with math) and `reasoning/coding`. The scripts take whatever is not Output2 as
    Output1; here a third value is no label. The repository leaves out the 500 toxicity pairs of the paper's 5,211.
    """

    WANTED: ClassVar[str] = "the all_data.json of Multimodal RewardBench"

    def pairs(self) -> Iterator[Pair | Dropped]:
        """Every element of the list, as a Pair or as the reason why it can not be one.

        Raises:
            ValueError: `path` is no such file.
        """
        path = self.file()
        try:
            records = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            records = None
        if not isinstance(records, list):
            raise ValueError(f"{self.GROUP}.path={path} is no JSON list; give {self.WANTED}")
        return _each(path.stem, records, self._pair)

    def _pair(self, number: int, record: object) -> Pair:
        if not isinstance(record, dict):
            raise Unusable("not_an_object")
        name, category, better = record.get("ID"), record.get("Category"), record.get("Better")
        if category == "safety":
            category = "safety/bias" if str(name).lower().startswith("pairs") else "safety/toxicity"
        elif category == "reasoning":
            category = "reasoning/math" if str(name).lower().startswith("math") else "reasoning/coding"
        pair = checked_pair(
            id=_numbered(name, number),
            source=category,
            images=image_names(record.get("Image") or record.get("Images")),
            prompt=record.get("Text"),
            answers=(record.get("Output1"), record.get("Output2")),
            label="a" if better == "Output1" else "b" if better == "Output2" else None,
        )
        return self.with_images(pair)


@dataclass(frozen=True, kw_only=True)
class MMRLHFRewardBench(RewardBenchmark):
    """MM-RLHF-RewardBench (arXiv 2502.10391): `path` is mm_reward_bench.jsonl, the unpacked images beside it.

    Read are id, image (or images), prompt, chosen and rejected; the label is always a. Fields are taken from the file
    itself and the scripts beside it in the repository yfzhang114/r1_reward, and from a copy of MM-RLHF
    (julyanghar/MM-RLHF), which agree. A group is the folder of the image: `mcq`, `long`, `short` or `safety` (the
    scripts look for these words anywhere in the path). The fifth group, video, is dropped as no_image. All pairs of one
    question share the record's id: it is an item, and ACC+ counts the items whose pairs are all judged right.
    """

    WANTED: ClassVar[str] = "the mm_reward_bench.jsonl of MM-RLHF-RewardBench"

    def pairs(self) -> Iterator[Pair | Dropped]:
        """Every record in file order, as a Pair or as the reason why it can not be one.

        Raises:
            ValueError: no file is set, or it is not there.
        """
        return self.each(lambda _, number, line: self.with_images(_chosen_first(number, json_object(line), _folder_of)))

    def items(self, pairs: Sequence[Pair]) -> dict[str, str] | None:
        """The record's id, which all pairs of one question share."""
        return {pair.id: pair.id.rpartition(":")[0] for pair in pairs}


def _chosen_first(number: int, record: dict[str, Any], group: Callable[[dict[str, Any]], str | None]) -> Pair:
    return checked_pair(
        id=_numbered(record.get("id"), number),
        source=group(record),
        images=named_images(record),
        prompt=record.get("prompt"),
        answers=(record.get("chosen"), record.get("rejected")),
        label="a",
    )


def _folder_of(record: dict[str, Any]) -> str | None:
    folders = {folder for image in named_images(record) for folder in PurePosixPath(image).parts[:-1]}
    return next((group for group in ("mcq", "long", "short", "safety") if group in folders), None)


def _vl_group_of(record: dict[str, Any]) -> str:
    return _vl_group(str(record.get("id")))


def _numbered(name: object, number: int) -> str | None:
    """The id of a pair; None when the record's is neither text nor an integer."""
    return f"{name}:{number}" if type(name) in (str, int) and name != "" else None


def _vl_group(name: str) -> str:
    if name.startswith(("RLAIF", "RLHF", "hallucination")):
        return "hallucination"
    return "reasoning" if name.startswith(("mathverse", "mmmu")) else "general"


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


def _each(stem: str, records: Iterable[Any], read: Callable[[int, Any], Pair]) -> Iterator[Pair | Dropped]:
    """What `read` makes of every record, given its number; a Dropped where it raises Unusable."""
    for number, record in enumerate(records):
        try:
            yield read(number, record)
        except Unusable as unusable:
            yield Dropped(stem, number, unusable.reason)
