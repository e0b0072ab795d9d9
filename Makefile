# Two commands on a fresh machine with Python 3.11 or 3.12: `make demo` and `make test`. Another Python: make PYTHON=python3.12 demo
# The same by hand:
#   python3 -m venv .venv && . .venv/bin/activate
#   pip install -c constraints.txt torch==2.13.0
#   pip install -c constraints.txt -e '.[dev]'
#   python run.py                                                        (demo)
#   ruff check . && ruff format --check . && mypy && pytest -q           (test; make runs two tests at a time)

PYTHON ?= python3
BIN := .venv/bin
# Where torch keeps what it compiles for this environment, and the program that it compiles with.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/.venv/torch_extensions
NINJA := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test wheels

demo: .venv/installed
	$(BIN)/python run.py

# mypy is half a minute on one core: it runs beside the tests, and its answer is printed after theirs.
test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@said=$$(mktemp); $(BIN)/mypy >$$said 2>&1 & types=$$!; \
	OMP_NUM_THREADS=1 $(NINJA) $(BIN)/pytest -q -n 2 --dist worksteal --durations=15; failed=$$?; \
	wait $$types || failed=$$?; cat $$said; rm $$said; exit $$failed

# For tests/gpu/slot.sh on a machine without a network, which has torch, transformers, lightning and what is usually
# beside them: the rest, for its Python 3.12 on Linux. DeepSpeed's C++ and CUDA are not built.
WHEELS := hydra-core omegaconf datasets dill multiprocess hjson pydantic pydantic-core annotated-types \
	typing-extensions typing-inspection
wheels: .venv/installed
	rm -rf wheels
	$(BIN)/pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		-c constraints.txt -d wheels $(WHEELS)
	DS_BUILD_OPS=0 $(BIN)/pip wheel --quiet --no-deps --no-build-isolation -c constraints.txt -w wheels \
		deepspeed antlr4-python3-runtime
	du -sh wheels

# Renewed when the pins change. torch goes first: deepspeed is built from source and looks at the torch it finds. Its C++
# for trainer.offload_optimizer=true takes a minute and a half: here, or where that fails at its first use.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	-$(NINJA) $(BIN)/python -c "from deepspeed.ops.op_builder.cpu import CPUAdamBuilder; CPUAdamBuilder().load(verbose=False)"
	touch $@
