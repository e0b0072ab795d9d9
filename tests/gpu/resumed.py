"""`python resumed.py DEVICE STAGE FOLDER`: a training with DeepSpeed that is killed, resumed and exported, every time
with the command that a user types. On the CPU, where DeepSpeed does not run, without it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

RUN = str(Path(__file__).resolve().parents[2] / "run.py")
EVERY = 10  # optimizer steps: the next checkpoints are far from the first, at which it is killed


def main(device: str, stage: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    places = [f"runs={folder / 'runs'}", f"cache={folder / 'cache'}", f"dataset.root={folder / 'world'}", "name=killed"]
    small = ["experiment=quick", "dataset.rollouts=96", "held_out=8", "recipe.epochs=8", "recipe.global_batch_size=8"]
    trainer = [f"trainer=deepspeed_zero{stage}", "trainer.devices=1", "trainer.num_workers=1"]
    trainer.append("trainer.compile=false")  # that takes longer than all else
    train = ["task=train", *small, *(trainer if device == "cuda" else ["trainer=cpu"]), *places]
    train.append(f"trainer.checkpoint_every={EVERY}")
    kill(start(train), folder / "runs" / "killed" / "checkpoints")
    said = finish(train)
    resumed = re.search(r"resuming from step (\d+) of (\d+)", said)
    assert resumed, f"it did not go on from a checkpoint: {said[-2000:]}"
    finish(["task=export", f"run={folder / 'runs' / 'killed'}", f"output={folder / 'exported'}"])
    weights = load_file(folder / "exported" / "model.safetensors")
    assert all(np.isfinite(weight).all() for weight in weights.values())
    lines = [json.loads(line) for line in (folder / "runs" / "killed" / "metrics.jsonl").read_text().splitlines()]
    loss = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(loss) == int(resumed[2]), f"{len(loss)} losses of {resumed[2]} steps"
    print(f"killed and resumed at step {resumed[1]} of {resumed[2]}; loss {loss[0]:.3f} to {loss[-1]:.3f}; exported")


def start(words: list[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, RUN, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(words: list[str]) -> str:
    process = start(words)
    said, _ = process.communicate()
    print(said)
    assert process.returncode == 0, f"{words[0]} ended with {process.returncode}"
    return said


def kill(process: "subprocess.Popen[str]", checkpoints: Path) -> None:
    """As the first checkpoint is there."""
    while not [*checkpoints.glob("step-*.ckpt")]:
        if process.poll() is not None:
            raise AssertionError(f"it ended before a checkpoint: {process.communicate()[0]}")
        time.sleep(0.01)
    process.kill()
    process.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
