#!/usr/bin/env bash
# Sees to it that a Docker Engine answers. One that answers is used as it is. Where none does, root on Debian gets one
# installed and started, with gVisor's runsc beside; anybody else is told precisely what to do.
#
#   scripts/engine.sh            do it
#   scripts/engine.sh --dry-run  say what would be done, and do none of it
set -euo pipefail

cd "$(dirname "$0")/.."
. scripts/lib.sh

dry_run=no
case "${1:-}" in
    "") ;;
    --dry-run) dry_run=yes ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

mkdir -p .state
start_timeout_s="${ENGINE_START_TIMEOUT_S:-60}"
log=.state/dockerd.log
configuration=.state/daemon.json
dockerd_options=()

# Prints "VERSION, API VERSION" of the engine that answers, as the broker itself looks for one. Exit code 3 means
# that none answers; anything else is a defect of this script or its environment, and is never taken for "none".
engine_version() {
    local code=0
    .venv/bin/python - <<'PYTHON' || code=$?
import sys

import docker

from broker.errors import BrokerError
from broker.sandbox.address import engine_address

try:
    client = docker.APIClient(base_url=engine_address(), version="auto", timeout=10)
    version = client.version()
except BrokerError as error:
    print(error, error.hint, sep="\n", file=sys.stderr)
    sys.exit(3)
except docker.errors.DockerException:
    sys.exit(3)
print(f"{version['Version']}, API {version['ApiVersion']}")
PYTHON
    if [ "$code" != 0 ] && [ "$code" != 3 ]; then
        die "asking for the engine failed (see above)" "Set up afresh: rm -rf .venv .state/stamps, then scripts/setup.sh"
    fi
    return "$code"
}

wait_for_engine() {
    local until=$((SECONDS + $1))
    while ! engine_version >/dev/null; do
        if [ "$SECONDS" -ge "$until" ]; then return 1; fi
        if [ -n "${2:-}" ] && ! kill -0 "$2" 2>/dev/null; then return 1; fi
        sleep 0.3
    done
}

answers() {
    local found
    local code=0
    found="$(engine_version)" || code=$?
    if [ "$code" = 1 ]; then exit 1; fi
    if [ "$code" != 0 ]; then return 1; fi
    say "Docker Engine $found answers${DOCKER_HOST:+ at $DOCKER_HOST}"
}

# A pid file that outlived its engine, as after a crash or in a copied file system, keeps dockerd from starting.
remove_stale_pid_file() {
    local file=/var/run/docker.pid pid
    [ -e "$file" ] || return 0
    pid="$(tr -dc 0-9 <"$file")"
    if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ]; then return 0; fi
    say "removing $file: process ${pid:-?} is no dockerd"
    rm -f "$file"
}

# gVisor's runsc as a second runtime: only for the engine that this script starts, and only by a file of our own. An
# engine that has a configuration keeps it, for dockerd reads one file.
prepare_runsc() {
    local program
    if [ -e /etc/docker/daemon.json ]; then
        say "/etc/docker/daemon.json holds as it is; docs/sandbox.md says how to register the runtime runsc there"
        return 0
    fi
    if ! command -v runsc >/dev/null; then
        say "installing Debian's runsc, gVisor's runtime"
        apt_install runsc 2>/dev/null || true
    fi
    if ! program="$(command -v runsc)"; then
        say "going on without the runtime runsc: apt-get could not install it (see .state/apt.log)"
        return 0
    fi
    # ptrace is the platform that works everywhere; runsc builds no network, for no sandbox has one.
    printf '{"runtimes": {"runsc": {"path": "%s", "runtimeArgs": ["%s", "%s"]}}}\n' \
        "$program" --platform=ptrace --network=none >"$configuration"
    dockerd_options=(--config-file "$PWD/$configuration")
}

start_dockerd() {
    remove_stale_pid_file
    prepare_runsc
    say "starting dockerd in the background (log: $log)"
    # In a session of its own, so that it outlives this script and its terminal; 9 is the set-up's lock.
    setsid dockerd "${dockerd_options[@]}" >"$log" 2>&1 </dev/null 9>&- &
    wait_for_engine "$start_timeout_s" "$!" && return 0
    tail -n 20 "$log" >&2
    die "dockerd did not answer within $start_timeout_s s (its last words are above, all of them in $log)" \
        "Start an engine by your system's own means, or name one: export DOCKER_HOST=unix:///path/to/docker.sock"
}

if answers; then exit 0; fi

if [ -n "${DOCKER_HOST:-}" ]; then
    die "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST" \
        "Start it, name another one, or unset DOCKER_HOST to use this machine's own."
fi
if ! may_install; then
    # The docker command may know an engine by its context, which libraries don't read.
    host="$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)"
    if [ -n "$host" ] && DOCKER_HOST="$host" engine_version >/dev/null; then
        die "an engine answers at $host, but not at the default address" "Run: export DOCKER_HOST=$host"
    fi
    die "no Docker Engine answers at unix:///var/run/docker.sock" \
        "Installed but not started? sudo systemctl start docker, or start Docker Desktop, Colima or the like." \
        "Not installed? On Debian or Ubuntu: sudo apt-get install docker.io; elsewhere see https://docs.docker.com/engine/install/" \
        "Not allowed? The socket is for root and the group docker: sudo usermod -aG docker \"\$USER\", then log in again." \
        "Elsewhere? export DOCKER_HOST=unix:///path/to/docker.sock"
fi
if [ "$dry_run" = yes ]; then
    command -v dockerd >/dev/null || say "would install: docker.io (without recommended packages)"
    command -v runsc >/dev/null || [ -e /etc/docker/daemon.json ] || say "would install: runsc, if Debian has it"
    say "would start: dockerd"
    exit 0
fi
# The docker command alone is no engine: what counts is dockerd.
if ! command -v dockerd >/dev/null; then
    say "no Docker Engine on this machine: installing Debian's docker.io (about a minute)"
    apt_install docker.io || die "apt-get could not install docker.io (see above)" \
        "Install a Docker Engine 20.10 or newer by other means, then run this again."
fi
# The package, or the system's own service manager, may start it already.
if [ -d /run/systemd/system ]; then systemctl start docker >/dev/null 2>&1 || true; fi
if pidof dockerd >/dev/null 2>&1; then
    wait_for_engine 20 || die "a dockerd runs (process $(pidof dockerd)), but doesn't answer at unix:///var/run/docker.sock" \
        "If it listens elsewhere: export DOCKER_HOST=unix:///path/to/docker.sock. If it hangs: restart it."
    answers
    exit 0
fi
start_dockerd
answers
