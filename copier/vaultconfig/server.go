package vaultconfig

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Server is what a Vault server's configuration says of a node on integrated
// storage, with the server's environment applied. Later files of a directory
// beat earlier ones, as Vault merges them.
type Server struct {
	// Storage is the label of the storage stanza as written, and HAStorage that
	// of an ha_storage or ha_backend; empty where there is none.
	Storage, HAStorage string
	// Migrate says that it is no server's configuration, but the file that
	// `vault operator migrate` takes.
	Migrate bool
	// Of the storage stanza. RetryJoins is the number of its retry_join blocks.
	Path, NodeID  string
	WAL, NonVoter bool
	RetryJoins    int
	// ClusterAddr and APIAddr are as written; empty where neither the file nor
	// the environment has one.
	ClusterAddr, APIAddr string
	// MlockSet says that disable_mlock is set, to whichever value.
	MlockSet, DisableMlock bool
	DisableClustering      bool
	// Listeners are the addresses of the listener stanzas, "" of a Unix socket.
	Listeners []string
	// Files are what Vault wants to find on the node when it starts.
	Files []File
	// Seals are the types of the seal stanzas that are not disabled.
	Seals           []string
	LicensePath     string // of Vault Enterprise
	DisableSealwrap bool
	// From says which variable of the environment a value is from: that of
	// "path", "node_id", "cluster_addr", "api_addr", "license_path", "disable_mlock", "seal".
	From map[string]string
	// Problems are values with which Vault ends at its start or can't be
	// unsealed, and Duplicates keys that are set twice, with which Vault ends at
	// its start from 1.21 on.
	Problems, Duplicates []error
	// Warnings are the keys that Vault ignores.
	Warnings []*Error
	// Unchecked are the keys and blocks that were not looked at, as the file has
	// them: a Vault may end at them.
	Unchecked []string
}

// A File is one that Vault wants to find on the node.
type File struct {
	Key  string // such as "listener.tls_cert_file"
	Path string // a directory, where Vault makes the file
}

// serverChecks are the checks of serverForms.
var serverChecks = map[string]check{
	"boolean":  serverBoolean,
	"duration": duration,
	"number":   number(0, "a whole number"),
	"octal":    number(8, "an octal number such as 0640"),
}

// storageKeys are the keys of storage "raft". A template in node_id is no mistake
// of form: Vault takes it as it is written.
var storageKeys = with(raftKeys, map[string]key{
	"node_id":                   {env: []string{"VAULT_RAFT_NODE_ID"}, decides: true},
	"retry_join_as_non_voter":   {check: boolean},
	"snapshot_interval":         {check: duration},
	"autopilot_upgrade_version": {check: version},
})

// LoadServer reads a server's configuration: a file, or all .hcl and .json files
// of a directory, as Vault does. env looks up a variable of the server's
// environment; nil is none. An error is [ErrConfig].
func LoadServer(path string, env func(string) (string, bool)) (*Server, error) {
	files, err := serverFiles(path)
	if err != nil {
		return nil, &Error{File: path, Problem: "cannot read the server's configuration: " + err.Error(), Err: err}
	}
	if env == nil {
		env = func(string) (string, bool) { return "", false }
	}
	s := &serverReader{Server: Server{From: map[string]string{}}, reader: reader{env: env, server: true}, leaseTTL: map[string]time.Duration{}}
	for _, f := range files {
		src, err := read(f)
		if err != nil {
			return nil, &Error{File: f, Problem: "cannot read the server's configuration: " + err.Error(), Err: err}
		}
		items, err := parseSyntax(f, src)
		if err != nil {
			return nil, err
		}
		s.file = f
		if !isJSON(src) { // whose parser takes the last one
			s.twice(items)
		}
		s.take(items)
	}
	s.storage()
	s.environment()
	s.addresses()
	s.leases()
	slices.Sort(s.Unchecked)
	s.Unchecked = slices.Compact(s.Unchecked)
	s.Problems = plainErrors(s.errs)
	s.Warnings = s.warnings
	return &s.Server, nil
}

// serverFiles are the files that Vault reads at path, in its order.
func serverFiles(path string) ([]string, error) {
	fi, err := os.Stat(path)
	if err != nil || !fi.IsDir() {
		return []string{path}, err
	}
	list, err := os.ReadDir(path) // by name
	if err != nil {
		return nil, err
	}
	var files []string
	for _, f := range list {
		if ext := filepath.Ext(f.Name()); !f.IsDir() && (ext == ".hcl" || ext == ".json") && !strings.HasPrefix(f.Name(), ".#") { // an editor's
			files = append(files, filepath.Join(path, f.Name()))
		}
	}
	if len(files) == 0 {
		return nil, errors.New("the directory has no file that ends in .hcl or .json")
	}
	return files, nil
}

type serverReader struct {
	Server
	reader
	stanza     item // of the storage
	stanzaFile string
	clustering string // of the top level
	listeners  []listener
	leaseTTL   map[string]time.Duration // of the top level
}

// A listener is one of TCP.
type listener struct {
	value      // its address
	file       string
	host, port string
}

// twice finds keys that are set twice, of those that have an equals sign.
func (s *serverReader) twice(items []item) {
	seen := map[string]bool{}
	for _, it := range items {
		if it.assigned && seen[it.keys[0]] {
			s.Duplicates = append(s.Duplicates, &Error{File: s.file, Line: it.line, Problem: it.keys[0] + " is set twice", Hint: "delete one of the two"})
		}
		seen[it.keys[0]] = seen[it.keys[0]] || it.assigned
		s.twice(it.body)
	}
}

// form checks the value of a key, and reports whether it knows the key. An empty value
// is not set.
func (s *serverReader) form(name string, v value) bool {
	form := serverForms[name]
	check := serverChecks[form]
	if words, ok := strings.CutPrefix(form, "one of "); ok {
		check = oneOf(words)
	}
	if check == nil {
		return form == "text"
	}
	if want, hint := check(v.text); want != "" && v.text != "" {
		s.bad(v, "", name, want, hint)
	}
	return true
}

// forms checks the values of a block, whose name and a dot is before its keys.
func (s *serverReader) forms(before string, items []item) {
	for _, it := range items {
		switch name := before + strings.ToLower(it.keys[0]); {
		case it.body != nil && serverForms[name] == "block":
			s.forms(name+".", it.body)
		case serverForms[name] == "" && before == "": // take says so
		case it.scalar && s.form(name, value{text: it.text, line: it.line}) || serverForms[name] == "text":
		case label(it) != "":
			s.Unchecked = append(s.Unchecked, fmt.Sprintf("%s %q", name, label(it)))
		default:
			s.Unchecked = append(s.Unchecked, name)
		}
	}
}

var wholeNumber = regexp.MustCompile(`^-?[0-9]+$`)

// serverBoolean is what a server's configuration takes for one: of numbers all but
// 0 are true.
func serverBoolean(s string) (want, hint string) {
	if wholeNumber.MatchString(s) {
		return "", ""
	}
	return boolean(s)
}

// number takes a whole number to a base, or to that which it says itself for base 0.
func number(base int, otherwise string) check {
	return func(s string) (want, hint string) {
		_, err := strconv.ParseInt(s, base, 64)
		return unless(err == nil, otherwise)
	}
}

// oneOf takes one of the words, without regard to case.
func oneOf(words string) check {
	list := strings.Fields(words)
	return func(s string) (want, hint string) {
		return unless(slices.Contains(list, strings.ToLower(strings.TrimSpace(s))), strings.Join(list, ", "))
	}
}

var version = matches(`^v?[0-9]+(\.[0-9]+)*([-+~.].*)?$`, "a version such as 1.21.1")

// truth is a top-level boolean that form has found good.
func truth(text string) bool {
	n, err := strconv.ParseInt(text, 10, 64)
	return err == nil && n != 0 || isTrue(value{text: text})
}

// take reads one file's top level.
func (s *serverReader) take(items []item) {
	var storage, backend []item
	s.forms("", items)
	texts := map[string]*string{"cluster_addr": &s.ClusterAddr, "api_addr": &s.APIAddr, "license_path": &s.LicensePath, "disable_clustering": &s.clustering}
	first := map[string]int{} // the lines of blocks that a file may have once
	for _, it := range items {
		name := strings.ToLower(it.keys[0])
		on := truth(it.text)
		if to := texts[name]; to != nil {
			*to = it.text
		}
		switch name {
		case "storage":
			storage = append(storage, it)
		case "backend":
			backend = append(backend, it)
		case "ha_storage", "ha_backend":
			s.HAStorage = cmp.Or(label(it), name)
		case "disable_mlock":
			s.MlockSet, s.DisableMlock = true, on
		case "disable_sealwrap":
			s.DisableSealwrap = on
		case "pid_file", "log_file":
			s.addFile(name, filepath.Dir(it.text))
		case "default_lease_ttl", "max_lease_ttl":
			s.leaseTTL[name], _ = seconds(it.text) // what is wrong was said
		case "service_registration", "telemetry":
			if line := first[name]; line != 0 {
				s.second(it, name+" block", line)
			}
			if first[name] = it.line; name != "telemetry" {
				s.word(it, "consul kubernetes")
			}
		case "user_lockout":
			s.word(it, "all ldap approle userpass")
		case "listener":
			s.listener(it)
		case "seal":
			s.seal(it)
		case sourceBlock, destinationBlock:
			s.Migrate = true
		default:
			if serverKeys[name] == "" {
				s.ignored(it, "", nearest(name, serverKeys))
			}
		}
	}
	if len(storage) == 0 {
		storage = backend // the old word, which Vault reads where the new one is missing
	}
	if len(storage) > 1 {
		s.second(storage[1], storage[1].keys[0]+" block", storage[0].line)
	}
	if len(storage) > 0 {
		s.stanza, s.stanzaFile = storage[0], s.file
	}
}

// label is the type of a block: storage "raft" { … }, or of storage = [{ raft = { … } }].
func label(it item) string {
	if len(it.keys) > 1 {
		return it.keys[1]
	}
	return it.only
}

// scalars are the values of a block that are no blocks.
func scalars(body []item) map[string]item {
	out := map[string]item{}
	for _, it := range body {
		if it.scalar {
			out[it.keys[0]] = it
		}
	}
	return out
}

// word checks a block's type, which is its label.
func (s *serverReader) word(it item, words string) {
	kind := cmp.Or(scalars(it.body)["type"].text, label(it))
	if want, _ := oneOf(words)(kind); want != "" {
		s.bad(value{text: kind, line: it.line}, "", it.keys[0], want, "")
	}
}

func (s *serverReader) addFile(key, path string) {
	if path != "" {
		s.Files = append(s.Files, File{key, path})
	}
}

func (s *serverReader) listener(it item) {
	v := scalars(it.body)
	kind := strings.ToLower(cmp.Or(v["type"].text, label(it)))
	s.word(it, "tcp unix")
	if kind == "unix" {
		s.Listeners = append(s.Listeners, "")
		return
	}
	if cluster := v["cluster_address"]; cluster.text != "" && !strings.Contains(cluster.text, "{{") {
		if _, _, err := net.SplitHostPort(cluster.text); err != nil {
			s.bad(value{text: cluster.text, line: cluster.line}, "", "listener.cluster_address", "HOST:PORT", "")
		}
	}
	address := cmp.Or(v["address"].text, "127.0.0.1:8200")
	s.Listeners = append(s.Listeners, address)
	s.listeners = append(s.listeners, listener{value: value{text: address, line: it.line}, file: s.file})
	if truth(v["tls_disable"].text) {
		return
	}
	if truth(v["tls_require_and_verify_client_cert"].text) {
		s.addFile("listener.tls_client_ca_file", v["tls_client_ca_file"].text)
	}
	for _, name := range []string{"tls_cert_file", "tls_key_file"} {
		if v[name].text == "" {
			s.fail(it.line, "the listener has neither "+name+" nor tls_disable", "name the file, or switch TLS off where another program ends it")
			continue
		}
		s.addFile("listener."+name, v[name].text)
	}
}

// addresses looks whether the addresses of the listeners are some, and no two of
// them the same.
func (s *serverReader) addresses() {
	for i := range s.listeners {
		l := &s.listeners[i]
		s.file = l.file
		if strings.Contains(l.text, "{{") {
			s.Unchecked = append(s.Unchecked, "listener.address, a template")
			continue
		}
		var err error
		if l.host, l.port, err = net.SplitHostPort(l.text); err != nil {
			s.bad(l.value, "", "listener.address", "HOST:PORT", "")
			continue
		}
		for _, o := range s.listeners[:i] {
			if o.port == l.port && overlap(o.host, l.host) {
				s.bad(l.value, "", "listener.address", "an address that no other listener has, and "+position(o.file, o.line)+" has "+quote(o.text), "")
			}
		}
	}
	if strings.Contains(s.APIAddr, "{{") {
		s.Unchecked = append(s.Unchecked, "api_addr, a template")
	}
}

// overlap reports whether two hosts can't be listened on with the same port.
func overlap(a, b string) bool {
	every := func(host, other string) bool {
		ip := net.ParseIP(other)
		return host == "" || host == "::" || host == "0.0.0.0" && (other == "localhost" || ip.To4() != nil)
	}
	return a == b || every(a, b) || every(b, a)
}

// defaultLease is Vault's own default_lease_ttl, and its own max_lease_ttl.
const defaultLease = 768 * time.Hour

// leases looks at two times of which one is the limit of the other.
func (s *serverReader) leases() {
	most := cmp.Or(s.leaseTTL["max_lease_ttl"], defaultLease)
	if ttl := cmp.Or(s.leaseTTL["default_lease_ttl"], defaultLease); ttl > most {
		s.errs = append(s.errs, &Error{Problem: fmt.Sprintf("default_lease_ttl is %v, more than max_lease_ttl, %v", ttl, most),
			Hint: fmt.Sprintf("each is %v where it is not written: write both", defaultLease)})
	}
}

// seconds is a duration as Vault reads it: a number is seconds.
func seconds(text string) (time.Duration, error) {
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		return time.Duration(n * float64(time.Second)), nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(text)
}

// join looks at a retry_join.
func (s *serverReader) join(it item) {
	if it.body == nil {
		s.Unchecked = append(s.Unchecked, "storage.retry_join, "+it.found)
		return
	}
	v := scalars(it.body)
	if v["leader_api_addr"].text != "" && v["auto_join"].text != "" {
		s.fail(it.line, "storage: retry_join has both leader_api_addr and auto_join", "keep one of them")
	}
	for _, name := range []string{"leader_ca_cert_file", "leader_client_cert_file", "leader_client_key_file"} {
		s.addFile("storage.retry_join."+name, v[name].text)
	}
	if v["auto_join"].text != "" {
		s.Unchecked = append(s.Unchecked, "storage.retry_join.auto_join")
	}
}

func (s *serverReader) seal(it item) {
	off := isTrue(value{text: scalars(it.body)["disabled"].text})
	switch kind := label(it); {
	case !off:
		s.Seals = append(s.Seals, kind)
	case kind == "shamir":
		s.fail(it.line, `seal "shamir" is disabled`, "leave that stanza out: shamir is what there is without one")
	}
}

// storage reads the storage stanza that counts.
func (s *serverReader) storage() {
	s.Storage = label(s.stanza)
	if s.Storage != "raft" {
		return
	}
	s.file = s.stanzaFile
	b := stanza{name: "storage", line: s.stanza.line, items: s.stanza.body}
	v := s.resolve(b, storageKeys)
	s.From["path"], s.From["node_id"] = v["path"].env, v["node_id"].env
	s.NodeID, s.WAL = v["node_id"].text, isTrue(v["raft_wal"])
	for _, it := range b.items {
		if it.keys[0] == "retry_join" {
			s.RetryJoins++
			s.join(it)
		}
	}
	if s.NonVoter = isTrue(v["retry_join_as_non_voter"]); s.NonVoter && s.RetryJoins == 0 {
		s.fail(v["retry_join_as_non_voter"].line, "storage: retry_join_as_non_voter without retry_join", "leave it out: this node does not join, the others join it")
	}
	if path := v["path"].text; path != "" {
		s.Path = filepath.Clean(path)
	} else if !slices.Contains(s.misspelt, "path") {
		s.fail(b.line, "storage: no path", "write that of the copy")
	}
	s.APIAddr = cmp.Or(s.APIAddr, v["redirect_addr"].text, v["advertise_addr"].text)
	s.DisableClustering = truth(cmp.Or(s.clustering, v["disable_clustering"].text))
}

// environment puts what the server's environment says in the place of what the
// files say.
func (s *serverReader) environment() {
	override := func(name string, to *string, variables ...string) {
		if v := s.variable(key{env: variables}); v.text != "" {
			*to, s.From[name] = v.text, v.env
		}
	}
	override("cluster_addr", &s.ClusterAddr, "VAULT_CLUSTER_ADDR")
	override("api_addr", &s.APIAddr, "VAULT_API_ADDR", "VAULT_REDIRECT_ADDR", "VAULT_ADVERTISE_ADDR")
	override("license_path", &s.LicensePath, "VAULT_LICENSE_PATH")
	for _, key := range []string{"disable_mlock", "ui", "log_level", "log_format"} {
		variable := "VAULT_" + strings.ToUpper(key)
		text, _ := s.env(variable)
		s.form(key, value{text: text, env: variable})
		if key == "disable_mlock" && text != "" {
			s.MlockSet, s.DisableMlock, s.From[key] = true, truth(text), variable
		}
	}
	if text, _ := s.env("VAULT_EXPERIMENTS"); text != "" {
		s.Unchecked = append(s.Unchecked, "VAULT_EXPERIMENTS")
	}
	if allow, _ := s.env("VAULT_ALLOW_PENDING_REMOVAL_DUPLICATE_HCL_ATTRIBUTES"); truth(allow) {
		s.Duplicates = nil
	}
	if kind, _ := s.env("VAULT_SEAL_TYPE"); kind != "" {
		s.Seals, s.From["seal"] = []string{kind}, "VAULT_SEAL_TYPE"
	}
	if text, _ := s.env("VAULT_RAFT_RETRY_JOIN_AS_NON_VOTER"); text != "" && !s.NonVoter {
		if s.NonVoter = true; s.RetryJoins == 0 {
			s.errs = append(s.errs, &Error{Variable: "VAULT_RAFT_RETRY_JOIN_AS_NON_VOTER", Problem: "is set, to whichever value, and there is no retry_join",
				Hint: "take it out: this node does not join, the others join it"})
		}
	}
}

// LoadEnvironment reads a file of environment variables as systemd does
// (EnvironmentFile=, systemd.exec(5)): lines of NAME=value, comments that begin
// with # or ;, quotes of both kinds, and a backslash at the end of a line that
// goes on. What systemd ignores is left out, and said in the notes. An error is
// [ErrConfig].
func LoadEnvironment(path string) (variables map[string]string, notes []string, err error) {
	src, err := read(path)
	if err != nil {
		return nil, nil, &Error{File: path, Problem: "cannot read the environment file: " + err.Error(), Err: err}
	}
	variables, notes = parseEnvironment(src)
	return variables, notes, nil
}

// variableName is a name that systemd accepts.
var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func parseEnvironment(src []byte) (variables map[string]string, notes []string) {
	variables = map[string]string{}
	all := strings.ReplaceAll(string(src), "\r\n", "\n")
	for at := 0; ; {
		at += len(all[at:]) - len(strings.TrimLeft(all[at:], " \t\n"))
		if at == len(all) {
			return variables, notes
		}
		ignore := func(why string) {
			notes = append(notes, fmt.Sprintf("line %d %s", 1+strings.Count(all[:at], "\n"), why))
		}
		line, _, _ := strings.Cut(all[at:], "\n")
		before, _, found := strings.Cut(line, "=")
		if comment := line[0] == '#' || line[0] == ';'; comment || !found {
			if !comment {
				ignore(`has no "=", and is ignored`)
			}
			at += len(line)
			continue
		}
		text, used := environmentValue(all[at+len(before)+1:])
		name := strings.TrimRight(before, " \t")
		exported, is := strings.CutPrefix(name, "export ")
		switch exported = strings.TrimSpace(exported); {
		case variableName.MatchString(name):
			variables[name] = text
		case is && variableName.MatchString(exported):
			ignore("begins with export, and systemd ignores it: write " + exported + "=…")
		default:
			ignore("does not begin with the name of a variable, and is ignored")
		}
		at += len(before) + 1 + used
	}
}

// environmentValue reads a value up to the end of its line, and returns how many
// bytes of s it takes. A quote opens only where nothing but quoted text is before
// it.
func environmentValue(s string) (text string, used int) {
	var out strings.Builder
	var quote byte
	keep, plain := 0, false // what is behind keep is white space; plain: unquoted text has begun
	for ; used < len(s); used++ {
		c := s[used]
		switch blank := c == ' ' || c == '\t'; {
		case quote == 0 && c == '\n':
			return out.String()[:keep], used
		case quote != 0 && c == quote:
			quote = 0
			continue
		case quote == 0 && !plain && (c == '\'' || c == '"'):
			quote = c
			continue
		case quote == 0 && !plain && blank:
			continue
		case c == '\\' && quote != '\'' && used+1 < len(s):
			plain = plain || quote == 0
			if next := s[used+1]; quote == 0 || strings.IndexByte("\"\\`$\n", next) >= 0 {
				if used++; next == '\n' {
					continue
				}
				c = next
			}
			out.WriteByte(c)
		default:
			plain = plain || quote == 0
			out.WriteByte(c)
			if quote == 0 && blank {
				continue
			}
		}
		keep = out.Len()
	}
	return out.String()[:keep], used
}
