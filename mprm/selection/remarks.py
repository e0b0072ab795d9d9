"""What is said of annotations that are not all used."""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from mprm.data.records import first_keys
from mprm.data.visualprm400k import VisualPRM400K


def remarks(dataset: VisualPRM400K, signals: pa.Table) -> list[str]:
    """Lines about what is not there: files without a record, records to be excluded, and images, by source, with the
    places tried for one."""
    found = set(signals["source"].unique().to_pylist())
    empty = [file.name for file in dataset.files() if file.stem not in found]
    said = [f"no record in {', '.join(empty)}"] if empty else []
    listed = sum(map(len, dataset.excluded().values()))
    excluded = pc.sum(pc.equal(signals["drop_reason"].cast(pa.string()), "excluded")).as_py() or 0
    if excluded < listed:
        said.append(f"dataset.exclude={dataset.exclude}: {listed - excluded:,} of {listed:,} lines match no record")
    return said + _missing_images(dataset, signals)


def nothing_left(dataset: VisualPRM400K, signals: pa.Table) -> str:
    """One line that says why there is nothing to train on."""
    reasons = Counter(signals["drop_reason"].drop_null().to_pylist()).most_common()
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons) or "none"
    keys = f"{first_keys(dataset.files()[0])}; wanted are {dataset.wanted()}"
    why = "; ".join(_missing_images(dataset, signals) or [keys])
    return f"dataset: none of {signals.num_rows} records is left to train on (dropped: {listed}): {why}"


def _missing_images(dataset: VisualPRM400K, signals: pa.Table) -> list[str]:
    rows = signals.filter(pc.equal(signals["drop_reason"].cast(pa.string()), "missing_image_file"))
    if not rows.num_rows:
        return []
    counts = Counter(rows["source"].to_pylist()).most_common()
    first = rows.slice(0, 1).to_pylist()[0]
    file = next(file for file in dataset.files() if file.stem == first["source"])
    with open(file, "rb") as stream:
        stream.seek(first["offset"])
        tried = dataset.tried(stream.read(first["length"]), first["source"])
    by_source = ", ".join(f"{count:,} of {source}" for source, count in counts)
    return [f"rollouts without an image file: {by_source}; {tried}"]
