#!/bin/sh
# The VMM's tests and the command end to end, small enough for an emulated machine. Runs where
# they and the test programs lie in the current folder; scripts/test starts it inside
# scripts/stock-kvm.
set -eu

socket=/tmp/pilotlight/node.sock
mkdir -p /tmp/pilotlight

fail() { printf 'FAILED: %s\n' "$*"; exit 1; }
pass() { printf 'ok %s\n' "$*"; }

# expect NAME STATUS TEXT COMMAND...: COMMAND exits with STATUS and prints TEXT somewhere.
expect() {
    name=$1 status=$2 text=$3
    shift 3
    got=0
    "$@" >/tmp/out 2>/tmp/err || got=$?
    [ "$got" = "$status" ] || { cat /tmp/out /tmp/err; fail "$name: exit $got, not $status"; }
    [ -z "$text" ] || grep -qF -- "$text" /tmp/out || { cat /tmp/out /tmp/err; fail "$name: no «$text» in it"; }
    pass "$name"
}

invoke() { pilotlight invoke --socket $socket "$@"; }
deploy() { pilotlight deploy --socket $socket --timeout 60s "$@" >/dev/null; }

VMM=./vmm ./vmm-tests --quiet --test-threads 1
# What an invoke costs in exits, faults and pages: within the same bounds as on every other KVM.
COUNT=60 PROGRAMS=. ./counts --nocapture --test-threads 1

expect 'a node can run here, on stock KVM' 0 '"stock"' pilotlight doctor --json
pilotlight serve --state /tmp/pilotlight/state --socket $socket &
node=$!
waited=0
until pilotlight status --socket $socket >/dev/null 2>&1; do
    kill -0 $node 2>/dev/null || fail 'the node ended'
    waited=$((waited + 1))
    [ $waited -lt 60 ] || fail 'the node did not come up within a minute'
    sleep 1
done
pass 'the node is up'

deploy env --program ./env --env COLOUR=blue
deploy faults --program ./faults -- segv
deploy three --program ./faults -- exit 3
deploy uname --program ./uname
deploy pie --program ./noop-pie
deploy probe --program ./rust-probe -- loopback
deploy lua --program ./lua
deploy sha --program ./busybox -- sha256sum

expect 'static C: arguments and environment' 0 'COLOUR=blue' invoke env
expect 'its kernel is ours' 0 'ilotlight' invoke uname
expect 'static-pie glibc' 0 '' invoke pie
expect 'exit status' 3 '' invoke three
expect 'a crash is an outcome' 139 '' invoke faults
expect 'the VM lives on' 0 'COLOUR=blue' invoke env
expect 'busybox' 0 '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824' \
    invoke sha --payload hello
expect 'Lua' 0 'lua says 42' invoke lua --payload 'print("lua says " .. 6 * 7)'
expect 'Rust threads and TCP' 0 'all ok' invoke probe
expect 'the node says what it runs on' 0 '"flavour": "stock"' pilotlight status --socket $socket --json
expect 'one boot, the rest restored' 0 '"boots": 1,' pilotlight status --socket $socket --json

kill -TERM $node
wait $node || fail "the node ended with $?"
pass 'the node drained and stopped'
