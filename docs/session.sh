#!/usr/bin/env bash
# Records docs/session.svg: a real copy that is interrupted and resumed, from an embedded
# DynamoDB server. It needs asciinema, and svg-term of npm (SVG_TERM, or npx fetches it).
# Look at the result before you commit it.
set -euo pipefail
cd "$(dirname "$0")/.."
go build -o bin/dyn2raft ./cmd/dyn2raft
work=$(mktemp -d)
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
cat >"$work/play" <<'PLAY'
type() {
	printf '\e[1;32m$\e[0m '
	for ((i = 0; i < ${#1}; i++)); do printf %s "${1:i:1}"; sleep 0.03; done
	printf '\n'
}
type "dyn2raft copy -config migrate.hcl -source-stopped"
dyn2raft copy -config migrate.hcl -source-stopped -max-parallel 3 -log-level warn &
copy=$!
sleep 6
kill -INT $copy
wait $copy || true
sleep 2
type "dyn2raft status -config migrate.hcl"
dyn2raft status -config migrate.hcl || true
sleep 3
type "dyn2raft copy -config migrate.hcl -source-stopped -resume"
dyn2raft copy -config migrate.hcl -source-stopped -resume -log-level warn
sleep 3
type "dyn2raft verify -config migrate.hcl"
dyn2raft verify -config migrate.hcl -log-level warn
sleep 5
PLAY
(cd "$work" && PATH="$OLDPWD/bin:$PATH" asciinema rec -q --overwrite --cols 90 --rows 34 -i 3 \
	-c "bash play" session.cast)
${SVG_TERM:-npx --yes svg-term-cli@2.1.1} --in "$work/session.cast" --out docs/session.svg \
	--window --width 90 --height 34
