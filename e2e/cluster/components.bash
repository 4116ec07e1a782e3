# The cluster's components, all inside the namespace: how each is started, and when it is ready. Sourced by the scripts
# of e2e/cluster, after paths.bash. Every component has a folder $run/NAME with its pid, log, command and data.
state=$run owner="the cluster"
. "$here/lib/process.bash"

components=(etcd apiserver containerd controller-manager scheduler kubelet proxy coredns)

inside() { nsenter --net="/run/netns/$netns" "$@"; }   # `ip netns exec` would hide /sys/fs/cgroup
in_containerd() { ctr --address "$run/containerd/containerd.sock" --namespace k8s.io "$@"; }
kubectl() { "$kubernetes_home/kubectl" --kubeconfig "$kubeconfig" "$@"; }

# component NAME COMMAND...: starts it; the command is kept, so that it can be started again.
component() {
  mkdir -p "$run/$1"
  printf '%q ' "${@:2}" >"$run/$1/command"
  start_component "$1"
}

start_component() {
  local command
  eval "command=($(<"$run/$1/command"))"
  launch "$1" nsenter --net="/run/netns/$netns" "${command[@]}"
}

healthy() { inside curl --silent --fail --insecure --max-time 2 "$@" >/dev/null 2>&1; }
etcd_ready() { healthy http://127.0.0.1:2379/health; }
apiserver_ready() { kubectl get --raw /readyz >/dev/null 2>&1; }
containerd_ready() { in_containerd version >/dev/null 2>&1; }
controller-manager_ready() { healthy https://127.0.0.1:10257/healthz; }
scheduler_ready() { healthy https://127.0.0.1:10259/healthz; }
kubelet_ready() { healthy http://127.0.0.1:10248/healthz; }
proxy_ready() { healthy http://127.0.0.1:10256/healthz; }
coredns_ready() { healthy "http://$node_ip:8181/ready"; }
node_ready() { kubectl wait node/node --for=condition=Ready --timeout=1s >/dev/null 2>&1; }

all_alive() { local name; for name in "${components[@]}"; do alive "$name" || return 1; done; }

start_etcd() {
  # Data survives a component's crash, which is all that is asked of it; so nothing waits for the disk.
  component etcd etcd --data-dir "$run/etcd/data" --unsafe-no-fsync --log-level error --logger zap \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
}

start_apiserver() {
  local pki=$run/pki
  component apiserver "$kubernetes_home/kube-apiserver" --etcd-servers http://127.0.0.1:2379 \
    --advertise-address "$node_ip" --secure-port 6443 --service-cluster-ip-range "$service_cidr" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged \
    --client-ca-file "$pki/ca.crt" --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local \
    --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
    --kubelet-certificate-authority "$pki/ca.crt" --kubelet-client-certificate "$pki/apiserver-kubelet.crt" \
    --kubelet-client-key "$pki/apiserver-kubelet.key" --kubelet-preferred-address-types InternalIP \
    --profiling=false --v 1
}

start_controller-manager() {
  local pki=$run/pki
  component controller-manager "$kubernetes_home/kube-controller-manager" \
    --kubeconfig "$run/controller-manager.kubeconfig" --leader-elect=false --use-service-account-credentials \
    --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" \
    --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key" \
    --flex-volume-plugin-dir "$run/controller-manager/plugins" --node-monitor-grace-period 16s --v 1
}

start_scheduler() {
  component scheduler "$kubernetes_home/kube-scheduler" --kubeconfig "$run/scheduler.kubeconfig" --leader-elect=false --v 1
}

start_containerd() {
  mkdir -p "$run/containerd" "$run/cni"
  cat >"$run/cni/10-bridge.conflist" <<CNI
{"cniVersion": "0.4.0", "name": "pg-tide", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$run/ipam", "routes": [{"dst": "0.0.0.0/0"}],
            "ranges": [[{"subnet": "$pod_cidr", "rangeStart": "10.77.0.16", "rangeEnd": "10.77.0.239", "gateway": "$node_ip"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CNI
  cat >"$run/containerd/config.toml" <<TOML
version = 2
root = "$run/containerd/root"
state = "$run/containerd/state"
[grpc]
  address = "$run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$run/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$pause_name"
  restrict_oom_score_adj = true          # lowering it needs a capability that this root may not have
  netns_mounts_under_state_dir = true    # else each pod's namespace is a mount in /run/netns
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$run/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$(snapshotter)"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "$run/containerd/runc"
TOML
  component containerd containerd --config "$run/containerd/config.toml" --log-level error
}

# overlayfs where it works on this file system, else plain copies.
snapshotter() {
  local try=$run/try name=native
  mkdir -p "$try"/{lower,upper,work,merged}
  if mount -t overlay overlay -o "lowerdir=$try/lower,upperdir=$try/upper,workdir=$try/work" "$try/merged" 2>/dev/null; then
    umount "$try/merged"
    name=overlayfs
  fi
  rm -r "$try"
  echo "$name"
}

start_kubelet() {
  mkdir -p "$run/kubelet"
  cat >"$run/kubelet/config.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $run/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $run/pki/kubelet.crt
tlsPrivateKeyFile: $run/pki/kubelet.key
containerRuntimeEndpoint: unix://$run/containerd/containerd.sock
cgroupDriver: cgroupfs
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
localStorageCapacityIsolation: false
resolvConf: ""
makeIPTablesUtilChains: false
clusterDomain: cluster.local
clusterDNS: ["$dns_ip"]
configMapAndSecretChangeDetectionStrategy: Watch   # with syncFrequency: how soon a changed Secret is in a volume
syncFrequency: 2s
nodeStatusUpdateFrequency: 4s
podLogsDir: $run/pod-logs
volumePluginDir: $run/kubelet/plugins
maxPods: 200
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100                   # never: loaded images cannot be pulled again
YAML
  component kubelet "$kubernetes_home/kubelet" --config "$run/kubelet/config.yaml" --kubeconfig "$run/kubelet.kubeconfig" \
    --hostname-override node --node-ip "$node_ip" --root-dir "$run/kubelet/root" --v 1
}

start_proxy() {
  mkdir -p "$run/proxy"
  cat >"$run/proxy/config.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: $pod_cidr
hostnameOverride: node
clientConnection: {kubeconfig: $run/proxy.kubeconfig}
conntrack: {maxPerCore: 0}        # the machine's settings, which it may not change from here
iptables: {masqueradeAll: true}   # pods share one bridge: answers must come back through the node
YAML
  component proxy "$kubernetes_home/kube-proxy" --config "$run/proxy/config.yaml" --v 1
}

# CoreDNS as a process of the node. Names outside of the cluster are refused at once; CoreDNS applies `template` before
# `kubernetes` wherever it stands, so that needs a block of its own.
start_coredns() {
  mkdir -p "$run/coredns"
  cat >"$run/coredns/Corefile" <<CORE
cluster.local:53 in-addr.arpa:53 {
  bind $node_ip
  ready $node_ip:8181
  errors
  cache 1
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $kubeconfig
    ttl 1
  }
}
.:53 {
  bind $node_ip
  template ANY ANY . {
    rcode NXDOMAIN
  }
}
CORE
  component coredns "$coredns_home/coredns" -conf "$run/coredns/Corefile"
}

# The Service behind which pods ask it.
dns_service() {
  kubectl apply -f - <<YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: $dns_ip
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: ["$node_ip"]}]
YAML
}
