# Runs every check of `make test` in turn, and prints where the time went. $1: the bin folder of the virtual environment.
set -u
bin=$1
table=''
failed=0

part() {
    name=$1
    shift
    began=$(date +%s)
    echo "== $name: $*"
    if "$@"; then result=passed; else result=FAILED; failed=1; fi
    table="$table$(printf '%-14s %-7s %4d s' "$name" "$result" "$(($(date +%s) - began))")
"
}

trap 'exit 130' INT TERM
first=$(date +%s)
part lint "$bin/ruff" check .
part format "$bin/ruff" format --check .
part types "$bin/mypy"
part imports "$bin/lint-imports"
side_by_side='-n 2 --dist loadfile --no-loadscope-reorder'  # two processes, a file each: its tests share a fleet
part units "$bin/pytest" tests/unit tests/lua $side_by_side --durations=10 --cov
part fleets "$bin/pytest" tests --ignore=tests/unit --ignore=tests/lua $side_by_side --durations=15
printf '\nWhere the time went\n%stotal %26d s\n' "$table" "$(($(date +%s) - first))"
exit $failed
