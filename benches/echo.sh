#!/usr/bin/env bash
# Ping-pong: empty heartbeats through the whole server (frame, session, reply), each connection one PING at a time.
# Prints round trips a second, the server's CPU time a ping and the delay, three runs and their median, at 100, 1,000
# and 10,000 connections.
#
#     benches/echo.sh [SECONDS]       a run, 5 unless given; LOOPS=2 for another number of loops than one
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --workspace --quiet

seconds=${1:-5}
bin=target/release
work=$(mktemp -d target/bench-echo.XXXXXX)
listen=127.0.0.1:7476
"$bin/relaymesh" serve --loops "${LOOPS:-1}" --data-dir "$work/data" --listen $listen --admin 127.0.0.1:7475 > "$work/log" 2>&1 &
pid=$!
trap 'kill $pid 2> /dev/null || true; wait 2> /dev/null || true; rm -rf "$work"' EXIT
until curl -fs http://127.0.0.1:7475/readyz > /dev/null 2>&1; do sleep 0.05; done

field() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" "$work/out.json"; }
median() { printf '%s\n' "$@" | sort -n | sed -n 2p; }

printf '%-12s %34s %18s %10s %10s\n' connections "round trips per s (median of)" "server CPU us/ping" "p50 us" "p99 us"
for connections in 100 1000 10000; do
  rates=() cpus=() p50s=() p99s=()
  for _ in 1 2 3; do
    "$bin/loadgen" echo --connect $listen --connections $connections --duration "${seconds}s" --server-pid $pid \
      --quiet --json "$work/out.json" > /dev/null
    rates+=("$(field per_s | cut -d. -f1)") cpus+=("$(field server_cpu_us_per_op)") p50s+=("$(field p50)") p99s+=("$(field p99)")
  done
  printf '%-12s %34s %18.2f %10s %10s\n' $connections "$(median "${rates[@]}") (${rates[*]})" \
    "$(median "${cpus[@]}")" "$(median "${p50s[@]}")" "$(median "${p99s[@]}")"
done
