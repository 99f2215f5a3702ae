package vaultconfig

import (
	_ "embed"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/agnivade/levenshtein"
)

// key is what a stanza's key takes.
type key struct {
	env []string // variables that beat the stanza, the strongest first
	// Where check is nil the value is never looked at, nor shown.
	check check
	any   bool // blocks and lists will do, and several of them
	// decides is set of what says which data is read, as whom, and where the copy
	// goes: misspelt, it is an error.
	decides bool
}

// A check returns what is wanted instead of a value, and a hint for it; or "" for a value
// that Vault takes too.
type check = func(string) (want, hint string)

// commonKeys are those that Vault reads in every storage stanza.
var commonKeys = map[string]key{
	"redirect_addr":      {},
	"advertise_addr":     {},
	"cluster_addr":       {},
	"disable_clustering": {check: boolean},
}

// dynamodbKeys are the keys of storage "dynamodb", from
// https://developer.hashicorp.com/vault/docs/configuration/storage/dynamodb.
// The capacity and billing keys only matter to who makes the table, which dyn2raft does
// of a storage_destination only; a wrong value is wrong everywhere.
var dynamodbKeys = with(commonKeys, map[string]key{
	"table":                  {env: []string{"AWS_DYNAMODB_TABLE"}, check: tableName, decides: true},
	"region":                 {env: []string{"AWS_DYNAMODB_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"}, check: regionName, decides: true},
	"endpoint":               {env: []string{"AWS_DYNAMODB_ENDPOINT"}, check: endpointURL, decides: true},
	"access_key":             {decides: true},
	"secret_key":             {decides: true},
	"session_token":          {decides: true},
	"ha_enabled":             {env: []string{"DYNAMODB_HA_ENABLED"}, check: boolean, decides: true},
	"max_parallel":           {check: integer(0)},
	"read_capacity":          {env: []string{"AWS_DYNAMODB_READ_CAPACITY"}, check: integer(0)},
	"write_capacity":         {env: []string{"AWS_DYNAMODB_WRITE_CAPACITY"}, check: integer(0)},
	"billing_mode":           {env: []string{"AWS_DYNAMODB_BILLING_MODE"}, check: billingMode},
	"dynamodb_max_retries":   {env: []string{"AWS_DYNAMODB_MAX_RETRIES"}, check: integer(-1)},
	"dynamodb_allow_updates": {env: []string{"AWS_DYNAMODB_ALLOW_UPDATES"}},
})

// raftKeys are the keys of storage_destination "raft", from
// https://developer.hashicorp.com/vault/docs/configuration/storage/raft and
// the keys that Vault 1.21 reads without documenting them (the two delays).
var raftKeys = with(commonKeys, map[string]key{
	"path":                                     {env: []string{"VAULT_RAFT_PATH"}, check: plain, decides: true},
	"node_id":                                  {env: []string{"VAULT_RAFT_NODE_ID"}, check: nodeID, decides: true},
	"max_entry_size":                           {check: integer(1)},
	"raft_wal":                                 {check: boolean, decides: true},
	"performance_multiplier":                   {check: integer(0)},
	"trailing_logs":                            {check: integer(0)},
	"snapshot_threshold":                       {check: integer(0)},
	"snapshot_interval":                        {},
	"snapshot_delay":                           {check: duration},
	"apply_delay":                              {check: duration},
	"retry_join":                               {any: true},
	"retry_join_as_non_voter":                  {check: boolean},
	"autopilot_reconcile_interval":             {check: duration},
	"autopilot_update_interval":                {check: duration},
	"autopilot_upgrade_version":                {},
	"autopilot_redundancy_zone":                {},
	"raft_log_verifier_enabled":                {check: boolean},
	"raft_log_verification_interval":           {check: duration},
	"max_mount_and_namespace_table_entry_size": {check: integer(0)},
})

// sourceKeys are the keys of storage_source, by its type. Of integrated storage those
// of a server are known, and only where it lies counts; VAULT_RAFT_PATH is the
// destination's.
var sourceKeys = map[string]map[string]key{
	DynamoDB:       dynamodbKeys,
	Raft:           with(without(raftKeys), map[string]key{"path": {check: plain, decides: true}, "paths": {any: true}}),
	RaftSnapshot:   {"path": {check: plain, decides: true}},
	DynamoDBExport: {"path": {check: plain, decides: true}},
	Files:          with(commonKeys, map[string]key{"path": {check: plain, decides: true}}),
}

// destinationKeys are the keys of storage_destination, by its type. Of a node's
// max_entry_size a snapshot warns too.
var destinationKeys = map[string]map[string]key{
	Raft:         raftKeys,
	DynamoDB:     dynamodbKeys,
	RaftSnapshot: {"path": {check: plain, decides: true}, "max_entry_size": {check: integer(1)}},
	Files:        with(commonKeys, map[string]key{"path": {check: plain, decides: true}}),
}

// without are keys that are known, and of which nothing depends.
func without(keys map[string]key) map[string]key {
	out := maps.Clone(keys)
	for name := range out {
		out[name] = key{any: true}
	}
	return out
}

var (
	//go:embed keys.txt
	keysText string
	// serverForms are the keys of a server's configuration, and the form of each: the
	// name of its section in keys.txt.
	serverForms = sections(keysText)
	// serverKeys are those of the top level. They do no harm in a migrate file.
	serverKeys = topLevel(serverForms)
	// topLevelKeys is what a mistyped top-level key is compared with.
	topLevelKeys = with(serverKeys, map[string]string{sourceBlock: "block", destinationBlock: "block"})
)

// sections reads words below the names of their sections.
func sections(text string) map[string]string {
	words, section := map[string]string{}, ""
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "["):
			section = strings.Trim(line, "[]\n")
		default:
			for _, word := range strings.Fields(line) {
				words[word] = section
			}
		}
	}
	return words
}

func topLevel(forms map[string]string) map[string]string {
	m := maps.Clone(forms)
	maps.DeleteFunc(m, func(name, _ string) bool { return strings.Contains(name, ".") })
	return m
}

func with[V any](a, b map[string]V) map[string]V {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}

// nearest returns the known key that name was probably meant to be, or "": a
// key at a Levenshtein distance of 1, plus 1 for each 5 letters, at most 3; or
// one that ends in name, as dynamodb_max_retries does in max_retries.
func nearest[V any](name string, known map[string]V) string {
	name = normal(name)
	return closest(name, min(1+len(name)/5, 3), known, func(k string, distance int) int {
		if len(name) >= 5 && strings.HasSuffix(k, "_"+name) {
			return min(distance, 1)
		}
		return distance
	})
}

// deciding returns the key that name was probably meant to be among those that
// decide which data is read, or where the copy goes; or "": one at a Levenshtein
// distance of at most 2, or one that shares a whole end with name, as table does
// with table_name, and node_id with id.
func deciding(name string, known map[string]key) string {
	name = normal(name)
	return closest(name, 2, known, func(k string, distance int) int {
		switch {
		case !known[k].decides:
			return math.MaxInt
		case strings.HasPrefix(name, k+"_"), strings.HasSuffix(name, "_"+k), strings.HasSuffix(k, "_"+name):
			return min(distance, 2)
		}
		return distance
	})
}

// closest returns the first of the known keys whose distance is least, and at most
// that.
func closest[V any](name string, most int, known map[string]V, distance func(k string, levenshtein int) int) (best string) {
	if len(name) > 100 { // no key is that long, and the distance costs its square
		return ""
	}
	for _, k := range slices.Sorted(maps.Keys(known)) {
		if d := distance(k, levenshtein.ComputeDistance(name, k)); d <= most {
			best, most = k, d-1
		}
	}
	return best
}

// normal is how a name is compared with those that Vault knows.
func normal(name string) string { return strings.ReplaceAll(strings.ToLower(name), "-", "_") }

func unless(ok bool, otherwise string) (want, hint string) {
	if ok {
		return "", ""
	}
	return otherwise, ""
}

func boolean(s string) (want, hint string) {
	_, err := strconv.ParseBool(s)
	return unless(err == nil, `"true" or "false"`)
}

func integer(least int64) check {
	return func(s string) (want, hint string) {
		n, err := strconv.ParseInt(s, 10, 64)
		return unless(err == nil && n >= least && int64(int(n)) == n, fmt.Sprintf("a whole number, %d or more", least))
	}
}

// duration is what Vault takes for one.
func duration(s string) (want, hint string) {
	_, err := seconds(s)
	return unless(err == nil, "a time such as 30s")
}

func plain(s string) (want, hint string) {
	if strings.ContainsFunc(s, unicode.IsControl) {
		return "text without control characters or line breaks", "write it in quotes on one line"
	}
	if what := Invisible(s); what != "" {
		return "text without characters that can't be seen", "it has " + what + ", as text that was copied from a web page may have: type it anew"
	}
	return "", ""
}

// Invisible names the first character of s that can't be seen and is no blank of
// ASCII's, or returns "".
func Invisible(s string) string {
	for _, r := range s {
		if r != ' ' && unicode.IsSpace(r) || unicode.Is(unicode.Cf, r) {
			return characterName(r)
		}
	}
	return ""
}

func nodeID(s string) (want, hint string) {
	if strings.Contains(s, "{{") {
		return "the node's id as text", `a {{ template }} works only in a server's configuration: write what it gives on this node, for example node_id = "vault-1", and the same in the server's`
	}
	return plain(s)
}

// matches takes what a regular expression describes.
func matches(pattern, otherwise string) check {
	re := regexp.MustCompile(pattern)
	return func(s string) (want, hint string) { return unless(re.MatchString(s), otherwise) }
}

var (
	// tableName follows the naming rules of the DynamoDB API reference; a table
	// may also be named by its ARN, one word of what prints.
	tableName = matches(`^([a-zA-Z0-9_.-]{3,255}|arn:[\pL\pM\pN\pP\pS]*)$`, "a table name: 3 to 255 letters, digits, _ . or -")
	// regionName is strict enough for a host name, of which the region is a part.
	regionName  = matches(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`, "a region such as us-east-1")
	billingMode = matches(`^(PROVISIONED|PAY_PER_REQUEST)$`, "PROVISIONED or PAY_PER_REQUEST")
)

// withScheme adds what the AWS SDK inside Vault adds to a bare host:port.
func withScheme(endpoint string) string {
	if strings.Contains(endpoint, "://") {
		return endpoint
	}
	return "https://" + endpoint
}

func endpointURL(s string) (want, hint string) {
	want = "a URL such as http://127.0.0.1:8000"
	if strings.Contains(s, "@") {
		return want + ", with no user or password", "give credentials with access_key and secret_key, or in the AWS environment variables"
	}
	u, err := url.Parse(withScheme(s))
	if err != nil || !plainWord(s) || u.Scheme != "http" && u.Scheme != "https" || !hostPattern.MatchString(u.Hostname()) ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Port() != "" && !isPort(u.Port()) {
		return want, ""
	}
	return "", ""
}

// plainWord says that s is one word: no space, nothing that does not print.
func plainWord(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) })
}

// hostPattern takes names, IPv4 and (without brackets) IPv6 addresses.
var hostPattern = regexp.MustCompile(`^[a-zA-Z0-9_.:%-]+$`)

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// HostPort returns the host:port of a cluster_addr, the node's Raft address. An
// error is an [Error], which says how to write it.
func HostPort(clusterAddr string) (string, error) {
	hostPort, want, hint := splitClusterAddr(clusterAddr)
	if want != "" {
		return "", &Error{Problem: fmt.Sprintf("read cluster_addr %q: it is not %s", clusterAddr, want), Hint: hint}
	}
	return hostPort, nil
}

// splitClusterAddr returns the host:port of a cluster_addr, which is the
// node's address in the Raft configuration; or what is wanted instead.
func splitClusterAddr(s string) (hostPort, want, hint string) {
	want = "a URL with a host and a port"
	form := `write cluster_addr = "https://HOST:8201" with the name or IP under which the other nodes reach this one`
	if strings.Contains(s, "{{") {
		return "", want, "a {{ template }} works only in a server's configuration; " + form
	}
	if strings.Contains(s, "<") {
		return "", want, "replace the guide's placeholder; " + form
	}
	u, err := url.Parse(s)
	if err != nil || u.User != nil || !hostPattern.MatchString(u.Hostname()) || !isPort(u.Port()) {
		return "", want, form
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsUnspecified() {
		return "", "an address that other nodes can reach", form
	} else if ip == nil && strings.Contains(u.Hostname(), ":") && !strings.Contains(u.Hostname(), "%") {
		return "", want, form
	}
	return u.Host, "", ""
}

// A Variable is an environment variable that beats a stanza's key.
type Variable struct {
	Name string
	Key  string // as in "storage_source.table"
}

// Environment is what beats the file, in the order of stanzas and keys, and of
// one key's variables the strongest first. Those of a stanza that only matter to who
// makes the table are left out of storage_source.
func Environment() []Variable {
	var all []Variable
	for _, stanza := range []struct {
		name string
		keys map[string]key
	}{{sourceBlock, dynamodbKeys}, {destinationBlock, raftKeys}, {destinationBlock, dynamodbKeys}} {
		for _, name := range slices.Sorted(maps.Keys(stanza.keys)) {
			for _, variable := range stanza.keys[name].env {
				if !creation[name] || stanza.name == destinationBlock && name != "dynamodb_allow_updates" {
					all = append(all, Variable{variable, stanza.name + "." + name})
				}
			}
		}
	}
	return all
}

// creation are the keys that only matter to who makes or changes the table.
var creation = map[string]bool{"read_capacity": true, "write_capacity": true, "billing_mode": true, "dynamodb_allow_updates": true}
