#!/usr/bin/env bash
# Ten million messages waiting, beside a thousand: what publishing, leasing and acking cost then, what memory a message takes,
# whether they come in order, and how long a start after SIGKILL takes. Once with bodies in memory, once with a budget so
# small that they are read back from the log. Prints the medians and ratios, and keeps each run in target/backlog.csv and all
# of it in target/backlog.json.
#
#     benches/backlog.sh [WAITING] [ROUNDS]        10,000,000 and 3 unless given
#
# Each round publishes 100,000 messages more and then leases and acks as many (CHUNK=100000), so that with "1,000 waiting"
# there are up to 101,000; what exactly 1,000 cost the queue's brain alone says `cargo bench --bench queue`. A publish costs
# more while the backlog grows to where it never was: memory is touched for the first time then, and segments of the log are
# made. So that has rows of its own, of as many chunks one after the other as there are rounds, with few and with many
# waiting; the rounds come after it, on memory and segments that were used before. Memory a message is what the server's
# memory grew beyond the bodies that it says it holds, over what it was with 1,000 waiting before anything else.
# SIZE=256 bytes a message, BUDGETS="4GiB 16MiB" for bodies, LOOPS=1; BIN names another directory with the binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
source benches/servers.sh
[ -n "${BIN:-}" ] || cargo build --release --workspace --quiet
waiting=${1:-10000000} rounds=${2:-3} chunk=${CHUNK:-100000} size=${SIZE:-256} few=1000
read -ra budgets <<< "${BUDGETS:-4GiB 16MiB}"

work=$(mktemp -d target/bench-backlog.XXXXXX)
trap 'kill_server; rm -rf "$work"' EXIT
runs=target/backlog.csv
: > $runs

serve() {
  "$bin/relaymesh" serve --config "$work/relaymesh.toml" --loops "$loops" --data-dir "$work/data" --listen $address --admin $admin \
    --log-format json > "$work/log" 2>&1 &
  server_pid=$!
  until ready relaymesh; do
    kill -0 $server_pid 2> /dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
  done
}
kill_server() {
  [ -n "$server_pid" ] || return 0
  kill -9 "$server_pid" 2> /dev/null || true
  wait "$server_pid" 2> /dev/null || true
  server_pid=
}
# Multiplied by the shell: "%d" of some awks ends at 2 GiB.
resident() { echo $(($(awk '/VmRSS/ { print $2 }' "/proc/$server_pid/status") * 1024)); }
bodies() { curl -fs "http://$admin/metrics" | sed -n 's/^relaymesh_buffer_bytes{buffer="bodies"} \([0-9.]*\)$/\1/p'; }
beyond_bodies() { echo $(($(resident) - $(bodies | cut -d. -f1))); }
row() { echo "$1,$2,$3,$4" >> $runs; }

# churn CASE COLUMN: publishes and works off a chunk, and writes down what that cost.
churn() {
  load relaymesh publish --count "$chunk" --in-flight 1024 --size "$size"
  row "publishes a second" "$1" "$2" "$(field "$work/publish.json" per_s)"
  row "server CPU a publish (us)" "$1" "$2" "$(field "$work/publish.json" server_cpu_us_per_op)"
  load relaymesh work --count "$chunk" --in-flight 1024
  row "leases and acks a second" "$1" "$2" "$(field "$work/work.json" per_s)"
  row "server CPU a lease and ack (us)" "$1" "$2" "$(field "$work/work.json" server_cpu_us_per_op)"
  row "messages out of order" "$1" "$2" "$(field "$work/work.json" out_of_order)"
}

# grow CASE COLUMN: the same of publishes to a backlog that was never as long, and then works them off.
grow() {
  for _ in $(seq "$rounds"); do
    load relaymesh publish --count "$chunk" --in-flight 1024 --size "$size"
    row "publishes a second while it grows" "$1" "$2" "$(field "$work/publish.json" per_s)"
    row "server CPU a publish while it grows (us)" "$1" "$2" "$(field "$work/publish.json" server_cpu_us_per_op)"
  done
  load relaymesh work --count $((chunk * rounds)) --in-flight 1024
}

# Digits in threes, with dots: a comma would end the field.
readable() { sed ':a;s/\B[0-9]\{3\}\>/.&/;ta' <<< "$1"; }
many_column="$(readable "$waiting") waiting" few_column="$(readable $few) waiting"

for budget in "${budgets[@]}"; do
  case="bodies of up to $budget in memory"
  rm -rf "$work/data"
  printf '[memory]\nbody_bytes_max = "%s"\n' "$budget" > "$work/relaymesh.toml"
  serve
  # Buffers of loops and clients are made for the first time.
  load relaymesh publish --count $few --in-flight 1024 --size "$size"
  load relaymesh work --count $few --in-flight 1024
  load relaymesh publish --count $few --in-flight 1024 --size "$size"
  sleep 2
  empty=$(beyond_bodies)
  # Those in the first column are what the others are compared with: rows of the many are kept until the few are known.
  mv $runs "$work/before" && : > $runs
  grow "$case" "$few_column"
  for _ in $(seq "$rounds"); do churn "$case" "$few_column"; done
  mv $runs "$work/few"
  : > $runs
  load relaymesh publish --count $((waiting - few)) --in-flight 1024 --size "$size"
  sleep 2
  row "memory a message beyond its body (B)" "$case" "$many_column" "$((($(beyond_bodies) - empty) / (waiting - few)))"
  row "memory of the server (MiB)" "$case" "$many_column" "$(($(resident) / 1048576))"
  grow "$case" "$many_column"
  for _ in $(seq "$rounds"); do churn "$case" "$many_column"; done
  for _ in $(seq "$rounds"); do
    kill_server
    serve
    took_ms=$(sed -n 's/.*"took_ms":\([0-9]*\).*/\1/p' "$work/log")
    row "start after SIGKILL (ms)" "$case" "$many_column" "$took_ms"
    row "messages recovered a second" "$case" "$many_column" $((waiting * 1000 / (took_ms > 0 ? took_ms : 1)))
  done
  row "memory of the server after a start (MiB)" "$case" "$many_column" "$(($(resident) / 1048576))"
  load relaymesh work --count "$chunk" --in-flight 1024
  row "messages out of order after a start" "$case" "$many_column" "$(field "$work/work.json" out_of_order)"
  kill_server
  mv $runs "$work/many"
  cat "$work/before" "$work/many" "$work/few" > $runs
done

"$bin/loadgen" compare $runs --note "$(describe relaymesh)" --note "$(machine)" \
  --note "medians of $rounds rounds of $chunk messages of $size B, 1024 in flight on one connection" --json target/backlog.json
