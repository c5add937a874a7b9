.PHONY: help setup demo frameworks experiments results test check fast kernels lint types hooks bench kills wheel clean

PYTHON ?= python3
BIN := .venv/bin

help:  ## Show this help
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What commands import keeps its bytecode, even where Python is told to write none; pip would compile all files of all
# packages, a file after the other, most of which nothing imports. Two processes, for scikit-learn does without torch.
IMPORTED := realuid_lightning.cli.training, realuid_lightning.strategies, torch.utils.tensorboard
define install
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable $(1)
	@export PYTHONDONTWRITEBYTECODE=; \
		$(BIN)/python -c 'import sklearn.datasets' & $(BIN)/python -c 'import $(IMPORTED)' && wait $$!
endef

.venv/installed: pyproject.toml
	$(call install,.)
	@touch $@

.venv/developing: pyproject.toml
	$(call install,'.[dev]')
	@touch .venv/installed $@

setup: .venv/installed  ## Create .venv and install the package

# One thread each: networks this small gain little from more, and lose much when other processes want the cores.
demo: export OMP_NUM_THREADS ?= 1
demo: .venv/installed  ## Train a teacher on digits, distil it, measure and draw both (minutes on a CPU)
	rm -rf runs/demo
	$(BIN)/realuid fit --config configs/demo/teacher.yaml
	$(BIN)/realuid fit --config configs/demo/distil.yaml
	$(BIN)/realuid report runs/demo

# Every framework on images and in the plane, with as many seeds as docs/frameworks.md shows; goes on where it was.
MOONS := toy2d $(addprefix frameworks/,edm/moons vp/moons bridge/moons interpolant/moons translating/moons)
DIGITS := demo $(addprefix frameworks/,edm/digits vp/digits bridge/digits interpolant/digits)
sweeps = set -e; for row in $(1); do $(BIN)/realuid sweep --config configs/$$row/distil.yaml \
	--teacher configs/$$row/teacher.yaml --folder runs/sweeps/$$row --jobs 2 --figure coverage seeds=$(2); done
frameworks: export OMP_NUM_THREADS ?= 1
frameworks: .venv/installed  ## Train and distil all frameworks over seeds, and print the tables (hours on a CPU)
	$(call sweeps,$(MOONS),0-4)
	$(call sweeps,$(DIGITS),0-2)
	$(BIN)/python benchmarks/frameworks.py runs/sweeps

# Rows of docs/results.md, the most important ones first; DATA=fashion_mnist for one data set alone, JOBS at a time.
DATA := fashion_mnist cifar10_16
JOBS ?= 2
ROWS := uid uid_weighted realuid realuid_weighted corrected uid_gan realuid_gan sid_12 realuid_102 dmd sid_gan sid_10 sid_05 uid_long finetune_corrected finetune_uid finetune_corrected_long finetune_uid_long uid_started uid_started_long realuid_098 realuid_100 finetune
experiments: .venv/installed  ## Distil the teachers on images that docs/results keeps, a row a method (two days on a CPU)
	set -e; for data in $(DATA); do \
		place=configs/experiments/$$data; \
		for row in $(ROWS); do \
			file=configs/experiments/rows/$$row.yaml; [ -f $$file ] || file=$$place/$$row.yaml; \
			[ -f $$file ] || { echo "$$row: no such row of $$data"; continue; }; \
			$(BIN)/realuid sweep --config $$place/distil.yaml --config $$file \
				--folder runs/experiments/$$data/$$row --jobs $(JOBS) seeds=0-2; \
		done; \
	done

WRONG := $(BIN)/python benchmarks/wrong_teachers.py
results: .venv/installed  ## Make tables and pictures of docs of what is kept, and keep what runs have given
	$(BIN)/python benchmarks/results.py $(if $(wildcard runs/experiments),--keep runs/experiments)
	$(if $(wildcard runs/wrong_teachers/digits),$(WRONG) runs/wrong_teachers --data digits --show --keep docs/wrong_teachers)
	$(WRONG) docs/wrong_teachers --data digits --show --page docs/wrong_teachers.md

# A file at a time on each of a few processes, in the order of their names: whole runs before units. Every process brings
# a whole torch; one more of them than one or two cores, for tests that wait. Their bytecode is kept even where Python is
# told to write none: the checks that are built into signatures and asserts take longer to compile than most files to run.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 3 ? n + 1 : 4)))
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# One OpenMP thread a process, those that tests start included: two beside busy neighbours take half as long again.
test fast: export OMP_NUM_THREADS ?= 1
test: .venv/developing  ## Run all tests
	$(PYTEST)

fast: .venv/developing  ## Run the fast tests: no processes, no commands
	$(PYTEST) -m "not slow" tests/unit tests/reference

check: .venv/developing  ## Check style, format and types, and run the fast tests, all at once
	$(MAKE) --jobs 3 --output-sync=target lint types fast

kernels: .venv/developing  ## Run the tests of numbers with the kernels of other processors, on 1, 2 and 4 threads
	tests/kernels.sh

bench: .venv/installed  ## Time training, inference and evaluation, on a GPU where there is one (half an hour on a CPU)
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/adapters.py --sizes cifar

kills: .venv/installed  ## Kill a run 30 times, resume it each time, compare its end with that of an unharmed one
	$(BIN)/python benchmarks/kills.py

lint: .venv/developing  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/developing  ## Check types
	$(BIN)/mypy

hooks: .venv/developing  ## Let git check style and format before each commit
	git config core.hooksPath .githooks

# As a user has it: an empty folder and environment, one example, and nothing else of this folder. WORDS are added to the
# demo's commands, such as --trainer.max_steps=40.
wheel:  ## Build the wheel into dist, install it on its own, and run an example and the demo from it (minutes)
	rm -rf dist build
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build
	mkdir -p build/wheel && cp examples/python_first.py build/wheel
	$(PYTHON) -m venv build/wheel/.venv
	build/wheel/.venv/bin/pip install --quiet dist/*.whl
	cd build/wheel && .venv/bin/realuid --version
	cd build/wheel && .venv/bin/python python_first.py
	cd build/wheel && .venv/bin/realuid init demo/distil
	cd build/wheel && .venv/bin/realuid fit --config configs/demo/teacher.yaml $(WORDS)
	cd build/wheel && .venv/bin/realuid fit --config configs/demo/distil.yaml $(WORDS)
	cd build/wheel && .venv/bin/realuid sample runs/demo/distil/checkpoints/last.ckpt
	cd build/wheel && .venv/bin/realuid report runs

clean:  ## Remove what make has created, except runs
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache *.egg-info build dist
