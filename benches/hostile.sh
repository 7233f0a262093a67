#!/usr/bin/env bash
# Silent connections and sessions that never read, beside good sessions: heartbeats of the good ones before and during, and
# how long after its deadline each of the others is gone. Exits with 1 when a goal is missed.
#
#     benches/hostile.sh [GOOD] [SILENT] [NON_READERS]      100,000, 15,000 and 10,000 unless given
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

bin=${BIN:-target/release}
good=${1:-100000} silent=${2:-15000} non_readers=${3:-10000}
listen=127.0.0.1:7470
admin=127.0.0.1:7469
work=$(mktemp -d target/bench-hostile.XXXXXX)
"$bin/relaymesh" serve --max-sessions $((good + silent + non_readers)) --data-dir "$work/data" --listen $listen \
  --admin $admin > "$work/log" 2>&1 &
pid=$!
trap 'kill $pid 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT
until curl -fs "http://$admin/readyz" > /dev/null 2>&1; do
  kill -0 $pid 2> /dev/null || { cat "$work/log" >&2; exit 1; }
  sleep 0.05
done
"$bin/loadgen" hostile --good "$good" --silent "$silent" --non-readers "$non_readers" --connect $listen --quiet \
  --json target/hostile.json
