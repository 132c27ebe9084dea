# `make demo` and `make test` do all the set-up on a machine with Python 3.11-3.13 and make.

# Tests are many small torch calls: two processes of one thread each keep two cores busier than one process of
# two threads, and processes that each start a thread per core would slow one another down.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: help demo test test-quick test-full lint bench clean tests-but-long environment environment-full environment-demo

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: environment-demo ## install what is needed, train on real images, compare memory
	.venv/bin/python demo.py

test: environment ## what CI runs: lint and every test but the long forms (under 15 minutes)
	@$(MAKE) --no-print-directory -j2 lint tests-but-long

test-quick: environment ## a representative few tests (under 2 minutes)
	$(PYTEST) -m "quick and not slow"

test-full: environment-full lint ## everything: long forms, and the trainers that adapters are for
	$(PYTEST)

lint: environment ## ruff (rules and format) and mypy
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

bench: environment ## print DenseNet's memory and time, plain against efficient
	.venv/bin/python benchmarks/densenet_torch.py

clean: ## remove .venv and caches; runs/ and data/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

tests-but-long: environment
	$(PYTEST) -m "not slow"

environment:
	@sh .ci/install torch,tensorflow,mxnet,demo,dev

environment-full: environment
	@sh .ci/install torch,tensorflow,mxnet,demo,dev,trainers

environment-demo:
	@sh .ci/install torch,demo
