#!/bin/bash
# Builds stand-ins for the images that docker-compose.yml takes from registries, out of Debian's
# packages, for a machine that can reach none: the same programs, but for Grafana, of which there
# is no package, and the object store, which is a Ceph RADOS gateway instead of SeaweedFS.
#
# usage: standins.sh FOLDER    (kept between runs: the base system takes most of the time)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1
mkdir -p "$work"

have() { docker image inspect "$1" >/dev/null 2>&1; }

debian() {
    have debian:bookworm-slim && return
    if [ ! -e "$work/debian.tar" ]; then
        local root="$work/debian"
        rm -rf "$root"
        debootstrap --variant=minbase --include=ca-certificates,netbase bookworm "$root" >"$work/debootstrap.log"
        # A network may sign with an authority of its own; images learn of it here and only here.
        cp /usr/local/share/ca-certificates/*.crt "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
        cp /etc/apt/sources.list.d/*.sources "$root/etc/apt/sources.list.d/" 2>/dev/null \
            && rm -f "$root/etc/apt/sources.list"
        cp /etc/apt/apt.conf.d/99* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
        chroot "$root" update-ca-certificates >/dev/null 2>&1
        printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
        rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/{doc,man,locale}/*
        tar -C "$root" --numeric-owner -cf "$work/debian.tar" .
    fi
    docker import -c 'CMD ["bash"]' "$work/debian.tar" debian:bookworm-slim >/dev/null
}

# This machine's Python 3.11, laid out as in the official image.
python() {
    have python:3.11-slim-bookworm && return
    local prefix context="$work/python"
    prefix=$(python3.11 -c 'import sys; print(sys.base_prefix)')
    rm -rf "$context" && mkdir -p "$context/local/bin" "$context/local/lib"
    cp -a "$prefix"/include "$context/local/"
    cp -a "$prefix"/lib/libpython3* "$context/local/lib/"
    tar -C "$prefix/lib" -c --exclude='site-packages/*' --exclude='*/test' --exclude=__pycache__ \
        --exclude='config-*' python3.11 | tar -C "$context/local/lib" -x
    cp -a "$prefix/bin/python3.11" "$context/local/bin/"
    ln -s python3.11 "$context/local/bin/python3"
    ln -s python3 "$context/local/bin/python"
    docker build -q -t python:3.11-slim-bookworm -f - "$context" >/dev/null <<'EOF'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends libssl3 libffi8 libsqlite3-0 \
    libbz2-1.0 liblzma5 libreadline8 libncursesw6 zlib1g libuuid1 libexpat1 libnsl2 libtirpc3 \
    && rm -rf /var/lib/apt/lists/*
COPY local /usr/local
RUN ldconfig && python3 -m ensurepip && ln -sf pip3 /usr/local/bin/pip
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
EOF
}

redis() {
    have redis:7.4-bookworm && return
    docker build -q -t redis:7.4-bookworm - >/dev/null <<'EOF'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* && mkdir /data && chown redis:redis /data
WORKDIR /data
VOLUME /data
EOF
}

prometheus() {
    have prom/prometheus:v3.5.0 && return
    docker build -q -t prom/prometheus:v3.5.0 - >/dev/null <<'EOF'
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends prometheus \
    && rm -rf /var/lib/apt/lists/* /etc/prometheus && mkdir /prometheus \
    && chown nobody /prometheus
USER nobody
WORKDIR /prometheus
VOLUME /prometheus
ENTRYPOINT ["prometheus"]
EOF
}

object_store() {
    have gmem-test/rados-gateway && return
    docker build -q -t gmem-test/rados-gateway -f "$here/rados-gateway.Dockerfile" "$here" >/dev/null
}

debian
python
redis &
prometheus &
object_store &
wait
