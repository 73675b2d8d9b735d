# Two commands for a new user: `make book` and `make test`. `make help` lists all.
# Everything that is written goes to .venv/, _build/ and build/, which git ignores.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
# Relative, since the checkout's path may have a blank in it.
BIN := $(VENV)/bin
# The environment is made anew when the pins change, whatever the files' times say.
STAMP := $(VENV)/pins-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
# Runs that a command makes are kept apart from the recorded runs that ship in results/runs.
export MEDYATE_RESULTS ?= $(CURDIR)/build/results
# Pages and notebooks run in the environment's own kernel, whatever else Jupyter could find.
unexport JUPYTER_PATH
# Kernels, caches and pip write below HOME; where that cannot be written, build/home serves.
ifneq (yes,$(shell place=$$(mktemp -d "$$HOME/.medyate.XXXXXX" 2>/dev/null) && rmdir "$$place" && echo yes))
export HOME := $(CURDIR)/build/home
$(shell mkdir -p build/home)
endif
# Two cores are shared better by two processes of one thread each than by two of two.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

QUICKSTART := --network efficientnet-lite0 --task digits --resolution 48 --epochs 4 --warmup-epochs 1 --batch-norm frozen

.PHONY: help quickstart book student slides pdf browser test pages device-tools lock clean
help:
	@echo "make book     environment, one real fine-tuning, notebooks, the book as HTML"
	@echo "make test     the book, then all tests: pytest, every notebook, every page in Chromium where there is one"
	@echo "make student  the book without solutions"
	@echo "make slides   the slides of a session, each one HTML file that needs no network"
	@echo "make pdf      the book as one PDF (needs Chromium)"
	@echo "make pages    what is generated in README.md and the ledger, after new recorded runs"
	@echo "make device-tools  cross compiler and emulator for the tests on a device (Debian; 2 GB)"
	@echo "make lock     write requirements.lock and environment.yml from pyproject.toml"
	@echo "make clean    remove what was built, keep the environment and the runs"

$(STAMP):
	@[ -n "$(PYTHON)" ] || { echo "medyate needs Python 3.11 or newer; none was found: make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "medyate needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1): make PYTHON=/path/to/python"; exit 1; }
	rm -rf $(VENV)
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The runs that the book's first page shows; the same call again reuses their records.
quickstart: $(STAMP)
	$(ONE_THREAD) $(BIN)/medyate run --strategy "LaRa MeDyate" --budget 100000 $(QUICKSTART)
	$(ONE_THREAD) $(BIN)/medyate run --strategy "Head only" $(QUICKSTART)

book: quickstart
	$(BIN)/python book/build.py html

student: quickstart
	$(BIN)/python book/build.py student

slides: $(STAMP)
	$(ONE_THREAD) $(BIN)/python book/slides.py

pdf: quickstart
	$(BIN)/python book/build.py pdf

# Where CI is set, a browser is installed for the tests that open the built pages; elsewhere they skip without one.
browser:
	@[ -z "$$CI" ] || sh tests/chromium.sh

test: browser book
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2
	$(ONE_THREAD) $(BIN)/python -m pytest -n 2 --nbmake --nbmake-timeout=300 notebooks

# Pages and parts of pages that are made from the records.
pages: $(STAMP)
	$(BIN)/python -m medyate.paper.ledger
	$(BIN)/python book/front_page.py

# Optional: without them the tests of linked and emulated images skip, saying so.
device-tools:
	$(if $(filter 0,$(shell id -u)),,sudo) apt-get install -y --no-install-recommends \
		make gcc libc6-dev gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm

lock:
	"$(PYTHON)" .ci/lock.py

clean:
	rm -rf _build build/book build/student build/pdf build/executed-* .pytest_cache
