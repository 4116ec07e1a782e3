# The image of pg-tide's programs, for those who have Docker: docker build -t pg-tide .
# `make image` makes the same without Docker, by the same e2e/lib/image.bash.
FROM docker.io/library/rust:1.95.0-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates cmake libcurl4-openssl-dev libssl-dev libzstd-dev pkg-config zlib1g-dev
WORKDIR /src
COPY . .
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN programs=(pg-tide pg-tide-operator); cargo build --locked --release "${programs[@]/#/--package=}"; \
    cd target/release; strip "${programs[@]}"; \
    . /src/e2e/lib/image.bash; image_root /image "${programs[@]}"

FROM scratch
COPY --from=build /image /
ENV PATH=/usr/local/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/pg-tide"]
