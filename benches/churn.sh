#!/usr/bin/env bash
# Connect and reset at a steady rate; then the server's descriptors and heap beside what they were before. Exits with 1 when
# they are not back within 1 %.
#
#     benches/churn.sh [PER_S] [DURATION]      20,000 a second for 60s unless given; LOOPS=2 for another number of loops
#
# The warm-up is as long as what is measured (WARM_UP=15s for another): an allocator keeps what it once had.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

bin=${BIN:-target/release}
listen=127.0.0.1:7468
admin=127.0.0.1:7467
work=$(mktemp -d target/bench-churn.XXXXXX)
"$bin/relaymesh" serve --loops "${LOOPS:-0}" --data-dir "$work/data" --listen $listen --admin $admin > "$work/log" 2>&1 &
pid=$!
trap 'kill $pid 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT
until curl -fs "http://$admin/readyz" > /dev/null 2>&1; do
  kill -0 $pid 2> /dev/null || { cat "$work/log" >&2; exit 1; }
  sleep 0.05
done
duration=${2:-60s}
"$bin/loadgen" churn --rate "${1:-20000}" --duration "$duration" --warm-up "${WARM_UP:-$duration}" \
  --connect $listen --admin $admin --server-pid $pid --quiet --json target/churn.json
