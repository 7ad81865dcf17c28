#!/bin/sh
# Counts instructions and allocations per query on the fixed replay of benches/guard, and holds them against baseline.json.
#
#   benches/guard/compare.sh            exit 1 where a figure exceeds its baseline by more than the tolerance
#   benches/guard/compare.sh --update   writes the figures as the new baseline
#
# TOLERANCE (percent, 3 by default) covers what differs between builds and the hash seed drawn per process. The baseline holds
# for the pinned toolchain and x86_64. Needs valgrind.
set -eu

cd "$(dirname "$0")/../.."
baseline=benches/guard/baseline.json
tolerance=${TOLERANCE:-3}
case "${1:-}" in
'' | --update) ;;
*)
    echo "usage: $0 [--update]" >&2
    exit 64
    ;;
esac
command -v valgrind >/dev/null || {
    echo "valgrind is not installed: apt-get install valgrind" >&2
    exit 1
}

program=$(cargo bench --locked --bench guard --no-run --message-format=json |
    sed -n 's/.*"name":"guard".*"executable":"\([^"]*\)".*/\1/p')
[ -x "$program" ] || {
    echo "cargo built no program for the bench target guard" >&2
    exit 1
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

for work in hit due store miss; do
    # Patterns match the demangled or the mangled name, whichever the symbol table gives.
    valgrind --tool=callgrind --callgrind-out-file="$scratch/$work" --log-file="$scratch/log" --collect-atstart=no \
        --toggle-collect='*guarded_batch*' --toggle-collect='*guarded_reply*' \
        "$program" "$work" >"$scratch/said" || {
        cat "$scratch/log" "$scratch/said" >&2
        exit 1
    }
    instructions=$(sed -n 's/^totals: \([0-9]*\).*/\1/p' "$scratch/$work")
    awk -v instructions="$instructions" '{
        printf "%s_instructions %.0f\n%s_allocations %.2f\n", $1, instructions / $3, $1, $5 / $3
    }' "$scratch/said" >>"$scratch/figures"
done

if [ "${1:-}" = --update ]; then
    awk 'BEGIN { print "{" } { printf "%s  \"%s\": %s", (NR > 1 ? ",\n" : ""), $1, $2 } END { print "\n}" }' \
        "$scratch/figures" >"$baseline"
    cat "$baseline"
    exit 0
fi

sed -n 's/^ *"\([a-z_]*\)": \([0-9.]*\),*$/\1 \2/p' "$baseline" |
    awk -v tolerance="$tolerance" '
        FILENAME == "-" { recorded[$1] = $2; next }
        !($1 in recorded) { printf "%-20s %10s is not in the baseline\n", $1, $2; failed = 1; next }
        {
            # A figure that is recorded as 0 (the allocations of a hit) stays 0.
            over = $2 > recorded[$1] * (1 + tolerance / 100)
            change = recorded[$1] > 0 ? sprintf("%+.1f %%", ($2 / recorded[$1] - 1) * 100) : ""
            printf "%-20s %10s  baseline %10s  %8s%s\n", $1, $2, recorded[$1], change, over ? "  EXCEEDED" : ""
            seen++
            failed = failed || over
        }
        END { exit failed || !seen }' - "$scratch/figures" || {
    echo "more work per query than recorded, or nothing to compare; if it is meant, run $0 --update and say why in the commit" >&2
    exit 1
}
