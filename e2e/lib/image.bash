# Container images without a container tool: sourced by e2e/image and the scripts of e2e/cluster. An image is one layer,
# made from a folder; the same folder makes the same bytes.

# image_root ROOT PROGRAM...: puts the programs into /usr/local/bin of the folder, with all that they need from this
# machine: the loader and the shared libraries that ldd reports, what names are looked up by (the C library loads that
# by itself), the roots of TLS, a user.
image_root() {
  local root=$1 library libc; shift
  mkdir -p "$root"/{tmp,usr/local/bin,etc/ssl/certs}
  chmod 755 "$root"; chmod 1777 "$root/tmp"
  [ $# = 0 ] || install_files 755 "$root/usr/local/bin" "$@"
  image_libraries "$root" | while read -r library; do
    [ -e "$root$library" ] || install_files 755 "$root${library%/*}" "$library"
  done
  libc=$(find "$root" -name libc.so.6 -print -quit)
  if [ -n "$libc" ]; then
    libc=${libc#"$root"}
    for library in libnss_files.so.2 libnss_dns.so.2 libresolv.so.2; do
      [ ! -e "${libc%/*}/$library" ] || install_files 755 "$root${libc%/*}" "${libc%/*}/$library"
    done
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
  fi
  echo 'nonroot:x:65532:65532::/tmp:/' >"$root/etc/passwd"
  echo 'nonroot:x:65532:' >"$root/etc/group"
  install_files 644 "$root/etc/ssl/certs" /etc/ssl/certs/ca-certificates.crt
}

install_files() { local mode=$1 folder=$2; shift 2; mkdir -p "$folder"; command install -m "$mode" -t "$folder" "$@"; }

# The shared libraries of a folder's programs, at their paths on this machine. ldd fails on what is linked statically.
image_libraries() {
  find "$1" -type f -perm /111 | while read -r program; do { ldd "$program" 2>/dev/null || true; }; done |
    grep -o '/[^ ]*' | sort -u || true
}

# image_hash ROOT: of the folder's contents, 12 digits.
image_hash() { image_tar "$1" | sha256sum | cut -c 1-12; }

image_tar() {
  tar --create --directory "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu .
}

# image_archive ROOT ARCHIVE NAME:TAG PROGRAM [gzip]: writes an OCI archive that `docker load` takes as well. The entry
# point is the program; the user 65532.
image_archive() {
  local root=$1 archive=$2 name=$3 program=$4 media=application/vnd.oci.image.layer.v1.tar work layer diff config manifest
  work=$(mktemp -d)
  mkdir -p "$work/blobs/sha256"
  diff=$(image_tar "$root" | tee "$work/layer" | sha256sum | cut -d ' ' -f 1)
  if [ "${5:-}" = gzip ]; then
    gzip -n "$work/layer"
    mv "$work/layer.gz" "$work/layer"
    media+=+gzip
  fi
  layer=$(image_blob "$work" <"$work/layer")
  rm "$work/layer"
  config=$(image_blob "$work" <<JSON
{"architecture":"$(dpkg --print-architecture)","os":"linux","config":{"User":"65532:65532","WorkingDir":"/","Entrypoint":["$program"],"Env":["PATH=/usr/local/bin","SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"]},"rootfs":{"type":"layers","diff_ids":["sha256:$diff"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"e2e/lib/image.bash"}]}
JSON
  )
  manifest=$(image_blob "$work" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$(image_size "$work" "$config")},"layers":[{"mediaType":"$media","digest":"sha256:$layer","size":$(image_size "$work" "$layer")}]}
JSON
  )
  echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
  cat >"$work/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$(image_size "$work" "$manifest"),"annotations":{"io.containerd.image.name":"$(image_full_name "$name")","org.opencontainers.image.ref.name":"${name##*:}"}}]}
JSON
  echo "[{\"Config\":\"blobs/sha256/$config\",\"RepoTags\":[\"$name\"],\"Layers\":[\"blobs/sha256/$layer\"]}]" >"$work/manifest.json"
  tar --create --directory "$work" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu \
    --file "$archive.new" oci-layout index.json manifest.json blobs
  mv "$archive.new" "$archive"
  rm -r "$work"
}

# Keeps what comes in under its digest, which it prints.
image_blob() {
  local digest
  digest=$(tee "$1/blob" | sha256sum | cut -d ' ' -f 1)
  mv "$1/blob" "$1/blobs/sha256/$digest"
  echo "$digest"
}
image_size() { stat -c %s "$1/blobs/sha256/$2"; }

# As the node knows a name without a registry.
image_full_name() { case $1 in *.*/* | localhost/*) echo "$1" ;; */*) echo "docker.io/$1" ;; *) echo "docker.io/library/$1" ;; esac; }
