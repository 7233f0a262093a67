#!/usr/bin/env bash
# RelayMesh beside other queue servers: durable publishes, then lease and ack of the same messages. Messages of 256 B and of
# 4 KiB; 1, 128 and 1,024 in flight on one connection, and 50 connections with one each. The servers take turns, each with
# fresh data on the same disk; medians and ratios are printed, with the server's processor time a message and the most
# memory it had, and kept in target/queues.csv (each run), target/queues.json and target/queues.svg.
#
#     benches/queues.sh [SECONDS] [ROUNDS]        3 and 3 unless given: about 40 minutes for all seven servers
#
# Each run sends as many messages as a short trial says are good for so many seconds, at most 1 GiB, so that every server is
# measured for about as long. Before it is measured, a server takes and delivers as many messages: fresh pages of memory
# cost a virtual machine more than the messages do.
# RelayMesh runs one loop, which leaves the second of two cores to the load, as one-threaded servers do; LOOPS=2 tries others.
# SERVERS="relaymesh redis-always" and CASES="256:128:1 …" (bytes, in flight, connections) run some of them; BIN names another
# directory with the binaries. What is missing is named: benches/rivals-setup.sh fetches it.
set -euo pipefail
cd "$(dirname "$0")/.."
source benches/servers.sh
read -ra servers <<< "${SERVERS:-$ALL_SERVERS}"
read -ra cases <<< "${CASES:-256:1:1 256:128:1 256:1024:1 256:1:50 4096:1:1 4096:128:1 4096:1024:1 4096:1:50}"
seconds=${1:-3} rounds=${2:-3}
require "${servers[@]}"
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

work=$(mktemp -d target/bench-queues.XXXXXX)
trap 'stop; rm -rf "$work"' EXIT
runs=target/queues.csv
: > $runs

# run SERVER CASE: one row for each thing measured.
run() {
  local server=$1 size in_flight connections label count
  IFS=: read -r size in_flight connections <<< "$2"
  label="$size B: $connections x $in_flight in flight"
  local shape=(--in-flight "$in_flight" --connections "$connections")
  start "$server"
  load "$server" publish --size "$size" "${shape[@]}" --count $((500 + in_flight * 20 + connections * 20))
  count=$(awk -v rate="$(field "$work/publish.json" per_s)" -v seconds="$seconds" -v size="$size" 'BEGIN {
    count = rate * seconds; most = 1073741824 / size
    if (count < 1000) count = 1000
    if (count > most) count = most
    printf "%d", count }')
  load "$server" work "${shape[@]}" --count $((500 + in_flight * 20 + connections * 20))
  load "$server" publish --size "$size" "${shape[@]}" --count "$count"
  load "$server" work "${shape[@]}" --count "$count"
  load "$server" publish --size "$size" "${shape[@]}" --count "$count"
  load "$server" work "${shape[@]}" --count "$count"
  local what name
  for what in publish work; do
    name=$([ $what = publish ] && echo "publishes a second" || echo "leases and acks a second")
    echo "$name,$label,$(title "$server"),$(field "$work/$what.json" per_s)" >> $runs
    name=$([ $what = publish ] && echo "server CPU a publish (us)" || echo "server CPU a lease and ack (us)")
    echo "$name,$label,$(title "$server"),$(field "$work/$what.json" server_cpu_us_per_op)" >> $runs
  done
  echo "most memory (MiB),$label,$(title "$server"),$(peak_mib)" >> $runs
  stop
}

for case in "${cases[@]}"; do
  for round in $(seq "$rounds"); do
    for server in "${servers[@]}"; do
      [ -t 2 ] && printf '\r%-60s' "$case, round $round of $rounds, $server" >&2
      run "$server" "$case"
    done
  done
done
[ -t 2 ] && printf '\r%-60s\r' "" >&2

notes=()
for server in "${servers[@]}"; do notes+=(--note "$(describe "$server")"); done
"$bin/loadgen" compare $runs "${notes[@]}" --note "$(machine)" --note "medians of $rounds runs of about $seconds s" \
  --json target/queues.json --plot target/queues.svg --title "Queue servers beside each other: each group has its own scale" \
  --draw "publishes a second" --draw "leases and acks a second"
