#!/usr/bin/env bash
# Builds the images of this folder, runs them and checks that they work. It uses Docker if its daemon
# answers, else buildah with --isolation=chroot, as root, which needs neither a daemon nor a registry:
# the base is then Debian with its Python, made by debootstrap.
#
#   docker/check.sh
#
#   --base=IMAGE    another base with Python 3.11 or 3.12, in place of the Dockerfiles' or Debian's
#   --mirror=URL    Debian's mirror for debootstrap; by default that of this machine's apt
#   --mount=PATH    buildah: shown to builds at the same path, such as a package index in files or a
#                   certificate; may be repeated. Pip's configuration files are always shown
#   --gpu           builds the training image for GPUs, too (8 GB)
#   --keep          keeps the images of Docker, or the work folder of buildah
#
# What cannot be built is named and counted. Exit status: 0 if nothing failed.
set -euo pipefail
cd "$(dirname "$0")/.."

base="" mirror="" gpu="" keep="" mounts=()
for argument in "$@"; do
    case $argument in
        --base=*) base=${argument#*=} ;;
        --mirror=*) mirror=${argument#*=} ;;
        --mount=*) mounts+=("${argument#*=}") ;;
        --gpu) gpu=yes ;;
        --keep) keep=yes ;;
        *) echo "check.sh: unknown argument $argument; the options are in its first lines" >&2; exit 2 ;;
    esac
done

if docker info > /dev/null 2>&1; then
    engine=docker
elif command -v buildah > /dev/null && [ "$(id -u)" = 0 ]; then
    engine=buildah
else
    echo "check.sh: expected Docker's daemon, or buildah and to be root" >&2
    exit 2
fi
port=${PORT:-18080} # on the loopback address
work=$(mktemp -d "${TMPDIR:-/tmp}/fcos-images.XXXXXX")
mkdir -m 777 "$work/runs" "$work/state"
passed=0 failed=0 skipped=0

. docker/engine.sh

clean() {
    trap - EXIT
    kill_server
    if [ "$engine" = docker ]; then
        # Files of root in the mounted folder.
        [ "$keep" ] || docker run --rm --user=0 --volume="$work:/mounted" --entrypoint=sh fcos-check-train \
            -c 'rm -rf /mounted/*' > /dev/null 2>&1 || true
        [ "$keep" ] || docker image rm fcos-check-{train,gpu,onnxruntime,openvino,serving} \
            > /dev/null 2>&1 || true
    else
        [ "$keep" ] || buildah rm --all > /dev/null 2>&1 || true
    fi
    if [ "$keep" ]; then echo "kept: $work"; else rm -rf "$work" || true; fi
}
trap clean EXIT
trap 'exit 130' INT TERM

step() { # NAME COMMAND ...: sets $ok, "yes" or "". Not to be called in a condition, which ignores -e
    local name=$1 start=$SECONDS status=0
    shift
    set +e
    (set -e; "$@") > "$work/log" 2>&1
    status=$?
    set -e
    if [ "$status" = 0 ]; then
        ok=yes passed=$((passed + 1))
        printf 'ok    %-60s %4d s\n' "$name" $((SECONDS - start))
    else
        ok="" failed=$((failed + 1))
        printf 'FAIL  %-60s %4d s\n' "$name" $((SECONDS - start))
        tail -n 25 "$work/log" | sed 's/^/      /'
    fi
}

skip() { # NAME REASON
    skipped=$((skipped + 1))
    printf 'skip  %s: %s\n' "$1" "$2"
}

make_base() {
    if [ ! "$mirror" ]; then
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' \
            | grep --invert-match security | head -n 1)
    fi
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
        bookworm "$work/debian" "${mirror:-https://deb.debian.org/debian}"
    ln -s python3 "$work/debian/usr/bin/python"
    rm -rf "$work"/debian/var/{cache/apt,lib/apt/lists}/* "$work"/debian/usr/share/{doc,locale,man}/*
    local container
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$work/debian" /
    buildah commit --quiet --rm "$container" "$1"
    rm -rf "$work/debian"
}

base_is_pinned() { # DOCKERFILE
    grep --quiet --extended-regexp '^ARG [A-Z_]+_IMAGE=.+@sha256:[0-9a-f]{64}$' "docker/$1"
}

has_no_tools() { # IMAGE
    in_image "$1" "$2" python -c '
import importlib.util, os, shutil, sys
assert os.getuid() == int(sys.argv[1]), os.getuid()
tools = [name for name in ("gcc", "cc", "g++", "make") if shutil.which(name)]
tests = [name for name in ("pytest", "hypothesis", "ruff", "pycocotools") if importlib.util.find_spec(name)]
assert not tools + tests, tools + tests
' "$2"
}

train() {
    in_image fcos-check-train 1000 python tools/train.py --help | grep -e --model_dir > /dev/null
    in_image fcos-check-train 1000 python tools/train.py --flagfile=digits.cfg --steps=60 \
        --batch_size=4 --model_dir=runs/check
    [ -s "$work/runs/check/model.keras" ]
}

export_models() { # ONNX and OpenVINO, and what the latter needs, are not in the training image
    in_image fcos-check-train 0 sh -c '
        cat > requirements.txt
        python -m pip install --quiet --no-cache-dir --require-hashes --only-binary=:all: \
            --constraint=requirements.txt onnx onnxruntime openvino
        python tools/export.py --weights=runs/check/model.keras --onnx=runs/exports/model.onnx \
            --openvino=runs/exports/model.xml --output_dir=runs/exports/saved/1
    ' < docker/requirements.txt
}

answers_as_the_model() { # the server on $port, by the training image
    in_image fcos-check-train 1000 python - "http://127.0.0.1:$port" \
        < docker/check_answers.py
}

serve() { # RUNTIME MODEL
    trap kill_server EXIT # of the step's shell
    start "fcos-check-$1" "$work/runs/exports" /model "MODEL=/model/$2" "PORT=$port" HOST=127.0.0.1
    answers_as_the_model
    stop
}

serve_by_tensorflow() {
    trap kill_server EXIT
    start fcos-check-serving "$work/runs/exports/saved" /models/fcos MODEL_NAME=fcos
    stop 0 137 143 # TensorFlow Serving does not handle SIGTERM
}

build_and_look() { # NAME TITLE USER DOCKERFILE CONTEXT [ARGUMENT ...]
    local name=$1 title=$2 user=$3
    shift 3
    step "build of the $title" build "fcos-check-$name" "$@" "${arguments[@]}"
    if [ "$ok" ]; then
        echo "      $(megabytes "fcos-check-$name")"
        step "user $user, no compiler and no tests in it" has_no_tools "fcos-check-$name" "$user"
    fi
}

echo "with $engine"
arguments=()
if [ ! "$base" ] && [ "$engine" = buildah ]; then
    base=localhost/fcos-check-base
    step "Debian's base, by debootstrap" make_base "$base"
    echo "      $(megabytes "$base")"
fi
if [ "$base" ]; then arguments=(--build-arg="BASE_IMAGE=$base"); fi

for file in Dockerfile Dockerfile.runtime; do
    step "the base of $file is pinned by digest" base_is_pinned "$file"
done
serving=$(sed -n 's/^ARG SERVING_IMAGE=//p' docker/Dockerfile.serving)
base_is_pinned Dockerfile.serving || skip "digest of the base of Dockerfile.serving" \
    "not known; docker buildx imagetools inspect $serving"

build_and_look train "training image" 1000 Dockerfile .
if [ "$ok" ]; then step "training" train; fi
if [ "$ok" ]; then step "exports of its model" export_models; fi
has_exports=$ok
for runtime in onnxruntime:model.onnx openvino:model.xml; do
    name=${runtime%:*}
    build_and_look "$name" "image for $name" 65534 Dockerfile.runtime docker "--build-arg=RUNTIME=$name"
    if [ "$has_exports" ]; then step "its server" serve "$name" "${runtime#*:}"; fi
done
if [ "$gpu" ]; then
    build_and_look gpu "training image for GPUs" 1000 Dockerfile . \
        --build-arg="TENSORFLOW=tensorflow[and-cuda]"
else
    skip "training image for GPUs" "without --gpu"
fi
if "$engine" pull "docker.io/$serving" > "$work/log" 2>&1; then
    step "build of the image for TensorFlow Serving" build fcos-check-serving Dockerfile.serving \
        docker --target=server
    if [ "$has_exports" ]; then step "its server" serve_by_tensorflow; fi
else
    skip "image for TensorFlow Serving" "cannot pull $serving: $(tail -n 1 "$work/log" | cut -c -150)"
fi
if docker compose version > /dev/null 2>&1; then
    for file in docker/compose.yaml docker/compose.runtime.yaml; do
        step "$file" env EXPORT="$work" MODEL=a.xml docker compose --file="$file" config --quiet
    done
else
    skip "compose files" "no docker compose"
fi
echo "$passed passed, $failed failed, $skipped skipped in $SECONDS s"
[ "$failed" = 0 ]
