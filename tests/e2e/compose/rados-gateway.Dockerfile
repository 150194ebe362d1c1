# Ceph's S3 server on one disk: a monitor, one OSD and the gateway. For tests only.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
        ceph-mon ceph-osd radosgw ceph-common curl && rm -rf /var/lib/apt/lists/*
COPY rados-gateway.sh /rados-gateway.sh
VOLUME /data
ENTRYPOINT ["bash", "/rados-gateway.sh"]
