#!/usr/bin/env bash
# A hundred tenants, one of which publishes a thousand times more than each of the others: how long the others' messages wait,
# beside their wait when the same total load is spread evenly. One queue with a fairness key for each tenant, the same without
# keys for comparison, and a namespace for each; the total a bit below and a bit above what the agents can do, and with the
# large tenant's messages one by one and in bursts of a thousand. Prints each class's waits and the ratio.
#
#     benches/fairness.sh [DURATION]        of each run, 10s unless given
#
# WORK_RATE=10000 messages a second are what the agents do together. With namespaces each tenant has agents of its own, which
# ack at once: there SHARD_RATE=100000 messages a second are to keep the shard itself busy. BYS="key nothing namespace" and
# LOOPS say otherwise; BIN names another directory with the binaries. Results go to target/fairness-….json.
set -euo pipefail
cd "$(dirname "$0")/.."
source benches/servers.sh
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet
duration=${1:-10s} work_rate=${WORK_RATE:-10000} shard_rate=${SHARD_RATE:-100000}
read -ra bys <<< "${BYS:-key nothing namespace}"

work=$(mktemp -d target/bench-fairness.XXXXXX)
trap 'stop; rm -rf "$work"' EXIT
runs=target/fairness.csv
: > $runs

# fair BY RATE BURST NAME
fair() {
  start relaymesh
  echo "by $1, $2 a second, bursts of $3:"
  "$bin/loadgen" fair --connect $address --quiet --by "$1" --rate "$2" --work-rate "$work_rate" --burst "$3" --duration "$duration" \
    --json "target/fairness-$4.json"
  for quantile in p50 p99; do
    for class in even others hot; do
      echo "wait $quantile (us),by $1: $2 a second in bursts of $3,$class,$(field "target/fairness-$4.json" $class $quantile)" >> $runs
    done
  done
  stop
  echo
}

for by in "${bys[@]}"; do
  if [ "$by" = namespace ]; then
    for burst in 1 1000; do fair namespace "$shard_rate" $burst namespace-$burst; done
  else
    for percent in 95 105; do
      for burst in 1 1000; do fair "$by" $((work_rate * percent / 100)) $burst "$by-$percent-$burst"; done
    done
  fi
done
"$bin/loadgen" compare $runs --note "$(describe relaymesh)" --note "$(machine)" --note "the ratios are of the even spread over the others, and over the hot one" \
  --json target/fairness.json
