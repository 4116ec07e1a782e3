# Where the cluster's things are, and its addresses: sourced by the scripts of e2e/cluster. Reads TIDE_CACHE and
# TIDE_CLUSTER_DIR.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
. "$here/lib/paths.bash"

kubernetes_home=$cache/kubernetes-$KUBERNETES_VERSION
coredns_home=$cache/coredns-$COREDNS_VERSION
pause_image=$kubernetes_home/pause.tar
pause_name=pg-tide/pause:1

# All state: certificates, logs, sockets, etcd's data, containers. Sockets lie here, whose paths must be short.
run=$(realpath -m "${TIDE_CLUSTER_DIR:-/tmp/pg-tide-cluster}")
kubeconfig=$run/admin.kubeconfig

# The node is a network namespace. These names and addresses are the same for everybody, so there is one cluster a
# machine.
netns=pg-tide-node
host_link=pg-tide-host                        # this machine's end of the veth pair into it
node_link=pg-tide-node
node_ip=10.77.0.1                             # the bridge inside it; pods get addresses of the same /24
host_ip=10.77.0.254                           # this machine, as pods see it
pod_cidr=10.77.0.0/24
service_cidr=10.96.0.0/16
api_ip=10.96.0.1
dns_ip=10.96.0.10                             # the cluster's DNS Service
