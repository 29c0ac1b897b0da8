# Shared by the scripts in this folder; sourced, never run. Wants the repository's root as working directory.

# Seconds since the outermost script started, so that nested scripts count on.
export SETUP_STARTED="${SETUP_STARTED:-$(date +%s)}"

say() {
    printf '[%4d s] %s\n' "$(($(date +%s) - SETUP_STARTED))" "$*"
}

# Ends the script: what is wrong, then what to do about it, a line each.
die() {
    say "stopped: $1" >&2
    shift
    if [ "$#" -gt 0 ]; then printf '         %s\n' "$@" >&2; fi
    exit 1
}

# Runs a command with its output in a log; shows the log's end only when it fails.
logged() {
    local log="$1"
    shift
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        return 1
    fi
}

# The digest of the named files' names and contents, and of the words in EXTRA.
digest_of() {
    { printf '%s\n' "${EXTRA:-}"; sha256sum -- "$@"; } | sha256sum | cut -d' ' -f1
}

is_debian() {
    [ -r /etc/debian_version ] && command -v apt-get >/dev/null
}

may_install() {
    is_debian && [ "$(id -u)" = 0 ]
}

# Installs Debian packages; package lists are fetched only where the ones at hand don't do.
apt_install() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300)
    local install=("${apt[@]}" install -y -q --no-install-recommends "$@")
    logged .state/apt.log "${install[@]}" 2>/dev/null && return 0
    say "fetching Debian's package lists"
    logged .state/apt.log "${apt[@]}" update -q || return 1
    logged .state/apt.log "${install[@]}"
}
