#!/bin/bash
# Starts monitor, OSD and gateway on the data in /data; the first start makes them. The S3 user is
# the one of /run/credentials/aws. Settings that look odd: a single monitor agrees with itself in
# milliseconds instead of seconds, and one OSD is all the replicas there are.
set -euo pipefail
data=/data
address=$(hostname -i | cut -d' ' -f1)
credential() { sed -n "s/^$1 = //p" /run/credentials/aws; }

[ -e $data/fsid ] || cat /proc/sys/kernel/random/uuid >$data/fsid
cat >/etc/ceph/ceph.conf <<EOF
[global]
fsid = $(cat $data/fsid)
mon initial members = a
mon host = [v2:127.0.0.1:3300]
keyring = $data/keyring
auth allow insecure global id reclaim = false
setuser match path = ""
mon data = $data/mon
mon allow pool size one = true
mon max pg per osd = 1000
mon osd full ratio = 0.95
paxos propose interval = 0.05
osd data = $data/osd
osd objectstore = bluestore
bluestore block size = 1073741824
bluestore block db create = false
bluestore block wal create = false
osd memory target = 939524096
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
public addr = 127.0.0.1
cluster addr = 127.0.0.1
log to file = false
log to stderr = true
rgw frontends = beast endpoint=0.0.0.0:8333 tcp_nodelay=1
rgw relaxed s3 bucket names = true
EOF

if [ ! -e $data/made ]; then
    rm -rf $data/mon $data/osd && mkdir -p $data/mon $data/osd
    auth() { ceph-authtool "$@" >/dev/null; }
    auth --create-keyring $data/keyring --gen-key -n mon. --cap mon 'allow *'
    auth $data/keyring --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
    auth $data/keyring --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
    auth $data/keyring --gen-key -n client.rgw --cap mon 'allow rw' --cap osd 'allow rwx'
    monmaptool --create --fsid "$(cat $data/fsid)" --clobber \
        --addv a '[v2:127.0.0.1:3300]' /tmp/monmap >/dev/null
    ceph-mon --mkfs -i a --monmap /tmp/monmap --keyring $data/keyring
fi
ceph-mon -i a -f &
if [ ! -e $data/made ]; then
    cat /proc/sys/kernel/random/uuid >$data/osd-id
    ceph osd new "$(cat $data/osd-id)" >/dev/null
    ceph-osd -i 0 --mkfs --osd-uuid "$(cat $data/osd-id)"
    ceph osd crush add osd.0 1.0 root=default host="$(hostname)" >/dev/null
fi
ceph-osd -i 0 -f &
if [ ! -e $data/made ]; then
    radosgw-admin user create --uid=gmem --display-name=gmem \
        --access-key="$(credential aws_access_key_id)" \
        --secret-key="$(credential aws_secret_access_key)" >/dev/null
    touch $data/made
fi
radosgw -n client.rgw -f &
trap 'kill $(jobs -p) 2>/dev/null; wait' TERM
wait -n # a part that ends takes the others with it
