# The cluster's network: one namespace, one bridge, a veth pair to this machine. Sourced, after components.bash.

network_up() {
  [ -d /run/netns ] || touch "$run/made-run-netns"
  ip netns add "$netns"
  inside ip link set lo up
  inside ip link add cni0 type bridge
  inside ip address add "$node_ip/24" dev cni0
  inside ip link set cni0 up
  inside ip route add default dev cni0        # kubelet and apiserver look for a default route; it leads nowhere
  inside sysctl -qw net.ipv4.ip_forward=1
  ip link add "$host_link" type veth peer name "$node_link" netns "$netns"
  inside ip link set "$node_link" master cni0 up
  ip address add "$host_ip/24" dev "$host_link"
  ip link set "$host_link" up
  ip route add "$service_cidr" via "$node_ip" dev "$host_link"
}

# A link goes with either end, and all that is in the namespace goes with it.
network_down() {
  ip link delete "$host_link" 2>/dev/null
  ip netns delete "$netns" 2>/dev/null
  [ ! -e "$run/made-run-netns" ] || { umount /run/netns && rmdir /run/netns; } 2>/dev/null
}

# Nobody else's: neither the names nor the addresses.
network_free() {
  local taken
  [ ! -e "/run/netns/$netns" ] || die "there is a network namespace $netns without its folder $run: ip netns delete $netns"
  taken=$(ip -o route show to match "$node_ip"; ip -o route show to match "$api_ip")
  taken=$(grep -v '^default' <<<"$taken" || true)
  [ -z "$taken" ] || die "this machine's network uses the cluster's addresses, $pod_cidr or $service_cidr:"$'\n'"$taken"
}
