#!/usr/bin/env bash
# What one GPU has to prove, in less than ten minutes on a machine with Python 3.12, torch 2.11, transformers and
# lightning, and without a network: what else is needed is installed from wheels/, which `make wheels` has filled.
#   bash tests/gpu/slot.sh                    all parts
#   bash tests/gpu/slot.sh kernels train      some of them
# OUT=DIR gets log.txt and figures.jsonl (default: a new folder below /tmp). PYTHON=PROGRAM (python3). DEVICE=cpu, the
# default where there is no GPU, does every part at the smallest size, to see that it runs.
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2
OUT=${OUT:-$(mktemp -d)} PYTHON=${PYTHON:-python3}
WORK=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$WORK"' EXIT
mkdir -p "$OUT"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
export PYTORCH_NVML_BASED_CUDA_CHECK=1 # tests fork programs: whoever looks for a GPU before that must not use it
export TORCH_EXTENSIONS_DIR=$WORK/extensions
source tests/gpu/parts.sh

wanted=("$@")
[ "$#" != 0 ] || wanted=(kernels internvl qwen zero2 zero3 train score lora sharded)
DEVICE=${DEVICE:-$([ -e /dev/nvidia0 ] || command -v nvidia-smi >/dev/null && echo cuda || echo cpu)}

# Limits in seconds: together less than 560.
if ! "$PYTHON" -c "import hydra" 2>/dev/null; then
  part wheels 20 '^installed' bash -c "$PYTHON -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
    --target '$WORK/site' wheels/*.whl && echo installed \$(ls wheels | wc -l) wheels"
  PYTHONPATH=$WORK/site:$PYTHONPATH
fi
whole=(run.py experiment=quick runs="$WORK/runs" cache="$WORK/cache" dataset.root="$WORK/world" benchmark.path="$WORK/benchmark/test.jsonl")
tests=(-m pytest -q -p no:cacheprovider --tb=short)
if [ "$DEVICE" = cuda ]; then
  # For the sharded tests, the last: a minute of two cores.
  "$PYTHON" -c 'from deepspeed.ops.op_builder.cpu import CPUAdamBuilder; CPUAdamBuilder().load(verbose=False)' \
    >"$WORK/offload.log" 2>&1 &
  whole+=(trainer=gpu) # compiles its layers: here one family does
  kernels=("${tests[@]}" -m gpu tests/backbones) sharded=("${tests[@]}" -n 4 -m gpu tests/training)
  train=(--size 3b --family qwen2_5_vl --steps 4 --arms ours,published,stock,compiled) lora=(--size 8b --family internvl --steps 4 --arms ours,published)
  score=(--size 3b --family qwen2_5_vl --candidates 32 --questions 1 --rounds 1 --arms ours_shared,stock_alone,ours_alone)
else
  whole+=(trainer.num_workers=1 dataset.rollouts=96 benchmark.size=4 held_out=8 recipe.global_batch_size=4)
  kernels=("${tests[@]}" -k what_the_cuda_kernel tests/backbones) sharded=("${tests[@]}" -k adamw tests/training)
  train=(--size least --family qwen2_5_vl --steps 2 --rollouts 2 --per-question 2) lora=("${train[@]}" --family internvl --lora)
  score=(--size least --family qwen2_5_vl --candidates 2 --questions 1 --rounds 1)
fi
for name in "${wanted[@]}"; do
  case $name in
    kernels) part kernels 40 'passed|failed|skipped|error' "$PYTHON" tests/gpu/none_skipped.py "${kernels[@]}" ;;
    internvl) part internvl 35 '^AUC' "$PYTHON" "${whole[@]}" name=internvl backbone=chartworld_internvl trainer.compile=false ;;
    qwen) part qwen 60 '^AUC' "$PYTHON" "${whole[@]}" name=qwen backbone=chartworld_qwen2_5_vl ;;
    zero[23]) part "$name" 60 '^killed' "$PYTHON" tests/gpu/resumed.py "$DEVICE" "${name#zero}" "$WORK/$name" ;;
    train) part train 100 ' (ours|published|stock|compiled) ' "$PYTHON" tests/benchmarks/train_step.py "${train[@]}" ;;
    score) part score 60 '(ours|stock)_' "$PYTHON" tests/benchmarks/score_candidates.py "${score[@]}" ;;
    lora) part lora 70 ' (ours|published|stock) ' "$PYTHON" tests/benchmarks/train_step.py "${lora[@]}" ;;
    sharded) part sharded 50 'passed|failed|skipped|error' "$PYTHON" tests/gpu/none_skipped.py "${sharded[@]}" ;;
    *) echo "slot.sh: there is no part $name" >&2 && exit 2 ;;
  esac
done
summary
