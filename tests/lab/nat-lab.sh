#!/usr/bin/env bash
# Three network namespaces with a real NAT between a worker and its pool. Needs root, ip (iproute2) and nft (nftables).
#
#   PREFIX-pool 203.0.113.10 ── 203.0.113.1 PREFIX-nat 10.77.0.1 ── 10.77.0.2 PREFIX-worker
#
# The worker reaches the pool; the pool has no way to the worker, and the NAT takes no new flow from outside.
#
#   nat-lab.sh up PREFIX             makes them; PREFIX has at most 10 letters
#   nat-lab.sh up PREFIX FAR-LINK …  the same; between pool and NAT is far-link.c, with its delay, jitter, loss and seed
#   nat-lab.sh down PREFIX           ends what runs in them, and removes them
#   nat-lab.sh forget PREFIX         the NAT forgets every flow, without a word to either side
#   nat-lab.sh rebind PREFIX         the same, and from now on it shows another public address
#   nat-lab.sh forgetful PREFIX S    from now on it forgets a flow on which nothing was sent for S seconds
#   nat-lab.sh deafen PREFIX WHO     nothing reaches the pool, or the worker, any more; the other way is open
#   nat-lab.sh cut PREFIX            the worker's link is down
#   nat-lab.sh mend PREFIX           it is up, and everybody hears again
set -euo pipefail

action=$1
prefix=$2
shift 2
pool=$prefix-pool nat=$prefix-nat worker=$prefix-worker

# Who translates, and which public address is shown.
translate() {
  ip netns exec "$nat" nft -f - <<RULES
    add table ip translate
    delete table ip translate
    table ip translate {
      chain outgoing {
        type nat hook postrouting priority 100
        oifname "$prefix-n0" snat to $1
      }
    }
RULES
}

# Flows that the NAT does not know are dropped, also when they look as if they were established.
forget() {
  ip netns exec "$nat" conntrack -F 2> /dev/null
}

up() {
  for name in "$pool" "$nat" "$worker"; do
    ip netns add "$name"
    ip -n "$name" link set lo up
  done
  if [ $# -gt 0 ]; then
    exec {far}< <("$1" "$pool" "$prefix-p0" "$nat" "$prefix-n0" "${@:2}")
    read -r -u "$far"
  else
    ip link add "$prefix-p0" netns "$pool" type veth peer name "$prefix-n0" netns "$nat"
  fi
  ip link add "$prefix-w0" netns "$worker" type veth peer name "$prefix-n1" netns "$nat"
  ip -n "$pool" addr add 203.0.113.10/24 dev "$prefix-p0"
  ip -n "$nat" addr add 203.0.113.1/24 dev "$prefix-n0"
  ip -n "$nat" addr add 203.0.113.2/24 dev "$prefix-n0"
  ip -n "$nat" addr add 10.77.0.1/24 dev "$prefix-n1"
  ip -n "$worker" addr add 10.77.0.2/24 dev "$prefix-w0"
  ip -n "$pool" link set "$prefix-p0" up
  ip -n "$nat" link set "$prefix-n0" up
  ip -n "$nat" link set "$prefix-n1" up
  ip -n "$worker" link set "$prefix-w0" up
  ip -n "$worker" route add default via 10.77.0.1
  ip netns exec "$nat" sysctl -qw net.ipv4.ip_forward=1
  translate 203.0.113.1
  ip netns exec "$nat" nft -f - <<RULES
    table ip forward {
      chain through {
        type filter hook forward priority 0
        policy drop
        ct state established,related accept
        iifname "$prefix-n1" oifname "$prefix-n0" ct state new accept
      }
    }
RULES
  # Known only once connection tracking is there.
  ip netns exec "$nat" sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0
}

down() {
  for name in "$pool" "$nat" "$worker"; do
    ip netns pids "$name" 2> /dev/null | xargs -r kill -9 2> /dev/null || true
    ip netns del "$name" 2> /dev/null || true
  done
}

# What goes to the device of one side vanishes; nobody is told.
deafen() {
  local to
  case $1 in pool) to=$prefix-n0 ;; worker) to=$prefix-n1 ;; esac
  ip netns exec "$nat" nft -f - <<RULES
    table ip deaf {
      chain through {
        type filter hook forward priority -1
        oifname "$to" drop
      }
    }
RULES
}

mend() {
  ip -n "$nat" link set "$prefix-n1" up
  ip netns exec "$nat" nft -f - <<RULES
    add table ip deaf
    delete table ip deaf
RULES
}

case $action in
  up) up "$@" ;;
  down) down ;;
  forget) forget ;;
  rebind)
    translate 203.0.113.2
    forget
    ;;
  forgetful) ip netns exec "$nat" sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established="$1" ;;
  deafen) deafen "$1" ;;
  cut) ip -n "$nat" link set "$prefix-n1" down ;;
  mend) mend ;;
  *)
    echo "there is no $action: up, down, forget, rebind, forgetful, deafen, cut, mend" >&2
    exit 2
    ;;
esac
