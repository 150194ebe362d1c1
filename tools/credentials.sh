#!/bin/sh
# Writes random passwords into a folder, once: what is there stays. `docker compose up` runs it
# before everything else; to choose your own, put files of these names there first.
set -eu
cd "$1"
umask 022 # other containers read them, as other users

random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
once() { [ -e "$1" ] || { cat >"$1.part" && mv "$1.part" "$1"; }; }

# For S3 clients, in the form of AWS's own tools.
once aws <<EOF
[default]
aws_access_key_id = gmem
aws_secret_access_key = $(random)
EOF

# The same for the object store (SeaweedFS).
secret=$(sed -n 's/^aws_secret_access_key = //p' aws)
once object-store.json <<EOF
{"identities": [{"name": "gmem", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
  "credentials": [{"accessKey": "gmem", "secretKey": "$secret"}]}]}
EOF

random | once redis-password
once redis.conf <<EOF
requirepass $(cat redis-password)
appendonly yes
EOF

random | once grafana-password
