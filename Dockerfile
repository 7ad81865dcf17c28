# One static binary on an empty image. How to build it: docs/install.md, "Build the image".
ARG RUST_VERSION=1.95.0

FROM rust:${RUST_VERSION}-slim-bookworm AS build
# musl: mimalloc is C. libcap2-bin: setcap.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libcap2-bin musl-tools \
    && rm -rf /var/lib/apt/lists/*
ARG RUST_VERSION
# The image's own toolchain, so that rust-toolchain.toml does not fetch rustfmt and clippy.
ENV RUSTUP_TOOLCHAIN=${RUST_VERSION}
RUN rustup target add "$(uname -m)-unknown-linux-musl"
WORKDIR /src
COPY . .
# The same source and toolchain give the same bytes: no paths, no times, no build id, one locked set of dependencies.
ARG SOURCE_DATE_EPOCH=0
ENV SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} \
    CARGO_INCREMENTAL=0 \
    RUSTFLAGS="--remap-path-prefix=/src=. --remap-path-prefix=/usr/local/cargo=cargo -Ctarget-feature=+crt-static -Clink-arg=-Wl,--build-id=none"
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    target="$(uname -m)-unknown-linux-musl" \
    && cargo build --release --locked --bin nodens --target "$target" --target-dir /build \
    && install -D -m 0755 "/build/$target/release/nodens" /out/nodens \
    && touch --date="@$SOURCE_DATE_EPOCH" /out/nodens
# Permitted, not effective: with `e` the kernel would refuse to start it at all where the container lacks one of the two.
# nodens raises what it needs by itself. Why a non-root user keeps them: docs/install.md, "Privileges".
RUN setcap cap_net_admin,cap_net_bind_service=p /out/nodens

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="nodens" \
      org.opencontainers.image.description="A node-local caching DNS forwarder for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /out/nodens /nodens
USER 65532:65532
ENTRYPOINT ["/nodens"]
CMD ["run"]
