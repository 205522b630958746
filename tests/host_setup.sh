#!/bin/sh
# What docs/host-setup.md says of a host with systemd, line by line, on a Debian that knows nothing of
# Pilotlight yet: the package, the service, its options, an ordinary user's node. Runs where the
# package lies in the current folder; scripts/deb --boot starts it inside scripts/stock-kvm --systemd.
set -eu

fail() { printf 'FAILED: %s\n' "$*"; exit 1; }
pass() { printf 'ok %s\n' "$*"; }

# expect NAME TEXT COMMAND...: COMMAND succeeds and prints TEXT somewhere.
expect() {
    name=$1 text=$2
    shift 2
    got=0
    "$@" >/tmp/out 2>/tmp/err || got=$?
    [ $got = 0 ] || { cat /tmp/out /tmp/err; fail "$name: exit $got"; }
    [ -z "$text" ] || grep -qF -- "$text" /tmp/out ||
        { cat /tmp/out /tmp/err; fail "$name: no «$text» in it"; }
    pass "$name"
}

# refuse NAME TEXT COMMAND...: COMMAND fails and says TEXT.
refuse() {
    name=$1 text=$2
    shift 2
    ! "$@" >/tmp/out 2>/tmp/err || fail "$name: it is let do that"
    grep -qF -- "$text" /tmp/err || { cat /tmp/out /tmp/err; fail "$name: no «$text» in it"; }
    pass "$name"
}

# after_change: the unit, with what /etc/systemd/system/pilotlight.service.d says now.
after_change() {
    systemctl daemon-reload
    systemctl restart pilotlight || { journalctl -u pilotlight --no-pager | tail -n 30; fail 'no restart'; }
}

# The service's node, its user, and one of its VMMs.
main() { systemctl show -P MainPID pilotlight; }
owner() { stat -c %U "/proc/$(main)"; }
vmm() { pgrep -P "$(main)" | head -n 1; }

# An emulated machine takes its time.
deploy() { pilotlight deploy --timeout 60s "$@"; }
invoke() { pilotlight invoke --timeout 60s "$@"; }
drop_in=/etc/systemd/system/pilotlight.service.d/check.conf
mkdir -p "$(dirname $drop_in)"

# ---- the package and the service

dpkg --install ./pilotlight_*.deb >/tmp/out 2>&1 || { cat /tmp/out; fail 'the package does not install'; }
pass 'the package installs'
expect 'nothing is started by itself' inactive sh -c 'systemctl is-active pilotlight || true'
expect 'doctor sees stock KVM' 'stock' pilotlight doctor
systemctl enable --now pilotlight || { journalctl -u pilotlight --no-pager | tail -n 30; fail 'no start'; }
pass 'systemctl enable --now is done when the socket answers'
pilotlight status >/dev/null || fail 'it does not answer'
expect 'a first function' count deploy count --program /bin/busybox -- wc -w
expect 'a first invoke' 3 invoke count --payload 'one two three'
expect 'control groups of version 2' 'version 2' pilotlight status
expect 'the VMs have one each' pilotlight.service cat "/proc/$(vmm)/cgroup"
expect 'VMMs are nobody' nobody stat -c %U "/proc/$(vmm)"
expect 'of root seven capabilities are left' 00000000002401e2 sh -c \
    "sed -n 's/^CapEff:\t//p' /proc/$(main)/status"
expect 'the state is for its owner only' 700 stat -c %a /var/lib/pilotlight

# ---- it ends, and comes back

kill -9 "$(main)"
waited=0
until pilotlight status >/dev/null 2>&1; do
    waited=$((waited + 1))
    [ $waited -lt 60 ] || fail 'a node that was killed does not come back'
    sleep 1
done
expect 'a node that was killed comes back, with its functions' 2 invoke count --payload 'one two'
after_change
expect 'systemctl restart' 1 invoke count --payload one

# ---- a group that may connect

useradd --create-home eve
useradd --create-home grace
groupadd --system pilotlight
usermod -aG pilotlight grace
refuse 'a user of no group may not connect' 'no-access' runuser -u eve -- pilotlight list
printf '[Service]\nGroup=pilotlight\n' >$drop_in
after_change
expect 'the socket is the group'"'"'s' 'root pilotlight 660' \
    stat -c '%U %G %a' /run/pilotlight/node.sock
expect 'who is in the group acts for their login' tool runuser -u grace -- \
    pilotlight deploy tool --timeout 60s --program /bin/busybox -- cat
expect 'and is served' hello runuser -u grace -- pilotlight invoke tool --timeout 60s --payload hello
refuse 'who is not may not' 'no-access' runuser -u eve -- pilotlight list
groupdel pilotlight

# ---- a user of the node's own

useradd --system pilotlight
printf '[Service]\nUser=pilotlight\nSupplementaryGroups=kvm\nCapabilityBoundingSet=\n' >$drop_in
after_change
expect 'the node is its user' pilotlight owner
expect 'VMMs are too' pilotlight stat -c %U "/proc/$(vmm)"
expect 'which no capability is left' 0000000000000000 sh -c "sed -n 's/^CapBnd:\t//p' /proc/$(main)/status"
expect 'it has the functions of before' 2 invoke count --payload 'one two'
expect 'its control groups are delegated to it' 'version 2' pilotlight status
rm $drop_in

# ---- more that the page names

printf '[Service]\nCPUWeight=2000\nAllowedCPUs=0-1\n' >$drop_in
after_change
expect 'a weight' 2000 cat /sys/fs/cgroup/system.slice/pilotlight.service/cpu.weight
rm $drop_in
after_change
expect 'no swap' 0 cat /sys/fs/cgroup/system.slice/pilotlight.service/memory.swap.max
expect 'locked memory' unlimited sh -c "grep 'Max locked memory' /proc/$(main)/limits"
sysctl -q kernel.io_uring_disabled=0 2>/dev/null || true

# ---- an ordinary user's node, with a control group of its own

usermod -aG kvm grace
loginctl enable-linger grace
id=$(id -u grace)
waited=0
until [ -S "/run/user/$id/bus" ]; do
    waited=$((waited + 1))
    [ $waited -lt 60 ] || fail 'no session of the user'
    sleep 1
done
as_grace() { runuser -u grace -- env XDG_RUNTIME_DIR="/run/user/$id" HOME=/home/grace "$@"; }
as_grace systemd-run --user --scope -p Delegate=yes pilotlight serve >/tmp/serve 2>&1 &
expect 'an ordinary user deploys to a node of their own' own as_grace \
    pilotlight deploy own --wait 60s --timeout 60s --program /bin/busybox -- cat
expect 'and is served' mine as_grace pilotlight invoke own --timeout 60s --payload mine
expect 'in control groups' 'version 2' as_grace pilotlight status
expect 'and stops it' '' as_grace pkill -TERM -u grace -x pilotlight

# ---- and it goes

expect 'stop drains' '' systemctl stop pilotlight
expect 'with nothing left' '' sh -c '! pgrep -x pilotlight'
dpkg --purge pilotlight >/tmp/out 2>&1 || { cat /tmp/out; fail 'the package does not go'; }
[ ! -e /usr/bin/pilotlight ] || fail 'it left its command'
[ -d /var/lib/pilotlight ] || fail 'it took the state along'
pass 'the package goes and leaves the state'
