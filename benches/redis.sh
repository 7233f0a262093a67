#!/usr/bin/env bash
# RelayMesh beside Redis Streams with `appendfsync always`: durable publishes, then lease and ack of the same
# messages, at several numbers in flight. Both servers run on this machine; the runs alternate; each case is run
# three times with fresh data, and the medians and their ratio are printed. Before it is measured, each server takes
# and delivers as many messages: fresh pages of memory cost a virtual machine more than the messages do.
# RelayMesh runs one loop, which leaves the second of two cores to the load, as one-threaded Redis does;
# LOOPS=2 benches/redis.sh tries others.
#
#     benches/redis.sh [COUNT]        messages a run at 128 in flight on one connection, 500,000 unless given
#
# Needs redis-server (Debian: apt-get install redis-server). Data goes to a directory beside the build, on disk.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v redis-server > /dev/null || { echo "redis-server is not installed: apt-get install redis-server" >&2; exit 1; }
cargo build --release --workspace --quiet

count=${1:-500000}
loops=${LOOPS:-1}
bin=target/release
work=$(mktemp -d target/bench-redis.XXXXXX)
pids=()
finish() {
  for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  wait 2> /dev/null || true
  rm -rf "$work"
}
trap finish EXIT

redis_port=7479
listen=127.0.0.1:7478

start_redis() {
  rm -rf "$work/redis" && mkdir "$work/redis"
  redis-server --port $redis_port --bind 127.0.0.1 --dir "$PWD/$work/redis" --save '' --appendonly yes \
    --appendfsync always --auto-aof-rewrite-percentage 0 --daemonize no > "$work/redis.log" 2>&1 &
  redis_pid=$!
  pids+=("$redis_pid")
  until redis-cli -p $redis_port ping > /dev/null 2>&1; do sleep 0.05; done
}

start_relaymesh() {
  rm -rf "$work/relaymesh"
  "$bin/relaymesh" serve --loops "$loops" --data-dir "$work/relaymesh" --listen $listen --admin 127.0.0.1:7477 > "$work/relaymesh.log" 2>&1 &
  relaymesh_pid=$!
  pids+=("$relaymesh_pid")
  until curl -fs http://127.0.0.1:7477/readyz > /dev/null 2>&1; do sleep 0.05; done
}

stop() { kill "$1" 2> /dev/null || true; wait "$1" 2> /dev/null || true; }
rate() { sed -n 's/.*"per_s": \([0-9]*\).*/\1/p' "$1"; }
median() { printf '%s\n' "$@" | sort -n | sed -n 2p; }

echo "RelayMesh $("$bin/relaymesh" --version | cut -d' ' -f2) beside $(redis-server --version | cut -d' ' -f1-3), 256 B, $(nproc) cores, $loops loop(s)"
printf '%-34s %34s %34s %7s\n' "case" "RelayMesh per s (median of)" "Redis per s (median of)" "ratio"

# name, in flight, connections, messages
cases=("1 x 128:128:1:$count" "1 x 1024:1024:1:$((count * 2))" "50 x 1:1:50:$((count / 4))")
for case in "${cases[@]}"; do
  IFS=: read -r name in_flight connections messages <<< "$case"
  relay_publish=() relay_work=() redis_publish=() redis_work=()
  shape=(--in-flight "$in_flight" --connections "$connections")
  options=(--count "$messages" "${shape[@]}" --json "$work/out.json")
  warm_up=(--count "$messages" "${shape[@]}")
  for _ in 1 2 3; do
    start_relaymesh
    for what in publish work; do "$bin/loadgen" $what --connect $listen --quiet "${warm_up[@]}" > /dev/null; done
    "$bin/loadgen" publish --connect $listen --quiet "${options[@]}" > /dev/null && relay_publish+=("$(rate "$work/out.json")")
    "$bin/loadgen" work --connect $listen --quiet "${options[@]}" > /dev/null && relay_work+=("$(rate "$work/out.json")")
    stop "$relaymesh_pid"
    start_redis
    for what in publish work; do "$bin/redis-streams" $what --connect 127.0.0.1:$redis_port "${warm_up[@]}" > /dev/null; done
    redis-cli -p $redis_port flushall > /dev/null
    "$bin/redis-streams" publish --connect 127.0.0.1:$redis_port "${options[@]}" > /dev/null && redis_publish+=("$(rate "$work/out.json")")
    "$bin/redis-streams" work --connect 127.0.0.1:$redis_port "${options[@]}" > /dev/null && redis_work+=("$(rate "$work/out.json")")
    stop "$redis_pid"
  done
  for what in publish work; do
    declare -n relay=relay_$what redis=redis_$what
    ours=$(median "${relay[@]}") theirs=$(median "${redis[@]}")
    label="durable publish, $name"
    [ $what = work ] && label="durable lease + ack, $name"
    printf '%-34s %34s %34s %7s\n' "$label" "$ours (${relay[*]})" "$theirs (${redis[*]})" \
      "$(awk -v a="$ours" -v b="$theirs" 'BEGIN { printf "%.2f", a / b }')"
    unset -n relay redis
  done
done
