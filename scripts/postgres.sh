#!/usr/bin/env bash
# Sees to it that PostgreSQL's programs are there, which the tests start a server of their own with. Nothing is started
# here, and no server that runs is touched. Root on Debian gets Debian's package; anybody else is told what to do.
#
#   scripts/postgres.sh            do it
#   scripts/postgres.sh --dry-run  say what would be done, and do none of it
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

# Debian keeps them off the PATH, by version.
find_initdb() {
    local found
    found="$(printf '%s\n' /usr/lib/postgresql/*/bin/initdb | sort -V | tail -n 1)"
    if [ -x "$found" ]; then printf '%s\n' "$found"; else command -v initdb; fi
}

if program="$(find_initdb)"; then
    say "PostgreSQL's programs are there: $("$program" --version)"
    exit 0
fi
if ! may_install; then
    say "going on without PostgreSQL: the tests of that store need it, nothing else does"
    printf '         %s\n' "On Debian or Ubuntu: sudo apt-get install postgresql" \
        "Elsewhere: install PostgreSQL 15 or newer, with initdb and postgres on the PATH."
    exit 0
fi
if [ "$dry_run" = yes ]; then
    say "would install: postgresql (without recommended packages), and keep it from making and starting a server"
    exit 0
fi
say "installing Debian's postgresql for the tests (no server is made or started)"
apt_install postgresql-common || die "apt-get could not install postgresql-common (whole log: .state/apt.log)"
# The package would make a cluster and start it at once; the tests make their own and end it.
settings=/etc/postgresql-common/createcluster.conf
if ! grep -Eqs '^[[:space:]]*create_main_cluster' "$settings"; then
    printf 'create_main_cluster = false\n' >>"$settings"
fi
apt_install postgresql || die "apt-get could not install postgresql (whole log: .state/apt.log)"
program="$(find_initdb)" || die "Debian's postgresql brought no initdb" "Install PostgreSQL 15 or newer."
say "PostgreSQL's programs are there: $("$program" --version)"
