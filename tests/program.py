"""Programs started for tests, in a fraction of the time: each is forked from one process that has imported everything.

Start-up is most of what a small run costs. The server is one process for each pytest process; it imports, and never
computes. What is started sees its own arguments, folder, environment and output, as a fresh process would. Three tests
start truly fresh ones: what a light task imports, exit codes, and SIGINT (tests/test_run.py).
"""

import array
import atexit
import gc
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RUN = str(REPOSITORY / "run.py")

_server: list[tuple[subprocess.Popen[bytes], str]] = []


class Program:
    """A started program: the part of subprocess.Popen that tests use. It leads a process group of its own."""

    def __init__(self, words: list[str], cwd: Path, env: dict[str, str], stdout: int, stderr: int) -> None:
        self.returncode: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(_address())
        request = json.dumps({"words": words, "cwd": str(cwd), "env": env}).encode()
        descriptors = array.array("i", [stdout, stderr])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        self._socket.sendmsg([len(request).to_bytes(8, "big")], ancillary)
        self._socket.sendall(request)
        self.pid = int.from_bytes(_receive(self._socket, 8), "big")

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._socket.settimeout(timeout)
            try:
                self.returncode = int.from_bytes(_receive(self._socket, 8), "big", signed=True)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL to the program and its children."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


def start_program(
    *words: str, cwd: Path = REPOSITORY, env: dict[str, str] | None = None, output: Path | None = None
) -> Program:
    """Start `python WORDS`: a script with its arguments, or -c CODE. What it says goes to `output`, or is lost."""
    with open(output or os.devnull, "wb") as file:
        return Program(list(words), cwd, dict(os.environ if env is None else env), file.fileno(), file.fileno())


def run_program(
    *words: str, cwd: Path = REPOSITORY, env: dict[str, str] | None = None, timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run `python WORDS` to its end, as subprocess.run(capture_output=True, text=True) does."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        environment = dict(os.environ if env is None else env)
        program = Program(list(words), cwd, environment, stdout.fileno(), stderr.fileno())
        try:
            program.wait(timeout)
        except subprocess.TimeoutExpired:
            program.kill()
            stderr.seek(0)
            raise AssertionError(f"{words} did not end in {timeout} s: {stderr.read()[-2000:]}") from None
        stdout.seek(0)
        stderr.seek(0)
        assert program.returncode is not None
        return subprocess.CompletedProcess(list(words), program.returncode, stdout.read(), stderr.read())


def _address() -> str:
    """Of the server's socket; it is started when it is first needed."""
    if not _server:
        folder = tempfile.mkdtemp(prefix="mprm-programs-")
        address = str(Path(folder) / "socket")
        process = subprocess.Popen([sys.executable, __file__, address], cwd=REPOSITORY, stdin=subprocess.PIPE)
        _server.append((process, address))
        atexit.register(_stop, os.getpid())
        while not Path(address).exists():
            assert process.poll() is None, "the server did not start"
            time.sleep(0.02)
    return _server[0][1]


def _stop(owner: int) -> None:
    if os.getpid() == owner:
        process, address = _server[0]
        process.kill()
        process.wait()
        Path(address).unlink(missing_ok=True)
        Path(address).parent.rmdir()


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise AssertionError("the server of programs is gone")
        received += part
    return received


def _import_all() -> None:
    """What a run imports. Nothing that starts threads, and nothing that looks at the environment for good."""
    import importlib

    sys.path.insert(0, str(REPOSITORY))
    for module in sorted((REPOSITORY / "mprm").rglob("*.py")):
        if module.name != "__init__.py":
            importlib.import_module(".".join(module.relative_to(REPOSITORY).with_suffix("").parts))
    for name in ("datasets", "transformers.models.internvl", "transformers.models.qwen2_5_vl", "matplotlib.pyplot"):
        importlib.import_module(name)


def _serve(address: str) -> dict[str, Any]:
    """Wait for requests for ever; returns one in the process that is forked to run it."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address + ".new")
    listening.listen(64)
    os.rename(address + ".new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork():
            connection.close()
            continue
        listening.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        space = socket.CMSG_SPACE(8)
        size, ancillary, _, _ = connection.recvmsg(8, space)
        request = json.loads(_receive(connection, int.from_bytes(size, "big")))
        request["descriptors"] = array.array("i", ancillary[0][2][:8]).tolist()
        program = os.fork()
        if program == 0:
            connection.close()
            return request
        connection.sendall(program.to_bytes(8, "big"))
        _, status = os.waitpid(program, 0)
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
        os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """The program that was asked for, in this process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(request["descriptors"], start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    random.seed()
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path[1:1] = added
    words = request["words"]
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(words[1], "<string>", "exec"), module.__dict__)
    else:
        sys.argv, sys.path[0] = list(words), str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def _main() -> None:
    _import_all()
    gc.collect()
    gc.freeze()
    request, code = _serve(sys.argv[1]), 0
    try:
        _become(request)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    # As the interpreter ends, but for the freeing of all that was imported: a second and a half.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _main()
