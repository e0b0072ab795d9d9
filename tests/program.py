"""Programs started for tests, in a fraction of the time: each is forked from one process that has imported everything.

Start-up is most of what a small run costs. The server is one process for all pytest processes; it imports, and never
computes. What is started sees its own arguments, folder, environment and output, as a fresh process would, and ends
with the process that started it. What it starts with sys.executable is fresh, unless forked_python() is in its
environment. Three tests start truly fresh ones: what a light task imports, exit codes, and SIGINT (tests/test_run.py).
"""

import atexit
import contextlib
import gc
import json
import multiprocessing
import os
import random
import re
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Sequence
from itertools import dropwhile
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parents[1]
RUN = str(REPOSITORY / "run.py")

# Modules, and what multiprocessing says when it spawns a process.
FORKED = {"submitit.core._submit", "joblib.externals.loky.backend.popen_loky_posix", "--multiprocessing-fork"}
AT_ONCE = 200  # descriptors in one message: the system takes 253; a model that is spawned with has one for each tensor
SERVER, PYTHON = "MPRM_SERVER", "MPRM_PYTHON"  # in the environment: the server's address, and a forked_python()

_server: list[tuple[subprocess.Popen[bytes], str]] = []


class Program:
    """A started program: the part of subprocess.Popen that tests use. It leads a process group of its own."""

    def __init__(
        self,
        words: list[str],
        cwd: Path,
        env: dict[str, str],
        output: tuple[IO[str], IO[str]],
        pipes: Sequence[int] = (),
    ) -> None:
        self.returncode: int | None = None
        self.stdout, self.stderr = output
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(server())
        request = json.dumps({"words": words, "cwd": str(cwd), "env": env, "numbers": [1, 2, *pipes]}).encode()
        self._socket.sendall(len(request).to_bytes(8, "big") + request)
        descriptors = [*(file.fileno() for file in output), *pipes]
        for first in range(0, len(descriptors), AT_ONCE):
            socket.send_fds(self._socket, [b"."], descriptors[first : first + AT_ONCE])
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

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has said and complained of, once it has ended."""
        self.wait(timeout)
        for file in (self.stdout, self.stderr):
            file.seek(0)
        return self.stdout.read(), self.stderr.read()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the program and its children."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


def start_program(
    *words: str, cwd: Path = REPOSITORY, env: dict[str, str] | None = None, output: Path | None = None
) -> Program:
    """Start `python WORDS`: a script with its arguments, -c CODE, or -m MODULE. What it says goes to `output`, or comes
    from communicate()."""
    if output is None:
        said, complained = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
    else:
        said = complained = open(output, "w+")  # noqa: SIM115
    return Program(list(words), cwd, dict(os.environ if env is None else env), (said, complained))


def run_program(
    *words: str, cwd: Path = REPOSITORY, env: dict[str, str] | None = None, timeout: float = 300
) -> "subprocess.CompletedProcess[str]":
    """Run `python WORDS` to its end, as subprocess.run(capture_output=True, text=True) does."""
    program = start_program(*words, cwd=cwd, env=env)
    try:
        said, complained = program.communicate(timeout)
    except subprocess.TimeoutExpired:
        program.kill()
        raise AssertionError(f"{words} did not end in {timeout} s: {program.communicate()[1][-2000:]}") from None
    assert program.returncode is not None
    return subprocess.CompletedProcess(list(words), program.returncode, said, complained)


def forked_python(folder: Path) -> dict[str, str]:
    """Environment in which a program's sys.executable, written into the folder, is forked from the server, too."""
    path = folder / "python"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import program; program.as_python()"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SEc {shlex.quote(code)} "$@"\n')
    path.chmod(0o755)
    return {SERVER: server(), PYTHON: str(path)}


def as_python() -> None:
    """Do what `python` does with the words of the command line, in a program that gets the pipes and the signals of
    this process: a script, or one of FORKED. Others are started fresh: they are quick, or need the id of this one."""
    opened = [int(number) for number in os.listdir("/proc/self/fd")]
    pipes = [number for number in opened if number > 2 and Path(f"/proc/self/fd/{number}").exists()]  # not its own
    words = list(dropwhile(re.compile("-[BEsu]+").fullmatch, sys.argv[1:]))
    if words[0].startswith("-") and not FORKED & {*words}:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    program = Program(words, Path.cwd(), dict(os.environ), (sys.stdout, sys.stderr), pipes)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: program.send_signal(number))
    code = program.wait()
    if code < 0:
        with contextlib.suppress(OSError):  # of SIGKILL, which has no handler
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def server() -> str:
    """Its address. It is started unless another pytest process did; who connects waits until it has imported all."""
    if SERVER in os.environ:
        return os.environ[SERVER]
    if not _server:
        address = str(Path(tempfile.mkdtemp(prefix="mprm-programs-")) / "socket")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address)
            listening.listen(64)
            number = listening.fileno()
            command = [sys.executable, __file__, str(number)]
            process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, pass_fds=[number])
        _server.append((process, address))
        atexit.register(_stop, os.getpid())
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


def hurry() -> None:
    """No file of a test has to survive the end of the machine's power; and a configuration is so many small objects
    that to look for unused ones after every 700 is a sixth of its time."""
    os.fsync = lambda _: None
    gc.set_threshold(20_000)


def _import_all() -> None:
    """What a run imports. Nothing that starts threads, and nothing that looks at the environment for good."""
    import importlib

    sys.path.insert(0, str(REPOSITORY))
    for module in sorted((REPOSITORY / "mprm").rglob("*.py")):
        if module.name != "__init__.py":
            importlib.import_module(".".join(module.relative_to(REPOSITORY).with_suffix("").parts))
    for name in ("datasets", "transformers.models.internvl", "transformers.models.qwen2_5_vl", "matplotlib.pyplot"):
        importlib.import_module(name)


def _serve(listening: socket.socket) -> dict[str, Any]:
    """Wait for requests for ever; returns one in the process that is forked to run it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork():
            connection.close()
            continue
        listening.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        request = json.loads(_receive(connection, int.from_bytes(_receive(connection, 8), "big")))
        request["descriptors"] = []
        while len(request["descriptors"]) < len(request["numbers"]):
            request["descriptors"] += socket.recv_fds(connection, 1, AT_ONCE)[1]
        program = os.fork()
        if program == 0:
            connection.close()
            return request
        connection.sendall(program.to_bytes(8, "big"))
        threading.Thread(target=_end_with, args=(connection, program), daemon=True).start()
        _, status = os.waitpid(program, 0)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "big", signed=True))
        os._exit(0)


def _end_with(connection: socket.socket, program: int) -> None:
    """Kill the program once nobody is at the other end."""
    with contextlib.suppress(OSError):
        connection.recv(1)
        os.killpg(program, signal.SIGKILL)


def _become(request: dict[str, Any]) -> None:
    """The program that was asked for, in this process."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    free = max(*request["descriptors"], *request["numbers"]) + 1
    for place, descriptor in enumerate(request["descriptors"], start=free):
        os.dup2(descriptor, place)
        os.close(descriptor)
    for place, number in enumerate(request["numbers"], start=free):
        os.dup2(place, number)
        os.close(place)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.executable = os.environ.get(PYTHON, sys.executable)
    multiprocessing.set_executable(sys.executable)
    random.seed()
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path[1:1] = added
    words = request["words"]
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(words[1], "<string>", "exec"), module.__dict__)
    elif words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], os.getcwd()
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = list(words), str(Path(words[0]).resolve().parent)
        runpy.run_path(words[0], run_name="__main__")


def _main() -> None:
    hurry()
    _import_all()
    gc.collect()
    gc.freeze()
    request, code = _serve(socket.socket(fileno=int(sys.argv[1]))), 0
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
