"""Ids of the hub in place of paths, against a stand-in on the loopback address."""

import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hub_server import TOKEN, Hub, environment, imported_anew, running
from omegaconf import OmegaConf

from mprm.runs import hub
from mprm.runs.run_folder import config_hash

KEY = "backbone.path"
MODEL = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 40, "pytorch_model.bin": b"never read"}
LINES = {"annotations/a.jsonl": b"{}\n", "README.md": b""}
Using = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def server() -> Iterator[Hub]:
    with running() as found:
        yield found


@pytest.fixture
def using(server: Hub, tmp_path: Path) -> Using:
    """using(HF_HUB_OFFLINE="1"): huggingface_hub as it is with this environment, its cache in the test's folder."""
    return lambda **more: imported_anew(environment(server, tmp_path / "home", **more))


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("backbone.path", "org/name", ("model", "org/name", None, "")),
        ("policy.path", "Org-1/na.me_2@v1.0", ("model", "Org-1/na.me_2", "v1.0", "")),
        ("dataset.root", "org/name@main", ("dataset", "org/name", "main", "")),
        ("dataset.parts.text.root", "org/name@main", ("dataset", "org/name", "main", "")),
        ("benchmark.path", "org/name@main/data/test.jsonl", ("dataset", "org/name", "main", "/data/test.jsonl")),
        ("backbone.path", "org/name/file", None),  # of a model the whole is taken
        ("dataset.root", "org/name/folder", None),
        ("backbone.path", "name", None),
        ("backbone.path", "/org/name", None),
        ("backbone.path", "./org/name", None),
        ("backbone.path", "org/../name", None),
        ("backbone.path", None, None),
    ],
)
def test_what_has_the_form_of_an_id(key: str, value: str | None, parts: tuple[Any, ...] | None) -> None:
    found = hub.repository(key, value)
    assert (found and tuple(found[2:])) == parts


def test_a_path_that_is_there_wins(server: Hub, using: Using, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put("models/org/name", MODEL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    with using():
        assert hub.local(KEY, "org/name") == "org/name"
    assert server.asked == []


def test_a_snapshot_is_downloaded_once_without_pickled_weights(server: Hub, using: Using) -> None:
    sha = server.put("models/org/name", MODEL)
    with using():
        folder = Path(hub.local(KEY, "org/name"))
    assert folder.name == sha
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: content for name, content in MODEL.items() if name != "pytorch_model.bin"
    }
    server.asked.clear()
    with using():  # a commit is never asked for again
        assert hub.local(KEY, f"org/name@{sha}") == str(folder)
    with using(HF_HUB_OFFLINE="1"):
        assert hub.local(KEY, "org/name") == str(folder)
    assert server.asked == []


def test_a_cut_connection_is_resumed_where_it_broke(server: Hub, using: Using, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put("models/org/name", MODEL)
    server.cut.add("model.safetensors")
    with using():
        import huggingface_hub.constants

        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1024)
        folder = Path(hub.local(KEY, "org/name"))
    assert (folder / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    first, second = server.downloads("model.safetensors")
    assert "bytes=" not in first
    assert second.endswith("bytes=5120-")  # half of 10,240


def test_part_of_a_snapshot_is_never_the_whole(server: Hub, using: Using) -> None:
    """As after a kill: what is whole is kept, what lacks is downloaded, and no run begins without it."""
    sha = server.put("models/org/name", MODEL)
    server.broken.add("model.safetensors")
    with (
        using(),
        pytest.raises(
            OSError, match=r"org/name is no path here, and the hub cannot be reached, or broke off \(.*whole files are"
        ),
    ):
        hub.local(KEY, "org/name")
    with (
        using(HF_HUB_OFFLINE="1"),
        pytest.raises(OSError, match=r"HF_HUB_OFFLINE is set, and .*/home/hub does not hold it whole"),
    ):
        hub.local(KEY, f"org/name@{sha}")
    server.broken.clear()
    with using():
        assert (Path(hub.local(KEY, "org/name")) / "model.safetensors").is_file()
    assert len(server.downloads("config.json")) == 1


def test_a_file_that_transformers_cached_is_no_snapshot(server: Hub, using: Using) -> None:
    server.put("models/org/name", MODEL)
    with using():
        from huggingface_hub import hf_hub_download

        hf_hub_download("org/name", "config.json")
        assert (Path(hub.local(KEY, "org/name")) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("value", "token", "words"),
    [
        ("org/absent", "", "org/absent is no path here, and the hub has no such model or hides it (no token is set)"),
        ("org/private", "", "hides it (no token is set); see {page}/org/private; HF_TOKEN=... or hf auth login"),
        ("org/private", "hf_other", "hides it (the token in use does not open it)"),
        ("org/gated", "", "org/gated is gated and no token is set; accept its licence on {page}/org/gated; HF_TOKEN"),
        ("org/gated", "hf_other", "org/gated is gated and the token in use does not open it; accept its licence on"),
        ("org/open@v9", "", "org/open@v9 has no revision v9; see {page}/org/open/commits"),
        ("org/na--me", "", "org/na--me is no id of the hub, ORG/NAME (Cannot have -- or .."),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(value: str, token: str, words: str, server: Hub, using: Using) -> None:
    server.put("models/org/open", MODEL)
    server.put("models/org/gated", MODEL, gated=True)
    server.put("models/org/private", MODEL, private=True)
    with using(**({"HF_TOKEN": token} if token else {})), pytest.raises(ValueError, match=value) as raised:
        hub.local(KEY, value)
    assert words.format(page=server.address) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["gated", "private"])
def test_a_token_opens_what_is_closed(name: str, server: Hub, using: Using) -> None:
    server.put(f"models/org/{name}", MODEL, **{name: True})
    with using(HF_TOKEN=TOKEN):
        assert (Path(hub.local(KEY, f"org/{name}")) / "config.json").is_file()


def test_without_a_network_it_is_said_at_once(using: Using) -> None:
    with (
        using(HF_ENDPOINT="http://127.0.0.1:9"),
        pytest.raises(
            OSError,
            match=r"backbone.path=org/name is no path here, and the hub cannot be reached, or broke off \(.*refused\)",
        ),
    ):
        hub.local(KEY, "org/name")


def test_a_full_disk_is_named(server: Hub, using: Using, tmp_path: Path) -> None:
    server.put("models/org/name", MODEL | {"model.safetensors": bytes(300_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with (
            using(),
            pytest.raises(OSError, match=f"does not fit the disk of {tmp_path}/home/hub; HF_HOME=DIR moves it"),
        ):
            hub.local(KEY, "org/name")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def pin(raw: Any, groups: list[str], runs: Path) -> None:
    values: Any = OmegaConf.to_container(raw)
    hub.pin(raw, values, groups, runs)
    assert values == OmegaConf.to_container(raw)


def config(**backbone: str) -> Any:
    return OmegaConf.create({"task": "train", "backbone": {"_target_": "mprm.x.Y", **backbone}})


def test_the_commit_is_pinned_for_all_runs_beside_each_other(
    server: Hub, using: Using, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sha = server.put("models/org/name", MODEL)

    def pinned(runs: str, value: str = "org/name") -> Any:
        raw = config(path=value)
        with using():
            pin(raw, ["backbone"], tmp_path / runs)
        return raw

    assert pinned("runs").backbone.path == f"org/name@{sha}"
    assert f"backbone.path=org/name is commit {sha}, noted in {tmp_path}/runs/hub.json" in capsys.readouterr().out
    later = server.put("models/org/name", MODEL | {"config.json": b'{"moved": true}'})
    server.asked.clear()
    assert pinned("runs").backbone.path == f"org/name@{sha}"
    assert server.asked == []
    assert pinned("others").backbone.path == f"org/name@{later}"
    assert pinned("runs", f"org/name@{later}").backbone.path == f"org/name@{later}"
    assert pinned("runs", "org/name@main").backbone.path == f"org/name@{later}"
    hashes = {config_hash(pinned("runs")), config_hash(pinned("runs", "org/name@main")), config_hash(pinned("others"))}
    assert len(hashes) == 2


def test_the_hash_of_a_pinned_config_does_not_depend_on_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, local = config(path=f"org/name@{'a' * 40}"), config(path="org/name")
    before = config_hash(raw), config_hash(local)
    monkeypatch.chdir(tmp_path)
    assert config_hash(raw) == before[0]
    assert config_hash(local) != before[1]  # a path


def test_only_groups_of_the_task_are_looked_up_and_never_what_chartworld_writes(
    server: Hub, using: Using, tmp_path: Path
) -> None:
    raw = OmegaConf.create(
        {
            "backbone": {"path": "org/name"},
            "benchmark": {"_target_": "mprm.chartworld.corpus.ChartWorldBenchmark", "path": "data/world/test.jsonl"},
        }
    )
    with using():
        pin(raw, ["benchmark"], tmp_path)
    assert server.asked == []
    assert (raw.backbone.path, raw.benchmark.path) == ("org/name", "data/world/test.jsonl")


def test_the_parts_of_a_mixture_are_pinned(server: Hub, using: Using, tmp_path: Path) -> None:
    sha = server.put("datasets/org/name", LINES)
    parts = {"text": {"_target_": "mprm.x.Y", "path": "org/name/a.jsonl"}, "own": {"path": None}}
    raw = OmegaConf.create({"dataset": {"_target_": "mprm.data.mixture.Mixture", "parts": parts}})
    with using():
        pin(raw, ["dataset"], tmp_path)
    assert raw.dataset.parts.text.path == f"org/name@{sha}/a.jsonl"
    assert raw.dataset.parts.own.path is None


def test_a_further_rank_waits_for_the_first(
    server: Hub, using: Using, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for nothing: neither which commit it is, nor a file."""
    server.put("models/org/name", MODEL)
    raw, first = config(path="org/name"), config(path="org/name")
    waited = []

    def as_rank_zero(do: Callable[[], Any]) -> None:
        for key in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(key, "0")
        waited.append(do())
        for key in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(key, "1")
        server.asked.clear()

    with using():
        for key in ("RANK", "LOCAL_RANK"):
            monkeypatch.setenv(key, "1")
        monkeypatch.setattr(hub, "sleep", lambda _: as_rank_zero(lambda: pin(first, ["backbone"], tmp_path)))
        pin(raw, ["backbone"], tmp_path)
        assert raw == first
        value = raw.backbone.path
        monkeypatch.setattr(hub, "sleep", lambda _: as_rank_zero(lambda: hub.local.__wrapped__(KEY, value)))
        assert hub.local(KEY, value) == waited[1]
    assert len(waited) == 2
    assert server.asked == []


def test_a_damaged_note_of_commits_is_named(server: Hub, using: Using, tmp_path: Path) -> None:
    (tmp_path / "hub.json").write_text("{")
    with (
        using(),
        pytest.raises(ValueError, match=r"hub.json cannot be read \(.*; delete it, and ids are looked up anew"),
    ):
        pin(config(path="org/name"), ["backbone"], tmp_path)


def test_a_data_set_is_a_folder_or_one_of_its_files(server: Hub, using: Using) -> None:
    server.put("datasets/org/rollouts", LINES)
    server.put("datasets/org/bench", {"test.jsonl": b"{}\n", "images/0.png": b"png", "images.zip": b"PK"})
    server.put("datasets/org/two", {"a.jsonl": b"{}\n", "b.jsonl": b"{}\n"})
    with using():
        assert (Path(hub.local("dataset.root", "org/rollouts")) / "annotations" / "a.jsonl").is_file()
        assert Path(hub.local("benchmark.path", "org/bench")).name == "test.jsonl"  # its only one
        assert Path(hub.local("benchmark.path", "org/two@main/b.jsonl")).read_bytes() == b"{}\n"
        assert Path(hub.local("dataset.path", "org/two")).is_dir()


@pytest.mark.parametrize(
    ("key", "files", "words"),
    [
        ("dataset.root", ["annotations.zip", "images.zip_aa", "images.zip_ab"], "dataset.root=DIR instead"),
        ("dataset.root", ["annotations/a.jsonl", "images.tar.gz"], "dataset.images=DIR, too"),
        ("benchmark.path", ["test.jsonl", "images.ZIP"], "benchmark.images=DIR, too"),
    ],
)
def test_pictures_in_archives_are_named_before_anything_is_read(
    key: str, files: list[str], words: str, server: Hub, using: Using
) -> None:
    server.put("datasets/org/name", {name: name.encode() for name in files})
    archives = ", ".join(Path(name).name for name in files if not name.endswith(".jsonl"))
    with using(), pytest.raises(ValueError, match="keeps its pictures in archives; unpack") as raised:
        hub.local(key, "org/name")
    assert f"unpack {archives} of " in str(raised.value)
    assert words in str(raised.value)
    with using():
        assert hub.local(key, "org/name", has_pictures=True)
