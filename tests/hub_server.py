"""A stand-in of the Hugging Face hub on the loopback address: the part of its protocol that huggingface_hub speaks to
look up, download and upload, without Xet."""

import base64
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest import mock

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/?]+)(?:/(revision|tree|preupload|commit)/([^/?]+))?(?:\?.*)?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
TOKEN = "hf_stand_in"  # the one that opens what is closed


@dataclass
class Repo:
    files: dict[str, bytes]
    gated: bool = False  # everybody sees that it is there; files are for those who accepted its licence
    private: bool = False

    @property
    def sha(self) -> str:
        digest = hashlib.sha1()
        for name in sorted(self.files):
            digest.update(name.encode() + b"\0" + self.files[name])
        return digest.hexdigest()


@dataclass
class Hub:
    """repos: by models/ORG/NAME or datasets/ORG/NAME; a commit stays when its repository changes."""

    repos: dict[str, Repo] = field(default_factory=dict)
    commits: dict[str, Repo] = field(default_factory=dict)  # by repository@commit
    asked: list[str] = field(default_factory=list)  # METHOD path of every request, with the Range where it had one
    cut: set[str] = field(default_factory=set)  # files whose next answer breaks off half way
    broken: set[str] = field(default_factory=set)  # parts of a path that are answered with 400
    stored: dict[str, bytes] = field(default_factory=dict)  # of LFS, by SHA-256
    address: str = ""

    def put(self, name: str, files: dict[str, bytes], **closed: bool) -> str:
        """Make a repository, or move its branch main; returns the commit."""
        self.repos[name] = Repo(files, **closed)
        self.commits[f"{name}@{self.repos[name].sha}"] = self.repos[name]
        return self.repos[name].sha

    def downloads(self, file: str) -> list[str]:
        return [line for line in self.asked if line.startswith("GET") and f"/{file}" in line]


def folder_files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: object = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.asked.append(" ".join(filter(None, (self.command, self.path, self.headers.get("Range")))))
        if any(part in self.path for part in self.hub.broken):
            self.reply(400, {"error": "out of order"})
        elif found := FILE.fullmatch(self.path):
            self.send_file(f"{'datasets' if found[1] else 'models'}/{found[2]}", found[3], found[4])
        elif found := API.fullmatch(self.path):
            self.answer(f"{found[1]}/{found[2]}", found[3], found[4] or "main", body)
        elif self.path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.hub.address}/lfs/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects})
        elif self.command == "PUT":
            self.hub.stored[self.path.rpartition("/")[2]] = body
            self.reply(200)
        else:
            self.reply(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def found(self, name: str, revision: str) -> Repo | None:
        """The repository at a commit or on main; None once the answer that there is none was sent."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and not self.known):  # the hub does not tell one from the other
            self.reply(404 if self.known else 401, X_Error_Code="RepoNotFound")
            return None
        at = repo if revision == "main" else self.hub.commits.get(f"{name}@{revision}")
        if at is None:
            self.reply(404, X_Error_Code="RevisionNotFound")
        return at

    def answer(self, name: str, what: str | None, revision: str, body: bytes) -> None:
        if what in ("preupload", "commit"):
            if not self.known:
                self.reply(401, X_Error_Code="RepoNotFound")
            elif what == "preupload":
                modes = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for one in json.loads(body)["files"]
                ]
                self.reply(200, {"files": modes})
            else:
                self.commit(name, [json.loads(line) for line in body.splitlines()])
        elif (repo := self.found(name, revision)) is not None:
            if what == "tree":
                self.reply(200, [self.entry(path, content) for path, content in repo.files.items()])
            else:
                siblings = [{"rfilename": path} for path in repo.files]
                self.reply(200, {"id": name.partition("/")[2], "sha": repo.sha, "siblings": siblings, "tags": []})

    def entry(self, path: str, content: bytes) -> dict[str, object]:
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def send_file(self, name: str, revision: str, path: str) -> None:
        repo = self.found(name, revision)
        if repo is None:
            return
        if repo.gated and not self.known:
            self.reply(401, X_Error_Code="GatedRepo")
            return
        if path not in repo.files:
            self.reply(404, X_Error_Code="EntryNotFound")
            return
        content, start = repo.files[path], 0
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": repo.sha}
        if given := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(given[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and path in self.hub.cut:
            self.hub.cut.remove(path)
            self.send_response(200)
            for key, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.reply(206 if start else 200, content[start:], **headers)

    def create(self, asked: dict[str, str]) -> None:
        name = f"models/{asked['organization']}/{asked['name']}"
        if not self.known:
            self.reply(401, {"error": "Invalid username or password."})
        elif asked["organization"] == "others":
            self.reply(403, {"error": "no right to create under this namespace"})
        elif name in self.hub.repos:
            self.reply(409, {"url": f"{self.hub.address}/{name.partition('/')[2]}"})
        else:
            self.hub.put(name, {}, private=asked.get("visibility") == "private")
            self.reply(200, {"url": f"{self.hub.address}/{name.partition('/')[2]}"})

    def commit(self, name: str, lines: list[dict]) -> None:
        repo, files = self.hub.repos[name], {}
        for value in [line["value"] for line in lines if line["key"] != "header"]:
            lfs = "oid" in value
            files[value["path"]] = self.hub.stored[value["oid"]] if lfs else base64.b64decode(value["content"])
        sha = self.hub.put(name, repo.files | files, private=repo.private)
        url = f"{self.hub.address}/{name.partition('/')[2]}/commit/{sha}"
        self.reply(200, {"commitUrl": url, "commitOid": sha, "pullRequestUrl": None})


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """What a program is told to use it, and no other cache or token than those below `home`."""
    told = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    return told | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"} | more


@contextmanager
def imported_anew(told: dict[str, str]) -> Iterator[None]:
    """huggingface_hub as a process with this environment has it: it reads it once, when it is imported."""
    from mprm.runs import hub

    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "huggingface_hub"}
    for name in before:
        del sys.modules[name]
    hub.local.cache_clear()
    try:
        with mock.patch.dict("os.environ", told):
            yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            del sys.modules[name]
        sys.modules.update(before)
        hub.local.cache_clear()
