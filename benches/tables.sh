#!/usr/bin/env bash
# One descriptor table for all loops beside one for each, in turns: how fast connections are accepted and closed, and how
# long the slowest handshake takes while the table grows to 15,000 connections.
#
#     benches/tables.sh [ROUNDS]      3 unless given
#
# The server runs two loops. Connections come as fast as the generator makes them (SECONDS_EACH=5), are reset at once, after
# HELLO and after WELCOME; then 15,000 sessions come in at 3,000 a second. BIN names another directory with the binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

bin=${BIN:-target/release}
listen=127.0.0.1:7464
admin=127.0.0.1:7463
work=$(mktemp -d target/bench-tables.XXXXXX)
server=
finish() {
  [ -z "$server" ] || kill "$server" 2> /dev/null || true
  wait 2> /dev/null || true
  rm -rf "$work"
}
trap finish EXIT
field() {
  if [ $# = 2 ]; then sed -n "s/^  \"$2\": \([0-9.]*\).*/\1/p" "$1"; else
    sed -n "/^  \"$2\": {/,/^  }/s/.*\"$3\": \([0-9.]*\).*/\1/p" "$1"; fi
}
# Without a grace period, so that what was reset is gone at once.
printf '[session]\ngrace = "0s"\n' > "$work/relaymesh.toml"
start() {
  rm -rf "$work/data"
  "$bin/relaymesh" serve --config "$work/relaymesh.toml" --loops 2 --max-sessions 19000 --descriptor-tables "$1" \
    --data-dir "$work/data" --listen $listen --admin $admin > "$work/log" 2>&1 &
  server=$!
  until curl -fs "http://$admin/readyz" > /dev/null 2>&1; do
    kill -0 $server 2> /dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
  done
}
stop() { kill $server; wait $server 2> /dev/null || true; server=; }
load() { "$bin/loadgen" "$@" --connect $listen --quiet; }

printf '%-8s %22s %22s %18s %18s\n' tables "accepted and closed/s" "handshake p50 us" "p99 us" "slowest us"
for _ in $(seq "${1:-3}"); do
  for tables in shared private; do
    start $tables
    # What it says about memory is another script's matter.
    load churn --rate 100000 --duration "${SECONDS_EACH:-5}s" --warm-up 1s --admin $admin --server-pid $server \
      --json "$work/churn.json" > /dev/null || true
    stop
    start $tables
    load connect --connections 15000 --ramp 3000 --hold 1s --json "$work/connect.json" > /dev/null
    stop
    printf '%-8s %22.0f %22s %18s %18s\n' $tables "$(field "$work/churn.json" per_s)" \
      "$(field "$work/connect.json" handshake_us p50)" "$(field "$work/connect.json" handshake_us p99)" \
      "$(field "$work/connect.json" handshake_us max)"
  done
done
