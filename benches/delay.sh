#!/usr/bin/env bash
# How long a message takes from its durable publish to a waiting agent: at 1,000 and 50,000 messages a second, RelayMesh beside
# Redis Streams (XADD, XREADGROUP BLOCK; appendfsync always) and NATS JetStream (sync_interval: always). When each message is
# due is fixed before the run, and its delay counts from then, however late it was sent: a server that stalls is charged for
# all that was due meanwhile. One that cannot keep up shows it in seconds. Prints p50, p99 and p99.9 of the delivery and of
# the publish's own answer, and keeps them in target/delay.csv (each run), target/delay.json and target/delay.svg.
#
#     benches/delay.sh [SECONDS] [ROUNDS]        10 and 3 unless given
#
# The agent is another process than the publisher, on the same machine; both read the same clock. Publisher and agent have one
# connection each, with 1,024 in flight at most. Before it is measured, a server has the same load for 2 seconds.
# RATES="1000 50000", SIZE=256, SERVERS (see benches/servers.sh) and LOOPS say otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
source benches/servers.sh
read -ra servers <<< "${SERVERS:-relaymesh redis-always nats-always}"
read -ra rates <<< "${RATES:-1000 50000}"
seconds=${1:-10} rounds=${2:-3} size=${SIZE:-256}
require "${servers[@]}"
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet

work=$(mktemp -d target/bench-delay.XXXXXX)
agent=
trap '[ -z "$agent" ] || kill $agent 2> /dev/null || true; stop; rm -rf "$work"' EXIT
runs=target/delay.csv
: > $runs

# under_way SERVER RATE SECONDS
under_way() {
  local count=$(($2 * $3))
  load "$1" work --in-flight 1024 --count $count &
  agent=$!
  # The agent waits before the first message is due.
  sleep 0.3
  load "$1" publish --in-flight 1024 --count $count --rate "$2" --size "$size"
  wait $agent
  agent=
}

for rate in "${rates[@]}"; do
  for round in $(seq "$rounds"); do
    for server in "${servers[@]}"; do
      [ -t 2 ] && printf '\r%-60s' "$rate a second, round $round of $rounds, $server" >&2
      start "$server"
      under_way "$server" "$rate" 2
      under_way "$server" "$rate" "$seconds"
      for quantile in p50 p99 p999; do
        echo "publish to delivery (us),$rate a second: $quantile,$(title "$server"),$(field "$work/work.json" delivery_us $quantile)"
        echo "publish to its answer (us),$rate a second: $quantile,$(title "$server"),$(field "$work/publish.json" latency_us $quantile)"
      done >> $runs
      echo "server CPU a message (us),$rate a second,$(title "$server"),$(awk -v a="$(field "$work/work.json" server_cpu_us_per_op)" \
        'BEGIN { printf "%.3f", a }')" >> $runs
      stop
    done
  done
done
[ -t 2 ] && printf '\r%-60s\r' "" >&2

notes=()
for server in "${servers[@]}"; do notes+=(--note "$(describe "$server")"); done
"$bin/loadgen" compare $runs "${notes[@]}" --note "$(machine)" --note "medians of $rounds runs of $seconds s, $size B, counted from when each was due" \
  --json target/delay.json --plot target/delay.svg --title "From publish to delivery: less is better, each group has its own scale" \
  --draw "publish to delivery (us)" --draw "publish to its answer (us)"
