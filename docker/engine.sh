# Sourced by check.sh: Docker or buildah, by $engine. $work is a folder, $mounts what builds see.
# shellcheck shell=bash disable=SC2154

buildah() { command buildah --root="$work/storage" --runroot="$work/run" "$@"; }

show_mounts() { # adds to the caller's options
    local path
    for path in "${mounts[@]}" /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf; do
        if [ -e "$path" ]; then options+=(--volume="$path:$path:ro"); fi
    done
}

build() { # TAG DOCKERFILE CONTEXT [ARGUMENT ...]
    local tag=$1 file=$2 context=$3 options=()
    shift 3
    if [ "$engine" = docker ]; then
        docker build --file="docker/$file" --tag="$tag" "$@" "$context"
        return
    fi
    show_mounts
    if [ -e "docker/$file.dockerignore" ]; then
        options+=(--ignorefile="docker/$file.dockerignore")
    fi
    buildah build --isolation=chroot --network=host --format=docker --layers --file="docker/$file" \
        --tag="$tag" "${options[@]}" "$@" "$context"
}

megabytes() { # IMAGE
    if [ "$engine" = docker ]; then
        docker image inspect --format '{{.Size}}' "$1" | awk '{print int($1 / 1e6) " MB"}'
    else
        buildah images --format '{{.Size}}' "$1"
    fi
}

in_image() { # IMAGE USER COMMAND ...: reads stdin; runs/ of the training image is kept
    local image=$1 user=$2
    shift 2
    if [ "$engine" = docker ]; then
        docker run --rm --interactive --network=host --user="$user" --entrypoint= \
            --volume="$work/runs:/fcos_tf/runs" "$image" "$@"
        return
    fi
    local container options=() status=0
    show_mounts
    container=$(buildah from "$image")
    buildah run --isolation=chroot --network=host --user="$user" "${options[@]}" \
        --volume="$work/runs:/fcos_tf/runs" "$container" -- "$@" || status=$?
    buildah rm "$container" > /dev/null
    return "$status"
}

configured() { # IMAGE FIELD: the words of ENTRYPOINT, CMD or HEALTHCHECK, one a line
    buildah inspect --type=image "$1" | python3 -c '
import json, sys
config = json.load(sys.stdin)["Docker"]["config"]
words = config.get(sys.argv[1]) or []
words = words["Test"] if isinstance(words, dict) else words
shell = ["sh", "-c"] if words[:1] == ["CMD-SHELL"] else []
for word in [*shell, *(words[1:] if words[:1] in (["CMD"], ["CMD-SHELL"]) else words)]:
    print(word)  # of none not even a line
' "$2"
}

start() { # IMAGE FOLDER TARGET NAME=VALUE ...: a server; waits until its HEALTHCHECK succeeds
    local image=$1 options=(--volume="$2:$3:ro")
    shift 3
    for setting in "$@"; do options+=(--env="$setting"); done
    if [ "$engine" = docker ]; then
        server=fcos-check-server
        docker run --detach --name="$server" --network=host --read-only --tmpfs=/tmp --cap-drop=ALL \
            --security-opt=no-new-privileges "${options[@]}" "$image"
    else
        server=$(buildah from "$image")
        local command check
        mapfile -t command < <(configured "$image" Entrypoint; configured "$image" Cmd)
        mapfile -t check < <(configured "$image" Healthcheck)
        # The shell notes its process, for SIGTERM.
        buildah run --isolation=chroot --network=host "${options[@]}" --volume="$work/state:/state" \
            "$server" -- sh -c 'echo $$ > /state/process; exec "$@"' sh "${command[@]}" &
        runner=$!
    fi
    for _ in $(seq 120); do
        if [ "$engine" = docker ]; then
            [ "$(docker inspect --format '{{.State.Health.Status}}' "$server")" = healthy ] && return
            [ "$(docker inspect --format '{{.State.Running}}' "$server")" = true ] || break
        else
            buildah run --isolation=chroot --network=host "${options[@]}" "$server" -- \
                "${check[@]}" > /dev/null 2>&1 && return
            kill -0 "$runner" 2> /dev/null || break
        fi
        sleep 1
    done
    echo "the server is not healthy"
    if [ "$engine" = docker ]; then docker logs "$server"; fi
    return 1
}

kill_server() { # whatever runs, so that the next step finds its port free
    if [ "$engine" = docker ]; then
        docker rm --force fcos-check-server > /dev/null 2>&1 || true
    else
        kill -KILL "$(cat "$work/state/process" 2> /dev/null)" 2> /dev/null || true
    fi
    rm -f "$work/state/process"
}

stop() { # [STATUS ...]: ends it by SIGTERM; its exit status must be one of these, by default 0
    local status=0
    if [ "$engine" = docker ]; then
        docker stop --time=40 "$server" > /dev/null
        status=$(docker inspect --format '{{.State.ExitCode}}' "$server")
        docker rm "$server" > /dev/null
    else
        kill -TERM "$(cat "$work/state/process")"
        wait "$runner" || status=$?
        rm "$work/state/process"
        buildah rm "$server" > /dev/null
    fi
    echo "exit status $status"
    [[ " ${*:-0} " = *" $status "* ]]
}
