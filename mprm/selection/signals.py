"""The signals table: what every selector needs to know of every rollout, computed in one pass and cached.

Columns, one row per record (a line that is not blank), sources in file-name order, records in file order:

    source, line        name of the annotation file without .jsonl, in a mixture behind its part and /; line number from
                        0, blank lines counted
    offset, length      where the record lies in its file, bytes, newline included
    record_hash         64 bits of these bytes
    question_hash       64 bits of question and image files
    image_hashes        64 bits of every image file
    n_question_words    words of the question (blanks and line breaks + 1)
    n_steps, n_words    steps; words of all steps
    n_unsampled         steps of 0 of 0 continuations
    n_unsampled_negative  those of them that have score 0, see dataset.unsampled
    n, n_pos            steps with a score; those with score > 0
    p_pos, reliability  n_pos / n; mean score of the positive steps, 1 when there is none (arXiv 2602.04145)
    mean_mc, min_mc     mean and least score
    p_right             mean probability that a step's success rate is at least 1/4, see BIS
    p_right_positive    the same over the positive steps, 1 when there is none
    ranked              takes part in the ranking
    drop_reason         why it cannot be trained on; null otherwise

What a model says is no part of the table and may be added to it, or to the rows that were kept:

    entropy             see mprm.inference.scoring; null where there is none
    no_entropy          why there is none, null otherwise

With dataset.cleaning=strict exactly the records without a drop_reason are ranked. A record that is not ranked has null
signals.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, wraps
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mprm.data.image_folder import modified_ns
from mprm.data.mixture import code_of, excluded_lines, reading_of
from mprm.data.rollouts import Dataset
from mprm.runs.artifacts import atomic_file, file_hash, write_json
from mprm.selection.scan import scan

P = ParamSpec("P")
Found = TypeVar("Found")

# Enters the key of the cache: raise it when a column or the cleaning of records changes its meaning.
FORMAT_VERSION = 7

STRATA = 5  # of balanced()

NUMERIC = (
    *("n_question_words", "n_steps", "n_words", "n", "n_pos", "p_pos", "reliability", "mean_mc", "min_mc"),
    *("p_right", "p_right_positive"),
)


def build_signals(dataset: Dataset, cache: str | Path) -> pa.Table:
    """The signals table of a dataset, from the cache when the annotations are unchanged.

    The cache, `cache`/signals, holds one Parquet file per content of the annotations, cleaning and image folder. A
    table that cannot be read is made anew. The metadata of the schema holds `data_hash` (of the annotations), `inputs`
    (JSON: a hash by name of each file) and `path` (of the Parquet file).

    Raises ValueError as Dataset.files, or if the annotations changed while they were read.
    """
    folder = Path(cache) / "signals"
    files = dataset.files()
    if not files:
        raise ValueError(f"dataset: there is no annotation file; give {dataset.wanted}")
    hashes = _content_hashes(files, folder / "hashes.json")
    data_hash = hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
    excluded = {source: sorted(lines) for source, lines in excluded_lines(dataset).items()}
    exclude = {"dataset.exclude": _digest(excluded)} if excluded else {}
    parts = [FORMAT_VERSION, *reading_of(dataset), dataset.image_folder.place, data_hash, *exclude.values()]
    path = folder / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}.parquet"
    inputs = {f"annotations {source}.jsonl": content for source, content in hashes.items()} | exclude
    if (code := code_of(dataset)) is not None:
        inputs["the data set's code"] = code
    given = (data_hash, json.dumps(inputs))
    table = _cached(path, *given)
    if table is None:
        with atomic_file(path) as temporary:
            scan(dataset, files, temporary)
            if _content_hashes(files, folder / "hashes.json") != hashes:
                raise ValueError(
                    f"{next(iter(files.values())).parent}: the annotations changed while they were read; start again"
                )
        table = _read(path, path.stat().st_mtime_ns, *given)
    return table


def inputs_of(signals: pa.Table, selector: object) -> dict[str, str]:
    """What a selection from a signals table depends on besides its config, by name: a content hash each.

    The content of every annotation file and of dataset.exclude, which records their images (or anything else) make
    unusable (an image folder's time stamp alone changes nothing), and the code of a selector from elsewhere.
    """
    inputs: dict[str, str] = json.loads(signals.schema.metadata[b"inputs"])
    if (code := code_of(selector)) is not None:
        inputs["the selector's code"] = code
    return inputs


class _NoPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ImportError("pyarrow does without")


def without_pandas() -> None:
    """Keep pyarrow from importing pandas at its first conversion, which takes longer than a selection from the cache.

    It does so only to recognise objects of pandas. From now on pyarrow converts nothing to pandas in this process.
    """
    sys.meta_path.insert(0, finder := _NoPandas())
    pa.array([])  # it tries only once
    sys.meta_path.remove(finder)


@lru_cache(maxsize=1)
def _read(path: Path, modified: int, data_hash: str, inputs: str) -> pa.Table:
    """The table in memory: all jobs of a sweep get the very same one."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:  # pq.read_table would import pandas
        table = file.read()
    table = table.unify_dictionaries().combine_chunks()
    images = {"the images (what is dropped for them)": _hash_of_list(table["drop_reason"].combine_chunks())}
    described = {"data_hash": data_hash, "path": str(path), "inputs": json.dumps(json.loads(inputs) | images)}
    return table.replace_schema_metadata(described)


def once(look: Callable[Concatenate[pa.Table, P], Found]) -> Callable[Concatenate[pa.Table, P], Found]:
    """What `look` finds in a table, which it is asked once: the jobs of a sweep have theirs in common."""
    last: list[Any] = [None]

    @wraps(look)
    def found(signals: pa.Table, /, *args: P.args, **kwargs: P.kwargs) -> Found:
        if last[0] is not signals or last[1:3] != [args, kwargs]:
            last[:] = signals, args, kwargs, look(signals, *args, **kwargs)
        return cast(Found, last[3])

    return found


def source_rows(table: pa.Table) -> dict[str, np.ndarray]:
    """Row numbers of every source, in table order. The rows of a source stand together."""
    if table.num_rows == 0:
        return {}
    codes = table["source"].combine_chunks()
    indices, names = codes.indices.to_numpy(), codes.dictionary.to_pylist()
    starts = np.flatnonzero(np.diff(indices, prepend=-1))
    ends = [*starts[1:], len(indices)]
    return {names[indices[start]]: np.arange(start, end) for start, end in zip(starts, ends, strict=True)}


def uniform(signals: pa.Table, seed: int, purpose: str = "") -> np.ndarray:
    """A draw in [0, 1) per row, which depends on the seed, the purpose and the row's own source, not on the others."""
    draws = np.empty(signals.num_rows)
    for source, rows in source_rows(signals).items():
        digest = hashlib.sha256((f"{purpose}:{source}" if purpose else source).encode()).digest()
        draws[rows] = np.random.default_rng([seed, int.from_bytes(digest[:8], "little")]).random(rows.size)
    return draws


def _content_hashes(files: dict[str, Path], memo: Path) -> dict[str, str]:
    """Source -> content hash. `memo` remembers it by the state of every path.

    The state is size, inode, time of the last modification and time of the last change of any kind, which no program
    can set: an edit that keeps the size and puts the modification time back is seen. A memo that cannot be read, or is
    not what was written, is made anew.
    """
    known = _read_memo(memo)
    statuses = {str(file.resolve()): file.stat() for file in files.values()}
    states = {path: [s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns] for path, s in statuses.items()}
    new = [path for path, state in states.items() if known.get(path, [])[:-1] != state]
    if new:
        with ThreadPoolExecutor() as pool:
            hashes = list(pool.map(file_hash, new))
        known |= {path: [*states[path], hashed] for path, hashed in zip(new, hashes, strict=True)}
        write_json(memo, {"files": known, "sha256": _digest(known)})
    return {source: known[str(file.resolve())][-1] for source, file in files.items()}


def _read_memo(memo: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(memo.read_bytes())
        return content["files"] if content["sha256"] == _digest(content["files"]) else {}
    except (OSError, ValueError, KeyError, TypeError):  # none yet, of an earlier version, or damaged
        return {}


def _hash_of_list(names: pa.DictionaryArray) -> str:
    """SHA-256, in hex, of the names as a JSON list, without half a million Python objects."""
    words = np.array([json.dumps(name) for name in [*names.dictionary.to_pylist(), None]], dtype=object)
    places = names.indices.fill_null(len(names.dictionary)).to_numpy()
    return hashlib.sha256(f"[{', '.join(words[places].tolist())}]".encode()).hexdigest()


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _cached(path: Path, data_hash: str, inputs: str) -> pa.Table | None:
    """The table, if there is one that can be read and no image folder has changed since: images may arrive later."""
    try:
        listed = json.loads(pq.read_metadata(path).metadata[b"image_folders"])
        if all(modified_ns(folder) == modified for folder, modified in listed.items()):
            return _read(path, path.stat().st_mtime_ns, data_hash, inputs)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):  # none yet, or damaged
        pass
    return None


# ---- another order of the rows of one scope, best first: places that are dealt out by more than a score


def one_of_each(order: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The first row of every group, then the second ones, and so on. groups: one of every row of the table."""
    return order[np.argsort(_places_within(groups[order]), kind="stable")]


def balanced(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """However many come first, as large a share of each of five strata of equal size. values: of all rows."""
    stratum = np.searchsorted(np.quantile(values[order], np.arange(1, STRATA) / STRATA), values[order])
    share = (_places_within(stratum) + 0.5) / np.bincount(stratum)[stratum]
    return order[np.argsort(share, kind="stable")]


def shuffled(order: np.ndarray, where: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The rows in these places of the order change places with each other. draws: of all rows, the smallest first."""
    mixed = order.copy()
    mixed[where] = order[where][np.argsort(draws[order[where]], kind="stable")]
    return mixed


def _places_within(groups: np.ndarray) -> np.ndarray:
    """For every element the number of earlier ones of its group."""
    by_group = np.argsort(groups, kind="stable")
    number = np.arange(groups.size)
    begins = np.append(True, groups[by_group][1:] != groups[by_group][:-1])
    places = np.empty(groups.size, dtype=np.int64)
    places[by_group] = number - np.maximum.accumulate(np.where(begins, number, 0))
    return places
