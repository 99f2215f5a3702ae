#!/usr/bin/env bash
# Makes docs/report.png: the first screen of the report of a real copy, which is
# interrupted, resumed and verified, from an embedded DynamoDB server. It needs Chromium
# (in PATH, or $BROWSER). Look at the result before you commit it.
set -euo pipefail
cd "$(dirname "$0")/.."
go build -o bin/dyn2raft ./cmd/dyn2raft
work=$(mktemp -d /tmp/vault.XXX)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
bin/dyn2raft demo -serve -entries 400000 -latency 5ms -throughput 20MB >"$work/served" 2>&1 &
server=$!
until grep -q 'http://' "$work/served"; do
	kill -0 "$server" || { cat "$work/served" >&2; exit 1; }
	sleep 0.2
done
cat >"$work/migrate.hcl" <<HCL
storage_source "dynamodb" {
  endpoint   = "$(grep -o 'http://[0-9.:]*' "$work/served" | head -n 1)"
  region     = "eu-central-1"
  access_key = "any"
  secret_key = "any"
}
storage_destination "raft" {
  path    = "$work/data"
  node_id = "vault_1"
}
cluster_addr = "https://10.0.1.21:8201"
HCL
mkdir -m 0700 "$work/data"
PATH=$PWD/bin:$PATH
repository=$PWD
cd "$work"
dyn2raft copy -config migrate.hcl -source-stopped -max-parallel 3 -log-level error &
copy=$!
sleep 6
kill -INT $copy
! wait $copy # it was interrupted
dyn2raft copy -config migrate.hcl -source-stopped -resume -log-level error
dyn2raft verify -config migrate.hcl -o verify.json -log-level error
dyn2raft report -manifest data.dyn2raft.json -verify verify.json -o report.html
"${BROWSER:-chromium}" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/browser" \
	--blink-settings=preferredColorScheme=1 --window-size=780,930 --screenshot="$work/report.png" "file://$work/report.html" 2>"$work/log"
mv report.png "$repository/docs/report.png"
