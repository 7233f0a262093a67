#!/usr/bin/env bash
# A storm for each policy by which clients come back, side by side: the server is killed, or drained, with all sessions on it
# and started again. Prints a row for each policy and keeps the whole result in target/storm-COUNT-ENDING.json.
#
#     benches/storm.sh [COUNT] [kill|drain]      100,000 sessions and kill unless given
#
# HEARTBEAT=60s is each session's. TIMEOUT=20m is how long all may take to be back (unless given, 2 minutes and another for
# each 100,000 sessions), POLICY=slots (jitter, none) runs one of them alone, SERVER_ARGS='--loops 2' goes to the server. BIN
# names another directory with the binaries, DATA one for the server's data.
set -euo pipefail
cd "$(dirname "$0")/.."
count=${1:-100000} ending=${2:-kill}
case $ending in kill | drain) ;; *) echo "benches/storm.sh [COUNT] [kill|drain]" >&2; exit 2 ;; esac
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

bin=${BIN:-target/release}
data=${DATA:-$(mktemp -d target/bench-storm.XXXXXX)}
[ -n "${DATA:-}" ] || trap 'rm -rf "$data"' EXIT
"$bin/loadgen" storm --connections "$count" "--$ending" --policy "${POLICY:-all}" --heartbeat "${HEARTBEAT:-60s}" \
  ${TIMEOUT:+--timeout "$TIMEOUT"} --server-args "${SERVER_ARGS:-}" --data-dir "$data" --json "target/storm-$count-$ending.json"
