#!/usr/bin/env bash
# A hundred tenants, one of which publishes a thousand times more than each of the others: how long the others' messages wait,
# beside their wait when the same total load is spread evenly. One queue with a fairness key for each tenant, the same without
# keys for comparison, and a namespace for each; the total a bit below and a bit above what the agents can do, and with the
# large tenant's messages one by one and in bursts of a thousand. Prints each class's waits and the ratio.
#
#     benches/fairness.sh [DURATION] [ROUNDS]        of each run, 10s, and 3 unless given: about 12 minutes
#
# WORK_RATE=10000 messages a second are what the agents do together, PERCENTS="90 110" of it is the load. With namespaces each
# tenant has agents of its own, which ack at once: there SHARD_RATE=100000 messages a second are to keep the shard itself busy.
# BYS="key nothing namespace" and LOOPS say otherwise; BIN names another directory with the binaries. Each run is kept in
# target/fairness.csv, medians and ratios in target/fairness.json.
set -euo pipefail
cd "$(dirname "$0")/.."
source benches/servers.sh
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet
duration=${1:-10s} rounds=${2:-3} work_rate=${WORK_RATE:-10000} shard_rate=${SHARD_RATE:-100000}
read -ra bys <<< "${BYS:-key nothing namespace}"
read -ra percents <<< "${PERCENTS:-90 110}"

work=$(mktemp -d target/bench-fairness.XXXXXX)
trap 'stop; rm -rf "$work"' EXIT
runs=target/fairness.csv
: > $runs

# fair BY RATE BURST
fair() {
  local class quantile
  [ -t 2 ] && printf '\r%-60s' "by $1, $2 a second, bursts of $3" >&2
  start relaymesh
  "$bin/loadgen" fair --connect $address --quiet --by "$1" --rate "$2" --work-rate "$work_rate" --burst "$3" --duration "$duration" \
    --json "$work/fair.json" > /dev/null
  for quantile in p50 p99; do
    # Those whose ratio to the others is wanted stand behind them.
    for class in others even hot; do
      echo "wait $quantile (us),by $1: $2 a second in bursts of $3,$class,$(field "$work/fair.json" $class $quantile)" >> $runs
    done
  done
  stop
}

for _ in $(seq "$rounds"); do
  for by in "${bys[@]}"; do
    for burst in 1 1000; do
      if [ "$by" = namespace ]; then
        fair namespace "$shard_rate" $burst
      else
        for percent in "${percents[@]}"; do fair "$by" $((work_rate * percent / 100)) $burst; done
      fi
    done
  done
done
[ -t 2 ] && printf '\r%-60s\r' "" >&2

"$bin/loadgen" compare $runs --note "$(describe relaymesh)" --note "$(machine)" \
  --note "others: who publishes little beside the hot one; even: all, with the same total load spread evenly" \
  --json target/fairness.json
