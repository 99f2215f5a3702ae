#!/usr/bin/env bash
# The whole of runbook.md on this machine, from an empty directory: a Vault that serves
# from DynamoDB is moved to a Raft cluster of three nodes, and back. It runs the runbook's
# own commands, and fails at the first that is wrong, and at one that the runbook prints
# and nobody runs here. `make rehearsal` builds and fetches what it needs:
#
#	VAULT_BIN         a Vault (`make vault` builds one)
#	DYN2RAFT_BIN      dyn2raft
#	DYNAMODB_ENDPOINT a DynamoDB to use; or else
#	DYNAMODB_LOCAL    the folder of AWS's DynamoDB Local, which needs java; or else
#	                  the server that `dyn2raft demo -serve` brings along
#	KEEP=1            leave the directory with all files and logs
#
# The hosts are directories, their addresses ports of 127.0.0.1, sudo and systemd a few
# lines below. Nothing outside that directory is touched, but for two tables of its own in
# DYNAMODB_ENDPOINT, which stay; and every process ends with this one.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
RUNBOOK=${RUNBOOK:-$here/runbook.md}
pages=("$RUNBOOK" "$here/go-back.md" "$here/errors.md")
VAULT_BIN=${VAULT_BIN:?names a Vault; make rehearsal sets it}
DYN2RAFT_BIN=${DYN2RAFT_BIN:?names a dyn2raft; make rehearsal sets it}
absolute() {
	case $1 in
	*/*) (cd "$(dirname "$1")" && echo "$PWD/${1##*/}") ;;
	*) [ "$(id -u)" != 0 ] || { echo "as root name it with its path, and not by PATH: $1" >&2; return 1; }; command -v "$1" ;;
	esac
}
VAULT_BIN=$(absolute "$VAULT_BIN") && DYN2RAFT_BIN=$(absolute "$DYN2RAFT_BIN") || exit 1

# What the runbook prints and this can't run: there is no AWS and no vault-benchmark here,
# and DynamoDB Local makes no backups.
left_out='aws *
vault-benchmark *
sudo -u vault dyn2raft copy * -replace -backup *'

case ${TMPDIR:-} in *[!A-Za-z0-9/._-]*)
	echo "TMPDIR is $TMPDIR: the runbook's commands are run as they are printed, without quotes round paths; name a directory without blanks and signs" >&2
	exit 1 ;;
esac
work=$(mktemp -d "${TMPDIR:-/tmp}/dyn2raft-rehearsal-XXXXXX") || exit 1
current=start
exec 3>&2 # where finish says what went wrong, whatever is redirected then

# --- telling, and ending ---------------------------------------------------------------

step() {
	current=$*
	printf '\n==> %d s: %s\n' "$SECONDS" "$*"
}

fail() {
	echo "in step \"$current\": $*" >"$work/failed"
	exit 1
}

# finish ends what was started, each by its process id.
finish() {
	status=$?
	trap '' INT TERM HUP
	local file
	for file in "$work"/*/pid; do
		[ ! -e "$file" ] || kill "$(cat "$file")" 2>/dev/null
	done
	for file in "$work"/*/pid; do
		[ ! -e "$file" ] || end "$(dirname "$file")" || status=1
	done
	if [ -e "$work/failed" ]; then
		tail -n 15 "$work"/*/log >&3 2>/dev/null
		printf '\nREHEARSAL FAILED %s\n' "$(cat "$work/failed")" >&3
		status=1
	fi
	cd / || true
	if [ -n "${KEEP:-}" ]; then echo "kept: $work" >&3; else rm -rf "$work"; fi
	exit "$status"
}
trap finish EXIT
trap 'fail "interrupted"' INT TERM HUP

# begin DIR PROGRAM ARGS… runs a server in the background and in DIR, with its pid and its
# log there.
begin() {
	local dir=$1
	shift
	mkdir -p "$dir"
	(cd "$dir" && exec "$@") >>"$dir/log" 2>&1 3>&- &
	echo $! >"$dir/pid"
}

# A process that has ended can stay a zombie, where nobody waits for it.
running() {
	[ -e "$1/pid" ] && kill -0 "$(cat "$1/pid")" 2>/dev/null &&
		! grep -q '^State:.Z' "/proc/$(cat "$1/pid")/status" 2>/dev/null
}

# end DIR ends that server in order, or by force where it takes 30 s; the system may need
# some time for that, too.
end() {
	local tries
	for tries in $(seq 300); do
		running "$1" || break
		[ "$tries" != 1 ] || kill "$(cat "$1/pid")" 2>/dev/null || true
		[ "$tries" != 150 ] || kill -9 "$(cat "$1/pid")" 2>/dev/null || true
		sleep 0.2
	done
	if running "$1"; then
		echo "$1 does not end" >&2
		return 1
	fi
	rm -f "$1/pid"
}

# eventually SECONDS WHAT COMMAND… tries until the command succeeds.
eventually() {
	local until=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >"$work/tried" 2>&1; do
		[ $SECONDS -lt $until ] || fail "$what: not within the time: $(tail -n 3 "$work/tried")"
		sleep 0.3
	done
}

# want TEXT COMMAND… wants the command to succeed and to print the text.
want() {
	local text=$1
	shift
	"$@" >"$work/out" 2>&1 || fail "$*: exit status $?: $(tail -n 5 "$work/out")"
	grep -qF -- "$text" "$work/out" || fail "$* does not say \"$text\": $(tail -n 5 "$work/out")"
}

# --- the hosts, and what the runbook's commands find there -------------------------------

host=
on() {
	host=$1
	export VAULT_ADDR=http://127.0.0.1:$(port "$1")
}

# Each host has a port for Vault's API, and the next one for the cluster.
port() { cat "$work/$1/port"; }

# here_on puts this machine's paths and addresses for the runbook's.
here_on() {
	local p first
	p=$(port "$host")
	first=$(port vault_1)
	sed -e "s|/etc/vault.d/|$work/$host/etc/|g; s|/opt/vault|$work/$host/opt|g; s|/var/lib|$work/$host/lib|g" \
		-e "s|/mnt/vault-2|$work/vault_2/opt|g; s|/var/log/vault|$work/$host/audit|g" \
		-e "s|https://10.0.1.21:8200|http://127.0.0.1:$first|g; s|https://10.0.1.21:8201|https://127.0.0.1:$((first + 1))|g" \
		-e "s|-o vault -g vault|-o $(id -un) -g $(id -gn)|g"
}

vault() { "$VAULT_BIN" "$@"; }

# Where EXEC is set dyn2raft takes this shell's place, so that a signal to it arrives.
dyn2raft() { ${EXEC:-} "$DYN2RAFT_BIN" "$@"; }

# As with the real one, Vault's settings get through only where they are preserved. AWS's
# do always, in place of an instance role.
sudo() {
	local name preserved=
	while :; do
		case $1 in
		--preserve-env=*) preserved=,${1#*=}, && shift ;;
		-u) shift 2 ;;
		*) break ;;
		esac
	done
	for name in VAULT_ADDR VAULT_TOKEN; do
		case $preserved in *,$name,*) ;; *) local "$name=" ;; esac
	done
	"$@"
}

systemctl() {
	case "$*" in
	"enable --now vault") begin "$work/$host" "$VAULT_BIN" server -config "$work/$host/etc/vault.hcl" ;;
	"disable --now vault" | "stop vault") end "$work/$host" ;;
	"is-active vault") if running "$work/$host"; then echo active; else echo inactive; fi ;;
	*) return 1 ;;
	esac
}

# commands are the lines of shell that the runbook prints, and the pages that it sends its
# reader to, without comments at their end.
commands() {
	awk '/^```/ { fence = !fence } !fence && sub(/^    +/, "")' "${pages[@]}" |
		sed -n -E 's/ +#.*//; /^(sudo|dyn2raft|vault|vault-benchmark|aws) /p'
}

# run LINE [ARGS…] runs a command of the runbook on this host, with the arguments in place
# of its … or at its end.
run() {
	grep -qxF -- "$1" "$work/commands" || fail "the runbook does not print: $1"
	local line
	line=$(here_on <<<"$1")
	shift
	case $line in
	*…) line=${line%…}$(printf '%q ' "$@") ;;
	*) [ $# = 0 ] || line="$line $(printf '%q ' "$@")" ;;
	esac
	echo "[$host] \$ $line"
	(cd "$work" && eval "$line")
}

# must is run for a command that has to succeed.
must() { run "$@" || fail "$1: exit status $?"; }

# fence WORD is the first fenced block of the runbook that has this word.
fence() {
	awk -v word="$1" '/^```/ { if (open && index(text, word)) { printf "%s", text; exit } open = !open; text = ""; next } open { text = text $0 "\n" }' "${pages[@]}"
}

# free_port sets port to one that nobody listens on, nor on the next. Two rehearsals at
# the same time look in different places, and below 18000, above which other tests look.
port_from=$((10000 + $$ % 500 * 16))
free_port() {
	port=$port_from
	while (exec 3<>"/dev/tcp/127.0.0.1/$port" || exec 3<>"/dev/tcp/127.0.0.1/$((port + 1))") 2>/dev/null; do
		port=$((port + 2))
	done
	port_from=$((port + 2))
}

# server_config WORD NODE is a server's file of the runbook, the first with that word and for
# that node, made for this host: with its id, on its ports, and without TLS.
server_config() {
	local p
	p=$(port "$host")
	echo "# as the package leaves it" >"$work/$host/etc/vault.env"
	fence "$1" | sed -E "s|\"$2\"|\"$host\"|; s|0\.0\.0\.0:8200|127.0.0.1:$p|; s|0\.0\.0\.0:8201|127.0.0.1:$((p + 1))|
		s|tls_cert_file .*|tls_disable = true|; /tls_key_file|leader_ca_cert_file/d
		s|^(api_addr .*)https://[^\"]*|\1http://127.0.0.1:$p|; s|^(cluster_addr .*)https://[^\"]*|\1https://127.0.0.1:$((p + 1))|" |
		here_on >"$work/$host/etc/vault.hcl"
}

# joined: it has the seal of the cluster, and not none.
joined() { grep -qE '^Initialized +true' <<<"$(vault status)"; }

answers() { vault status >/dev/null 2>&1 || [ $? = 2 ]; } # 2 is sealed

# active: this host is the leader. standby: it is not, and knows who is.
active() { grep -qE '^HA Mode +active' <<<"$(vault status)"; }
standby() { grep -qE '^Active Node Address +http' <<<"$(vault status)"; }

healthy() { vault operator raft autopilot state | grep -qE '^Healthy: +true'; }

not() { ! "$@"; }

refused() {
	vault status >"$work/out" 2>&1
	grep -q 'connection refused' "$work/out" || fail "a Vault still answers on $host"
}

unseal() {
	eventually 120 "$host answers" answers
	local key
	for key in $keys; do
		# A node that joins takes the keys once it has found the leader.
		eventually 120 "$host takes a key" run 'vault operator unseal' "$key"
	done
}

# --- what is put in, and must be there at every step -------------------------------------

fill() {
	want Success vault secrets enable -path=kv -version=1 kv
	want Success vault secrets enable -path=secret -version=2 kv
	want Success vault secrets enable transit
	want Success vault auth enable userpass
	want Success vault write auth/userpass/users/ann password=a-password policies=readers token_ttl=24h
	want Success vault policy write readers - <<<'path "kv/*" { capabilities = ["read"] }'
	want Success vault kv put kv/known value=first
	want Success vault kv put kv/_hidden value=second # one that Vault's own migration loses
	want Success vault kv put kv/deep/ünïcode/name value=third
	eventually 120 "the KV v2 mount is ready" vault kv put secret/known value=old
	want version vault kv put secret/known value=fourth
	want Key vault write -f transit/keys/main
	ciphertext=$(vault write -field=ciphertext transit/encrypt/main plaintext="$(printf 'fifth' | base64)") || fail "transit encrypts nothing"
	token=$(vault token create -policy=readers -ttl=48h -field=token) || fail "no token"
	login=$(vault write -field=token auth/userpass/login/ann password=a-password) || fail "no login"
	head -c 200000 /dev/urandom | base64 | tr -d '\n' >"$work/large"
	local i
	for i in $(seq 8); do want Success vault kv put "kv/large/$i" value=@"$work/large"; done
}

# look reads and uses all of it on this host, through the runbook's commands where it has one.
look() {
	echo "[$host] every secret, policy, token, lease and key from before"
	want first vault kv get -field=value kv/known
	want second vault kv get -field=value kv/_hidden
	want third vault kv get -field=value kv/deep/ünïcode/name
	want fourth vault kv get -field=value secret/known
	want old vault kv get -field=value -version=1 secret/known
	want "$(tail -c 100 "$work/large")" vault kv get -field=value kv/large/8
	want "$(printf 'fifth' | base64)" vault write -field=plaintext transit/decrypt/main ciphertext="$ciphertext"
	want 'path "kv/*"' vault policy read readers
	want readers vault token lookup "$token"
	want readers vault token lookup "$login"
	want first env VAULT_TOKEN="$login" "$VAULT_BIN" kv get -field=value kv/known
	want Keys vault list sys/leases/lookup/auth/userpass/login/ann
	want s. vault write -field=token auth/userpass/login/ann password=a-password
}

# --- the rehearsal -----------------------------------------------------------------------

step "what the runbook prints is what is run here"
commands >"$work/commands"
while read -r line; do
	known=
	while read -r pattern; do
		# shellcheck disable=SC2254
		case $line in $pattern) known=1 ;; esac
	done <<<"$left_out"
	[ -n "$known" ] || grep -qF -e "'$line'" "${BASH_SOURCE[0]}" || fail "the runbook prints a command that is not rehearsed: $line"
done <"$work/commands"
while read -r line; do
	grep -qxF -e "$line" "$work/commands" || fail "the runbook does not print: $line"
done < <(sed -n -E "s/^[[:space:]]*(must |copy=)'([^']+)'.*/\2/p" "${BASH_SOURCE[0]}")
echo "$(wc -l <"$work/commands") commands in the runbook"

# Nothing of this machine's own settings reaches the programs.
for name in $(compgen -e | grep -E '^(VAULT|AWS|DYNAMODB)_' | grep -vE '^(VAULT_BIN|DYNAMODB_LOCAL|DYNAMODB_ENDPOINT)$'); do
	case $name-${DYNAMODB_ENDPOINT:+given} in AWS_*-given) ;; *) unset "$name" ;; esac # its credentials
done
export HOME=$work/home VAULT_CLIENT_TIMEOUT=30s
mkdir -p "$HOME"
for h in a vault_1 vault_2 vault_3; do
	mkdir -p "$work/$h/etc" "$work/$h/opt"
	free_port
	echo "$port" >"$work/$h/port"
done

backup=()
if [ -n "${DYNAMODB_ENDPOINT:-}" ]; then
	step "use the DynamoDB at $DYNAMODB_ENDPOINT"
	endpoint=$DYNAMODB_ENDPOINT
elif [ -n "${DYNAMODB_LOCAL:-}" ]; then
	step "start AWS's DynamoDB Local, which makes no backups"
	free_port
	begin "$work/dynamodb" java -Djava.library.path="$DYNAMODB_LOCAL/DynamoDBLocal_lib" -jar "$DYNAMODB_LOCAL/DynamoDBLocal.jar" -inMemory -sharedDb -port "$port"
	endpoint=http://127.0.0.1:$port
	eventually 120 "DynamoDB Local answers" bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
else
	step "start dyn2raft demo -serve, an embedded DynamoDB server"
	begin "$work/dynamodb" "$DYN2RAFT_BIN" demo -serve -entries 1000
	eventually 120 "the server listens" grep -q '^listening on ' "$work/dynamodb/log"
	endpoint=$(sed -n 's/^listening on //p' "$work/dynamodb/log")
	backup=(-backup vault-prod-before-raft)
fi
# As in a shell on AWS, only that the endpoint is another one; and a table of our own.
export AWS_DYNAMODB_ENDPOINT=$endpoint AWS_EC2_METADATA_DISABLED=true
export AWS_DYNAMODB_TABLE=vault-rehearsal-$$-$RANDOM
[ -n "${DYNAMODB_ENDPOINT:-}" ] || export AWS_ACCESS_KEY_ID=anything AWS_SECRET_ACCESS_KEY=anything

step "cluster A: a Vault on DynamoDB, with data"
on a
cat >"$work/a/etc/vault.hcl" <<EOF
disable_mlock = true
listener "tcp" {
  address         = "127.0.0.1:$(port a)"
  cluster_address = "127.0.0.1:$(($(port a) + 1))"
  tls_disable     = true
}
storage "dynamodb" {
  ha_enabled = "true"
  region     = "eu-central-1"
}
api_addr     = "$VAULT_ADDR"
cluster_addr = "https://127.0.0.1:$(($(port a) + 1))"
EOF
must 'sudo systemctl enable --now vault'
eventually 120 "cluster A answers" answers
vault operator init -key-shares=3 -key-threshold=2 >"$work/init" 2>&1 || fail "initialise: $(cat "$work/init")"
keys=$(awk '/^Unseal Key [12]:/ { print $4 }' "$work/init")
export VAULT_TOKEN
VAULT_TOKEN=$(awk '/^Initial Root Token:/ { print $4 }' "$work/init")
unseal
eventually 120 "cluster A serves" active
fill
look

step "before the night: what else cluster A needs"
mkdir -p "$work/audit"
want Success vault audit enable file file_path="$work/audit/audit.log"
must 'vault audit list -detailed'
must 'vault plugin list -detailed' >"$work/out" || exit 1
must 'vault secrets list -detailed'

step "3.1 to 3.3, the days before: the first node's directory and migrate.hcl"
on vault_1
must 'sudo install -d -o vault -g vault -m 0755 /opt/vault'
must 'sudo install -d -o vault -g vault -m 0700 /opt/vault/data'
fence storage_source | here_on >"$work/vault_1/etc/migrate.hcl"
for h in vault_1 vault_2 vault_3; do
	on "$h"
	mkdir -p -m 0700 "$work/$h/opt/data"
	must 'sudo install -d -o vault -g vault -m 0750 /var/log/vault'
done
# The runbook's files: the second node joins by itself, the third is told to.
on vault_1 && server_config 'storage "raft"' vault_1
on vault_2 && server_config retry_join vault_2
on vault_3 && server_config 'storage "raft"' vault_1

step "the evening before: dyn2raft plan, while cluster A serves"
on vault_1
must 'sudo -u vault dyn2raft plan -config /etc/vault.d/migrate.hcl -vault-config /etc/vault.d/vault.hcl -vault-env /etc/vault.d/vault.env' | tee "$work/out" || exit 1
! grep -E '^(WARNING|FAILURE) +server-' "$work/out" || fail "the runbook's own stanzas do not pass"

step "2 stop cluster A"
on a
must 'sudo systemctl disable --now vault'
[ "$(systemctl is-active vault)" = inactive ] || fail "cluster A is active"
refused
grep -q 'cluster listeners successfully shut down' "$work/a/log" || fail "its log does not say that it ended in order"

step "3.4 copy, interrupted by Ctrl-C"
on vault_1
copy='sudo -u vault dyn2raft copy -config /etc/vault.d/migrate.hcl -keep-source-locked'
(EXEC=exec; line=$(here_on <<<"$copy"); echo "[$host] \$ $line -read-capacity 10"; eval "$line ${backup[*]-} -read-capacity 10") >"$work/copy" 2>&1 &
copying=$!
eventually 120 "something is read" bash -c "'$DYN2RAFT_BIN' status -config '$work/vault_1/etc/migrate.hcl' -format json | grep -E '\"entries\": *[1-9][0-9]'"
kill -INT $copying
wait $copying
status=$?
cat "$work/copy"
[ $status = 130 ] || fail "the interrupted copy ended with $status, expected 130"
run 'sudo -u vault dyn2raft status -config /etc/vault.d/migrate.hcl'
status=$?
[ $status = 5 ] || fail "status of the unfinished copy ended with $status, expected 5"
[ ! -e "$work/vault_1/opt/data/vault.db" ] || fail "the interrupted copy left a vault.db"

step "3.4 copy -resume"
must 'sudo -u vault dyn2raft copy -config /etc/vault.d/migrate.hcl -keep-source-locked -resume' -read-capacity 100000 | tee "$work/out" || exit 1
[ "$(tail -n 1 "$work/out")" = "Success! All of the keys have been migrated." ] || fail "no success"

step "3.4 the table stays locked: cluster A does not start"
on a
must 'sudo systemctl enable --now vault'
eventually 120 "cluster A gives up" not running "$work/a"
grep -q 'migration in progress' "$work/a/log" || fail "its log does not say why"
rm "$work/a/pid"

step "3.5 verify, and keep the evidence"
on vault_1
must 'sudo -u vault dyn2raft verify -config /etc/vault.d/migrate.hcl -o /opt/vault/verify.json' | tee "$work/out" || exit 1
case $(tail -n 1 "$work/out") in Equal:*) ;; *) fail "the last line does not begin with Equal:" ;; esac
must 'sudo -u vault dyn2raft verify -manifest /opt/vault/data.dyn2raft.json'
must 'sudo -u vault dyn2raft inspect /opt/vault/data'
must 'sudo -u vault dyn2raft report -manifest /opt/vault/data.dyn2raft.json -verify /opt/vault/verify.json -o /opt/vault/report.html'
grep -q '</html>' "$work/vault_1/opt/report.html" || fail "the report is no page"
grep -qE 'all [0-9,]+ are equal, and there is nothing else' "$work/vault_1/opt/report.html" || fail "the report lacks the comparison with the table"
grep -q 'interrupted by SIGINT' "$work/vault_1/opt/report.html" || fail "the report does not tell of the interruption"
if [ ${#backup[@]} != 0 ]; then # made by the copy that was interrupted, and on record of the one that went on
	arn=$(sed -n 's/.*the backup is available: arn=//p' "$work/copy")
	[ -n "$arn" ] || fail "the interrupted copy names no backup"
	grep -qF "\"backup\": \"$arn\"" "$work/vault_1/opt/data.dyn2raft.json" || fail "the manifest does not name the backup $arn"
	grep -qF "${arn##*/}" "$work/vault_1/opt/report.html" || fail "the report does not name the backup $arn"
fi

step "a wrong node_id and cluster_addr: made, and corrected"
must 'sudo systemctl stop vault'
want Done. dyn2raft readdress "$work/vault_1/opt/data" -node-id vault_9 -cluster-addr https://127.0.0.1:1
must 'sudo -u vault dyn2raft readdress /opt/vault/data -node-id vault_1 -cluster-addr https://10.0.1.21:8201'
must 'sudo -u vault dyn2raft verify -manifest /opt/vault/data.dyn2raft.json'

step "4.1 to 4.3 start and unseal the first node, and look"
must 'sudo systemctl enable --now vault'
unseal
eventually 120 "the first node is active" active
look

step "4.4 the other nodes join: one by retry_join, one by command"
for h in vault_2 vault_3; do
	on $h
	must 'sudo systemctl enable --now vault'
	eventually 120 "$h answers" answers
	[ $h = vault_2 ] || must 'vault operator raft join https://10.0.1.21:8200'
	eventually 120 "$h has joined" joined
	unseal
	eventually 120 "$h stands by" standby
done

step "4.5 checks, on each follower first"
for h in vault_2 vault_3; do
	on $h
	look
done
on vault_1
voters() { [ "$(vault operator raft list-peers | grep -c 'true$')" = "$1" ]; }
eventually 120 "all three vote" voters 3
must 'vault operator raft list-peers'
eventually 120 "autopilot is content" healthy
must 'vault operator raft autopilot state' >"$work/out" || exit 1
head -n 4 "$work/out"
must 'vault secrets list'
must 'vault auth list'
must 'vault policy list'
must 'vault kv get …' kv/known
must 'vault token lookup …' "$token" >"$work/out" || exit 1
must 'vault login -method=…' userpass username=ann password=a-password >"$work/out" || exit 1
must 'sudo --preserve-env=VAULT_ADDR,VAULT_TOKEN,VAULT_CACERT -u vault dyn2raft check-cluster -manifest /opt/vault/data.dyn2raft.json -expect-peers 6 -expect-voters 3' -expect-peers 3 -sample 1s

step "4.5 stop the leader: another takes over"
on vault_1
must 'sudo systemctl disable --now vault'
leader() {
	for host in vault_2 vault_3; do
		on $host
		if active; then return; fi
	done
	return 1
}
eventually 120 "another one leads" leader
leads=$host
echo "$leads leads"
look
want Success vault kv put kv/known value=first # and it takes writes
on vault_1
must 'sudo systemctl enable --now vault'
unseal
eventually 120 "the first node stands by" standby
eventually 120 "the first node answers" vault kv get -field=value kv/known

step "4.6 take a snapshot"
on "$leads"
must 'vault operator raft snapshot save vault-after-move.snap'
[ -s "$work/vault-after-move.snap" ] || fail "there is no snapshot"

step "5 compare two benchmarks: the guide's, and one that is faster"
samples=$here/../cmd/dyn2raft/command/testdata/script/bench-compare.txtar
sample() { awk -v name="-- $1 --" '/^-- / { on = $0 == name; next } on' "$samples"; }
sample a.txt >"$work/cluster_a.txt"
sample faster.txt >"$work/cluster_b.txt"
must 'dyn2raft bench-compare cluster_a.txt cluster_b.txt'

step "roll-back: cluster B ends"
others=$(printf '%s\n' vault_1 vault_2 vault_3 | grep -v "$leads")
for h in $leads $others; do # the leader hands over quickly only while there are others
	on "$h"
	must 'sudo systemctl disable --now vault'
	refused
done

step "roll-back with what cluster B has written: a new table"
on vault_1
fence vault-back | here_on >"$work/back.hcl"
before=$AWS_DYNAMODB_TABLE
export AWS_DYNAMODB_TABLE=$before-back
must 'sudo install -d -o vault -g vault -m 0700 /var/lib/dyn2raft'
must 'sudo -u vault dyn2raft plan -config back.hcl -work-dir /var/lib/dyn2raft'
must 'sudo -u vault dyn2raft copy -config back.hcl -work-dir /var/lib/dyn2raft' | tee "$work/out" || exit 1
[ "$(tail -n 1 "$work/out")" = "Success! All of the keys have been migrated." ] || fail "no success"
must 'sudo -u vault dyn2raft verify -config back.hcl -work-dir /var/lib/dyn2raft' | tee "$work/out" || exit 1
case $(tail -n 1 "$work/out") in Equal:*) ;; *) fail "the last line does not begin with Equal:" ;; esac
on a
must 'sudo systemctl enable --now vault'
unseal
eventually 120 "cluster A serves from it" active
look
must 'sudo systemctl disable --now vault'
export AWS_DYNAMODB_TABLE=$before

step "roll-back with the table as it was: it is freed, cluster A serves from it"
on vault_1
must 'sudo -u vault dyn2raft copy -config /etc/vault.d/migrate.hcl -reset'
on a
must 'sudo systemctl enable --now vault'
unseal
eventually 120 "cluster A serves" active
look
must 'sudo systemctl disable --now vault'

step "done: cluster B served, and cluster A can again"
