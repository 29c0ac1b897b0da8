#!/usr/bin/env bash
# Sets the project up: a virtual environment from the lock file, the generated stubs, PostgreSQL's programs for the
# tests, a Docker Engine, sandbox images.
# Does only what is not done yet, and says what it does. Safe to run again after an interruption.
set -euo pipefail

usage() {
    cat <<'TEXT'
Usage: scripts/setup.sh [--no-images] [--no-postgres] [--no-engine] [--help]

  --no-images    leave the sandbox images out
  --no-postgres  leave PostgreSQL's programs and strace out, which only tests use
  --no-engine    leave the Docker Engine, the sandbox images and PostgreSQL's programs out

Environment:
  PYTHON             the Python (3.11 or newer) to make the virtual environment with; unset takes, on
                     Linux, the system's own where it fits, else the first that does on the PATH
  DOCKER_HOST        address of the Docker Engine; unset takes the default socket
  BROKER_BASE_IMAGE  base image of the sandboxes, such as debian:bookworm-slim; unset tries to pull the default one, and
                     makes a base from Debian's packages where there is no registry
TEXT
}

cd "$(dirname "$0")/.."
. scripts/lib.sh

engine=yes
images=yes
postgres=yes
for argument in "$@"; do
    case "$argument" in
        --no-images) images=no ;;
        --no-postgres) postgres=no ;;
        --no-engine) engine=no images=no postgres=no ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done

stamps=.state/stamps
mkdir -p "$stamps"

# One set-up at a time in one folder. The lock is not inherited by what the scripts leave running (see engine.sh).
if command -v flock >/dev/null; then
    exec 9>.state/setup.lock
    flock -n 9 || { say "another set-up runs in this folder; waiting for it"; flock 9; }
fi

is_done() {
    [ "$(cat "$stamps/$1" 2>/dev/null)" = "$2" ]
}

# Written last, and in one step: an interrupted run leaves no stamp.
mark_done() {
    printf '%s\n' "$2" >"$stamps/$1.new"
    mv "$stamps/$1.new" "$stamps/$1"
}

python_fits() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        python_fits "$PYTHON" || die "PYTHON=$PYTHON is not Python 3.11 or newer with the modules venv and ensurepip"
        command -v "$PYTHON"
        return 0
    fi
    # On Linux the system's own first: its updates come with the system's, and what version managers build is mostly built
    # without profiles, and a tenth slower. Elsewhere it may be a stub that asks to install something.
    local candidates=(python3 python3.11 python3.12 python3.13 python3.14 /usr/bin/python3)
    if [ "$(uname)" = Linux ]; then candidates=(/usr/bin/python3 "${candidates[@]}"); fi
    for candidate in "${candidates[@]}"; do
        if python_fits "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

make_venv() {
    local python
    if ! python="$(find_python)"; then
        if [ -n "${PYTHON:-}" ]; then exit 1; fi
        may_install || die "no Python 3.11 or newer with the modules venv and ensurepip" \
            "On Debian or Ubuntu: sudo apt-get install python3 python3-venv" \
            "Elsewhere: install Python 3.11 or newer; PYTHON=/path/to/python3 names one that isn't on the PATH."
        say "installing Python from Debian's packages"
        apt_install python3 python3-venv || die "apt-get could not install python3 and python3-venv (see above)" \
            "Install Python 3.11 or newer with its venv module, then run this again."
        python="$(find_python)" || die "Debian's Python is older than 3.11" "Install Python 3.11 or newer."
    fi
    # Afresh, so that nothing stays behind of another lock file, another Python or an interrupted run.
    rm -f "$stamps/venv" "$stamps/project"
    say "making .venv with $("$python" --version) ($python)"
    logged .state/venv.log "$python" -m venv --clear .venv || die "the virtual environment could not be made"
    say "installing $(grep -c '^[a-z0-9].*==' requirements.lock) locked packages (about a minute)"
    logged .state/pip.log .venv/bin/python -m pip install --require-hashes --no-deps --no-compile \
        --disable-pip-version-check -r requirements.lock ||
        die "the locked packages could not be installed (whole log: .state/pip.log)" \
            "pip takes its index from its own settings: pip config list"
}

install_project() {
    say "generating the stubs of protos/ and installing the project into .venv"
    # The build runs in this environment, and protoc finds its plugins on the PATH.
    PATH="$PWD/.venv/bin:$PATH" logged .state/project.log .venv/bin/python -m pip install --no-build-isolation \
        --no-deps --disable-pip-version-check -e . ||
        die "the project could not be installed (whole log: .state/project.log)"
}

# The tests of power loss look at the system calls of a program.
find_strace() {
    if command -v strace >/dev/null; then return 0; fi
    if may_install; then
        say "installing Debian's strace for the tests"
        apt_install strace || die "apt-get could not install strace (whole log: .state/apt.log)"
    else
        say "going on without strace: the tests of power loss need it. On Debian or Ubuntu: sudo apt-get install strace"
    fi
}

# A virtual environment holds absolute paths, so its folder is part of what it depends on.
venv_digest="$(EXTRA="$PWD" digest_of requirements.lock)"
if ! is_done venv "$venv_digest" || ! .venv/bin/python --version >/dev/null 2>&1; then
    make_venv
    mark_done venv "$venv_digest"
fi

mapfile -t protos < <(find protos -name '*.proto' | LC_ALL=C sort)
project_digest="$(EXTRA="$PWD" digest_of pyproject.toml requirements.lock "${protos[@]}")"
stubs_exist() {
    local proto stub
    for proto in "${protos[@]}"; do
        stub="${proto#protos/}"
        [ -f "${stub%.proto}_pb2.py" ] && [ -f "${stub%.proto}_pb2_grpc.py" ] || return 1
    done
}
if ! is_done project "$project_digest" || ! stubs_exist; then
    install_project
    stubs_exist || die "the build ended without the stubs (whole log: .state/project.log)"
    # Compiled once here, on all cores: commands start in half the time, also where Python may not write its caches.
    .venv/bin/python -m compileall -q -j 0 .venv/lib/python3*/site-packages broker >/dev/null || true
    mark_done project "$project_digest"
fi

if [ "$postgres" = yes ]; then
    scripts/postgres.sh
    find_strace
fi
if [ "$engine" = yes ]; then scripts/engine.sh; fi
if [ "$images" = yes ]; then
    say "sandbox images"
    .venv/bin/python scripts/build_images.py
fi
say "set-up is complete"
