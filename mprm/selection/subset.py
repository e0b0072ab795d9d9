"""From the scores of a selector to the rollouts that are kept, and what a selection leaves behind: manifest, kept rows,
dropped records; and what is said of those that are missing."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mprm.data.lines import first_keys
from mprm.data.mixture import Mixture, excluded_lines, parts_in, said_of
from mprm.data.rollouts import Dataset
from mprm.runs.artifacts import atomic_file, atomic_folder, write_json_lines
from mprm.runs.manifest import AllPositive, Chosen, Manifest, SourceCounts, Statistics, Totals
from mprm.selection.places import asked, parts_kept, places, scored, second_of
from mprm.selection.selectors import Selector
from mprm.selection.signals import once, source_rows

Answer = TypeVar("Answer")

UNLIKE = ("line", "offset", "length", "record_hash", "question_hash", "image_hashes")  # values that hardly repeat
COUNTED = ("n_steps", "n", "n_pos", "n_words", "mean_mc", "p_pos", "n_unsampled", "n_unsampled_negative")


def keep(signals: pa.Table, selector: Selector, weights: Mapping[str, float] | None = None) -> pa.Table:
    """The rows of `signals` that the selector keeps, in their order there; weights: see places().

    Any table with the columns source, ranked and drop_reason will do that has what the selector looks at.

    Added columns: score; rank, 1 for the first of the scope; tie_group, the number of different scores from the best
    down to this one; tie_size, the number of ranked rows of the scope that have this score. Under the published
    cleaning, rollouts that cannot be trained on lose their place only here.

    Raises ValueError if the selector needs a signal that the table does not have.
    """
    score, second = scored(signals, selector), second_of(signals, selector)
    rank, tie_group, tie_size = (np.zeros(len(score), dtype=np.int64) for _ in range(3))
    orders, sizes = [], []
    for rows, size in places(signals, selector, weights):
        if size and not selector.rearranges:
            least = np.partition(score[rows], rows.size - size)[rows.size - size]
            rows = rows[score[rows] >= least]  # the rest need not be sorted
        order = rows[np.lexsort((second[rows], -score[rows]))]  # stable, the last key first
        tie_group[order] = 1 + np.cumsum(np.append(False, score[order[1:]] != score[order[:-1]]))
        tie_size[order] = np.bincount(tie_group[order])[tie_group[order]]
        orders.append(order)
        sizes.append(size)
    if selector.rearranges:
        orders = asked(signals, selector, lambda: selector.arrange(signals, orders, sizes))
    chosen = np.zeros(len(score), dtype=bool)
    for order, size in zip(orders, sizes, strict=True):
        rank[order] = np.arange(1, order.size + 1)
        chosen[order[:size]] = True
    chosen &= signals["drop_reason"].is_null().to_numpy()
    kept = signals.filter(pa.array(chosen))
    for name, values in (("score", score), ("rank", rank), ("tie_group", tie_group), ("tie_size", tie_size)):
        kept = kept.append_column(name, pa.array(values[chosen]))
    return kept


def write_subset(
    folder: str | Path,
    dataset: Dataset,
    signals: pa.Table,
    selector: Selector,
    seed: int,
    add_entropy: Callable[[pa.Table], pa.Table] | None = None,
) -> Manifest:
    """Select, and write the folder, which appears whole or not at all.

    manifest.json; kept.parquet: the kept rows of the signals table in file order, with score, rank, tie_group
    and tie_size; dropped.jsonl: source, line, reason of every dropped record. No annotation is read.

    add_entropy: adds the columns entropy and no_entropy to a table: to all signals for a selector that uses them, to
    the kept rows otherwise; None: nothing does.

    Raises ValueError if nothing is left to train on, or nothing of a part of a mixture.
    """
    if add_entropy is not None and selector.uses_entropy:
        signals = add_entropy(signals)
    mixture = dataset if isinstance(dataset, Mixture) else None
    kept = keep(signals, selector, mixture.weights if mixture else None)
    _check_left(dataset, signals, kept)
    if add_entropy is not None and not selector.uses_entropy:
        kept = add_entropy(kept)
    without = kept["no_entropy"].drop_null().to_pylist() if add_entropy is not None else []
    eligible, eligible_all_positive = _eligible(signals)
    sources = _sources(signals, kept)
    manifest = Manifest(
        seed=seed,
        data_hash=signals.schema.metadata[b"data_hash"].decode(),
        dataset=_chosen(dataset, type(dataset).__name__),
        selector=_chosen(selector, selector.label, selector.baseline),
        sources=sources,
        dropped=dict(Counter(signals["drop_reason"].drop_null().to_pylist()).most_common()),
        totals=Totals(
            eligible=eligible,
            kept=statistics(kept),
            eligible_all_positive=eligible_all_positive,
            kept_all_positive=all_positive(kept),
        ),
        signals=signals.schema.metadata[b"path"].decode(),
        no_entropy=dict(Counter(without).most_common()),
        parts=parts_kept(mixture, sources, kept) if mixture else {},
    )
    with atomic_folder(folder) as temporary:
        repeating = [name for name in kept.column_names if name not in UNLIKE]
        pq.write_table(kept, temporary / "kept.parquet", use_dictionary=repeating)
        gone = signals.filter(signals["drop_reason"].is_valid()).select(["source", "line", "drop_reason"])
        gone = gone.rename_columns(["source", "line", "reason"])
        rows = (row for batch in gone.to_batches(max_chunksize=4096) for row in batch.to_pylist())
        write_json_lines(temporary / "dropped.jsonl", rows)
        manifest.write(temporary / "manifest.json")
    return manifest


def _chosen(component: Any, label: str, baseline: bool = False) -> Chosen:
    return Chosen(name=type(component).__name__, label=label, baseline=baseline, settings=asdict(component))


@once
def _eligible(signals: pa.Table) -> tuple[Statistics, AllPositive | None]:
    rows = signals.select((*COUNTED, "n_question_words", "source")).filter(signals["ranked"])
    return statistics(rows), all_positive(rows)


def statistics(table: pa.Table) -> Statistics:
    """Of the rows of a signals table, of which there is at least one."""
    n_steps, n, n_pos, n_words, mean_mc, p_pos, unsampled, negative = (table[name].to_numpy() for name in COUNTED)
    steps, scored = n_steps.sum(), n.sum()
    return Statistics(
        rollouts=table.num_rows,
        steps=int(steps),
        steps_per_rollout=float(steps / table.num_rows),
        words_per_step=float(n_words.sum() / steps),
        error_step_share=float(1 - n_pos.sum() / scored),
        mean_mc=float((mean_mc * n).sum() / scored),
        mixed_share=float(((p_pos > 0) & (p_pos < 1)).mean()),
        unsampled_share=float(unsampled.sum() / steps),
        unsampled_negative_share=float(negative.sum() / steps),
    )


def all_positive(table: pa.Table) -> AllPositive | None:
    """Of the rows of a signals table that have no negative step; None if there is no such row."""
    rows = table["p_pos"].to_numpy() == 1
    if not rows.any():
        return None
    names = ("n_steps", "n_question_words", "n_unsampled")
    n_steps, n_words, unsampled = (table[name].to_numpy()[rows] for name in names)
    return AllPositive(
        rollouts=n_steps.size,
        steps=float(n_steps.mean()),
        steps_deviation=float(n_steps.std()),
        question_words=float(n_words.mean()),
        question_words_deviation=float(n_words.std()),
        unsampled_share=float(unsampled.sum() / n_steps.sum()),
        tie_size=float(np.median(table["tie_size"].to_numpy()[rows])) if "tie_size" in table.column_names else None,
        sources={name: int(n) for name, at in source_rows(table).items() if (n := rows[at].sum())},
    )


def _sources(signals: pa.Table, kept: pa.Table) -> dict[str, SourceCounts]:
    ranked, dropped = signals["ranked"].to_numpy(), signals["drop_reason"].is_valid().to_numpy()
    kept_rows = source_rows(kept)
    sources = {}
    for source, rows in source_rows(signals).items():
        eligible, n_kept = int(ranked[rows].sum()), len(kept_rows.get(source, ()))
        sources[source] = SourceCounts(
            records=len(rows),
            dropped=int(dropped[rows].sum()),
            eligible=eligible,
            kept=n_kept,
            realised_ratio=n_kept / eligible if eligible else 0.0,
        )
    return sources


@once
def held_out(signals: pa.Table, count: int) -> pa.Table:
    """At least `count` eligible rollouts, in table order, that share neither question nor image with any other.

    Rollouts that share a question or an image, directly or through others, are a group, and a group is held out whole:
    a split by rollout would leak. Groups are taken in the order of their first rollout's question hash, so every
    selector, ratio and seed holds out the same ones, of all sources and of natural composition. Those of more than
    `count` rollouts, such as all questions about one picture, are passed over, even if too few are left; where there
    is no smaller one, the smallest is taken.
    """
    usable = signals["ranked"].to_numpy() & ~signals["drop_reason"].is_valid().to_numpy()
    eligible = np.flatnonzero(usable)
    if count == 0 or len(eligible) == 0:
        return signals.slice(0, 0)
    rows = signals.take(pa.array(eligible))
    _, first, group, size = np.unique(_groups(rows), return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(rows["question_hash"].to_numpy().view(np.uint64)[first], kind="stable")
    order = order[size[order] <= max(count, size.min())]
    taken = order[: 1 + np.searchsorted(np.cumsum(size[order]), count)]
    return rows.filter(pa.array(np.isin(group, taken)))


def _groups(rows: pa.Table) -> np.ndarray:
    """For every row the number of the first row that it is connected with by questions and images."""
    images = rows["image_hashes"].combine_chunks()
    row = np.concatenate([np.arange(len(rows)), pc.list_parent_indices(images).to_numpy()])
    hashed = np.concatenate([rows["question_hash"].to_numpy(), pc.list_flatten(images).to_numpy()])
    _, node = np.unique(hashed, return_inverse=True)
    group = np.arange(len(rows))
    while True:
        least = np.full(node.max() + 1, len(rows))
        np.minimum.at(least, node, group[row])
        joined = group.copy()
        np.minimum.at(joined, row, least[node])
        joined = joined[joined]  # what the row that it was joined to has been joined to
        if np.array_equal(joined, group):
            return group
        group = joined


def write_held_out(path: str | Path, signals: pa.Table, count: int) -> int:
    """Write the held-out rows as Parquet, atomically; returns how many they are."""
    with atomic_file(path) as temporary:
        pq.write_table(found := held_out(signals, count), temporary)
    return len(found)


def remarks(dataset: Dataset, signals: pa.Table) -> list[str]:
    """Lines about what is not there: files without a record, records to be excluded, images in the records, and image
    files, by source, with the places tried for one."""
    found = set(signals["source"].unique().to_pylist())
    empty = [file.name for source, file in dataset.files().items() if source not in found]
    said = [f"no record in {', '.join(empty)}"] if empty else []
    listed = sum(map(len, excluded_lines(dataset).values()))
    excluded = pc.sum(pc.equal(signals["drop_reason"].cast(pa.string()), "excluded")).as_py() or 0
    if excluded < listed:
        lists = {"dataset": dataset} | {f"dataset.parts.{name}": part for name, part in parts_in(dataset).items()}
        given = ", ".join(f"{name}.exclude={one.exclude}" for name, one in lists.items() if one.exclude)
        said.append(f"{given}: {listed - excluded:,} of {listed:,} lines match no record")
    if without := pc.sum(pc.equal(pc.list_value_length(signals["image_hashes"]), 0)).as_py():
        said.append(f"{without:,} rollouts name no image")
    return said + _missing_images(dataset, signals)


def _check_left(dataset: Dataset, signals: pa.Table, kept: pa.Table) -> None:
    for name, part in parts_in(dataset).items():
        rows = signals.filter(pc.starts_with(signals["source"].cast(pa.string()), f"{name}/"))
        if not pc.any(rows["ranked"]).as_py():
            own = pc.utf8_slice_codeunits(rows["source"].cast(pa.string()), len(name) + 1)
            with said_of(name):
                raise ValueError(f"dataset.parts.{name}: {_nothing_left(part, rows.set_column(0, 'source', own))}")
    if kept.num_rows == 0:
        raise ValueError(f"dataset: {_nothing_left(dataset, signals)}")


def _nothing_left(dataset: Dataset, signals: pa.Table) -> str:
    dropped = Counter(signals["drop_reason"].drop_null().to_pylist()).most_common()
    listed = ", ".join(f"{reason} {count}" for reason, count in dropped) or "none"
    keys = f"{first_keys(next(iter(dataset.files().values())))}; wanted are {dataset.wanted}"
    why = "; ".join(_missing_images(dataset, signals) or [keys])
    return f"none of {signals.num_rows} records is left to train on (dropped: {listed}): {why}"


def _missing_images(dataset: Dataset, signals: pa.Table) -> list[str]:
    rows = signals.filter(pc.equal(signals["drop_reason"].cast(pa.string()), "missing_image_file"))
    if not rows.num_rows:
        return []
    counts = Counter(rows["source"].to_pylist()).most_common()
    first = rows.slice(0, 1).to_pylist()[0]
    with open(dataset.files()[first["source"]], "rb") as stream:
        stream.seek(first["offset"])
        images = dataset.read(stream.read(first["length"]), first["source"]).images
    by_source = ", ".join(f"{count:,} of {source}" for source, count in counts)
    return [f"rollouts without an image file: {by_source}; {dataset.image_folder.tried(images, first['source'])}"]
