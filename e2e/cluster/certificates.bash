# Keys, certificates and kubeconfigs of the cluster, made anew for each. Sourced, after components.bash.

certificates() {
  mkdir -p "$run/pki"
  chmod 700 "$run/pki"
  (
    cd "$run/pki"
    openssl ecparam -genkey -name prime256v1 -noout -out ca.key
    openssl req -x509 -new -key ca.key -subj /CN=pg-tide-cluster -days 3650 -out ca.crt
    openssl genrsa -out sa.key 2048 2>/dev/null
    openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
    names=IP:$api_ip,IP:$node_ip,IP:127.0.0.1,DNS:localhost
    for name in kubernetes kubernetes.default kubernetes.default.svc kubernetes.default.svc.cluster.local; do
      names+=,DNS:$name
    done
    certificate apiserver /CN=kube-apiserver "$names"
    certificate apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
    certificate kubelet /O=system:nodes/CN=system:node:node "IP:$node_ip,DNS:node"
    certificate admin /O=system:masters/CN=admin
    certificate controller-manager /CN=system:kube-controller-manager
    certificate scheduler /CN=system:kube-scheduler
    certificate proxy /CN=system:kube-proxy
  )
}

certificate() { # name subject [subjectAltName]
  openssl ecparam -genkey -name prime256v1 -noout -out "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$1.crt" \
    -extfile <(echo "extendedKeyUsage=serverAuth,clientAuth"; [ -z "${3:-}" ] || echo "subjectAltName=$3") 2>/dev/null
}

kubeconfigs() {
  local name file ca
  ca=$(base64 -w 0 "$run/pki/ca.crt")
  for name in admin controller-manager scheduler kubelet proxy; do
    file=$run/$name.kubeconfig
    (umask 077; cat >"$file" <<YAML)
apiVersion: v1
kind: Config
clusters: [{name: pg-tide, cluster: {server: "https://$node_ip:6443", certificate-authority-data: $ca}}]
contexts: [{name: pg-tide, context: {cluster: pg-tide, user: $name}}]
current-context: pg-tide
users:
- name: $name
  user:
    client-certificate-data: $(base64 -w 0 "$run/pki/$name.crt")
    client-key-data: $(base64 -w 0 "$run/pki/$name.key")
YAML
  done
}
