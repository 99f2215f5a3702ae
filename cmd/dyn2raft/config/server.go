package config

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	hclparser "github.com/hashicorp/hcl/hcl/parser"
)

// A Server is what a Vault server's configuration says of a node on integrated
// storage, with the server's environment applied. Later files of a directory
// beat earlier ones, as Vault merges them.
type Server struct {
	// Storage is the label of the storage stanza as written, and HAStorage that
	// of an ha_storage or ha_backend; empty where there is none.
	Storage, HAStorage string
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
	// Listeners are the types of the listener stanzas.
	Listeners []string
	// TLSFiles are the certificates and keys that the listeners read.
	TLSFiles []string
	// Seals are the types of the seal stanzas that are not disabled.
	Seals           []string
	LicensePath     string // of Vault Enterprise
	DisableSealwrap bool
	// From says which variable of the environment a value is from: that of
	// "path", "node_id", "cluster_addr", "api_addr", "disable_mlock", "seal".
	From map[string]string
	// Problems are values with which Vault ends at its start or can't be
	// unsealed, and Duplicates keys that are set twice, with which Vault ends at
	// its start from 1.21 on.
	Problems, Duplicates []error
	// Warnings are the keys that Vault ignores.
	Warnings []Warning
}

// serverBooleans are the top-level keys that are looked at, and are booleans.
var serverBooleans = set("disable_mlock disable_clustering disable_sealwrap ui")

// serverDurations are those that are times.
var serverDurations = set("default_lease_ttl max_lease_ttl default_max_request_duration remove_irrevocable_lease_after")

// serverWords are those that take one of some words, without regard to case: what
// Vault 1.21.1 starts with.
var serverWords = map[string]map[string]bool{
	"log_level":  set("trace debug notice info warn warning err error"),
	"log_format": set("standard json"),
}

// storageKeys are the keys of storage "raft". A template in node_id is no mistake
// of form: Vault takes it as it is written.
var storageKeys = with(raftKeys, map[string]key{
	"node_id":                 {env: []string{"VAULT_RAFT_NODE_ID"}, decides: true},
	"retry_join_as_non_voter": {check: boolean},
})

// serverKeysOfItsOwn are read by a server, and not known to be of a migrate file.
var serverKeysOfItsOwn = with(serverKeys, set("cluster_addr api_addr"))

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
	s := &serverReader{Server: Server{From: map[string]string{}}, reader: reader{env: env}}
	for _, f := range files {
		src, err := read(f)
		if err != nil {
			return nil, &Error{File: f, Problem: "cannot read the server's configuration: " + err.Error(), Err: err}
		}
		if bytes.Count(src, []byte("["))+bytes.Count(src, []byte("{")) > maxBrackets {
			return nil, &Error{File: f, Problem: fmt.Sprintf("this is no server's configuration: it has more than %d brackets", maxBrackets)}
		}
		items, err := parseSyntax(f, src)
		if err != nil {
			return nil, err
		}
		s.duplicates(f, src)
		s.file = f
		s.take(items)
	}
	s.storage()
	s.environment()
	for _, e := range s.errs {
		s.Problems = append(s.Problems, e)
	}
	for _, w := range s.warnings {
		if w.FirstLine == 0 || len(s.Duplicates) == 0 {
			s.Warnings = append(s.Warnings, w)
		}
	}
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
		if ext := filepath.Ext(f.Name()); !f.IsDir() && (ext == ".hcl" || ext == ".json") {
			files = append(files, filepath.Join(path, f.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no .hcl and no .json file in the directory: %w", fs.ErrNotExist)
	}
	return files, nil
}

// seals are the types that a seal stanza and core/seal-config take: those of Vault
// up to 1.21, Enterprise's among them, and of OpenBao up to 2.4. A change of
// several seals at once leaves "multiseal" in the table.
var seals = set(`shamir aead alicloudkms awskms azurekeyvault gcpckms ocikms pkcs11 hsm-auto transit multiseal
	kmip static huaweicloudkms tencentcloudkms`)

// KnownSeal reports whether a Vault has a seal of that type.
func KnownSeal(kind string) bool { return seals[strings.ToLower(kind)] }

type serverReader struct {
	Server
	reader
	stanza     item // of the storage
	stanzaFile string
	clustering string // of the top level
}

// duplicate is the parser's error for a key that is set twice.
var duplicate = regexp.MustCompile(`^The argument "?([\w-]+)"? at (\d+):\d+ was already set`)

func (s *serverReader) duplicates(file string, src []byte) {
	if bytes.HasPrefix(bytes.TrimSpace(src), []byte("{")) {
		return // JSON's parser takes the last one
	}
	_, err := hclparser.Parse(src)
	if err == nil {
		return
	}
	if m := duplicate.FindStringSubmatch(err.Error()); m != nil {
		line, _ := strconv.Atoi(m[2]) // digits
		s.Duplicates = append(s.Duplicates, &Error{File: file, Line: line, Problem: m[1] + " is set twice", Hint: "delete one of the two"})
	}
}

// form checks the value of a top-level key, where that is one that is looked at.
func (s *serverReader) form(name string, v value) {
	want := ""
	switch word := strings.ToLower(strings.TrimSpace(v.text)); {
	case v.text == "": // is not set
	case serverBooleans[name] && !wholeNumber.MatchString(v.text): // a number but 0 is true
		want, _ = boolean(v.text)
	case serverDurations[name]:
		want, _ = duration(v.text)
	case serverWords[name] != nil && !serverWords[name][word]:
		want = strings.Join(slices.Sorted(maps.Keys(serverWords[name])), ", ")
	}
	if want != "" {
		s.bad(v, "", name, want, "")
	}
}

var wholeNumber = regexp.MustCompile(`^-?[0-9]+$`)

// truth is a top-level boolean that form has found good.
func truth(text string) bool {
	n, err := strconv.ParseInt(text, 10, 64)
	return err == nil && n != 0 || isTrue(value{text: text})
}

// take reads one file's top level.
func (s *serverReader) take(items []item) {
	var storage, backend []item
	for _, it := range items {
		name := strings.ToLower(it.keys[0])
		if it.scalar {
			s.form(name, value{text: it.text, line: it.line})
		}
		on := truth(it.text)
		switch name {
		case "storage":
			storage = append(storage, it)
		case "backend":
			backend = append(backend, it)
		case "ha_storage", "ha_backend":
			s.HAStorage = or(label(it), name)
		case "cluster_addr":
			s.ClusterAddr = it.text
		case "api_addr":
			s.APIAddr = it.text
		case "disable_mlock":
			s.MlockSet, s.DisableMlock = true, on
		case "disable_clustering":
			s.clustering = it.text
		case "disable_sealwrap":
			s.DisableSealwrap = on
		case "license_path":
			s.LicensePath = it.text
		case "listener":
			s.listener(it)
		case "seal":
			s.seal(it)
		default:
			if !serverKeysOfItsOwn[name] {
				s.warnings = append(s.warnings, Warning{File: s.file, Line: it.line, Key: it.keys[0], Suggestion: nearest(name, serverKeysOfItsOwn)})
			}
		}
	}
	if len(storage) == 0 {
		storage = backend // the old word, which Vault reads where the new one is missing
	}
	if len(storage) > 1 {
		s.fail(storage[1].line, fmt.Sprintf("a second %s block; the first is on line %d", storage[1].keys[0], storage[0].line), "keep exactly one of them")
	}
	if len(storage) > 0 {
		s.stanza, s.stanzaFile = storage[0], s.file
	}
}

// label is the type of a block: storage "raft" { … }.
func label(it item) string {
	if len(it.keys) > 1 {
		return it.keys[1]
	}
	return ""
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

func (s *serverReader) listener(it item) {
	v := scalars(it.body)
	kind := strings.ToLower(or(v["type"].text, label(it)))
	s.Listeners = append(s.Listeners, kind)
	if kind != "tcp" && kind != "unix" {
		s.bad(value{text: kind, line: it.line}, "", "listener", "tcp or unix", "")
	}
	if isTrue(value{text: v["tls_disable"].text}) || kind == "unix" {
		return
	}
	for _, name := range []string{"tls_cert_file", "tls_key_file"} {
		if v[name].text == "" {
			s.fail(it.line, "the listener has neither "+name+" nor tls_disable", "name the file, or switch TLS off where another program ends it")
			continue
		}
		s.TLSFiles = append(s.TLSFiles, v[name].text)
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
	for _, name := range []string{"path", "node_id"} {
		s.From[name] = v[name].env
	}
	s.NodeID, s.WAL = v["node_id"].text, isTrue(v["raft_wal"])
	for _, it := range b.items {
		if it.keys[0] == "retry_join" {
			s.RetryJoins++
		}
	}
	if s.NonVoter = isTrue(v["retry_join_as_non_voter"]); s.NonVoter && s.RetryJoins == 0 {
		s.fail(v["retry_join_as_non_voter"].line, "storage: retry_join_as_non_voter without retry_join", "leave it out: this node does not join, the others join it")
	}
	if path := v["path"].text; path != "" {
		s.Path = filepath.Clean(path)
	} else {
		s.fail(b.line, "storage: no path", "write that of the copy")
	}
	s.APIAddr = or(s.APIAddr, or(v["redirect_addr"].text, v["advertise_addr"].text))
	s.DisableClustering = truth(or(s.clustering, v["disable_clustering"].text))
}

// environment puts what the server's environment says in the place of what the
// files say.
func (s *serverReader) environment() {
	for key, from := range map[string]struct {
		to        *string
		variables []string
	}{
		"cluster_addr": {&s.ClusterAddr, []string{"VAULT_CLUSTER_ADDR"}},
		"api_addr":     {&s.APIAddr, []string{"VAULT_API_ADDR", "VAULT_REDIRECT_ADDR", "VAULT_ADVERTISE_ADDR"}},
	} {
		for _, variable := range slices.Backward(from.variables) {
			if text, _ := s.env(variable); text != "" {
				*from.to, s.From[key] = text, variable
			}
		}
	}
	for _, key := range []string{"disable_mlock", "ui", "log_level", "log_format"} {
		variable := "VAULT_" + strings.ToUpper(key)
		text, _ := s.env(variable)
		s.form(key, value{text: text, env: variable})
		if key == "disable_mlock" && text != "" {
			s.MlockSet, s.DisableMlock, s.From[key] = true, truth(text), variable
		}
	}
	if allow, _ := s.env("VAULT_ALLOW_PENDING_REMOVAL_DUPLICATE_HCL_ATTRIBUTES"); truth(allow) {
		s.Duplicates = nil
	}
	if kind, _ := s.env("VAULT_SEAL_TYPE"); kind != "" {
		s.Seals, s.From["seal"] = []string{kind}, "VAULT_SEAL_TYPE"
	}
	if path, _ := s.env("VAULT_LICENSE_PATH"); path != "" {
		s.LicensePath = path
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
	rest := strings.ReplaceAll(string(src), "\r\n", "\n")
	line := 1
	for rest != "" {
		at := line
		trimmed := strings.TrimLeft(rest, " \t\n")
		at += strings.Count(rest[:len(rest)-len(trimmed)], "\n")
		end := strings.IndexByte(trimmed, '\n')
		if end < 0 {
			end = len(trimmed)
		}
		name, _, found := strings.Cut(trimmed[:end], "=")
		if trimmed == "" {
			break
		}
		if trimmed[0] == '#' || trimmed[0] == ';' || !found {
			if trimmed[0] != '#' && trimmed[0] != ';' {
				notes = append(notes, fmt.Sprintf("line %d has no \"=\", and is ignored", at))
			}
			line, rest = at, trimmed[end:]
			continue
		}
		text, used := environmentValue(trimmed[len(name)+1:])
		line, rest = at+strings.Count(trimmed[:len(name)+1+used], "\n"), trimmed[len(name)+1+used:]
		name = strings.TrimRight(name, " \t")
		switch exported, is := strings.CutPrefix(name, "export "); {
		case variableName.MatchString(name):
			variables[name] = text
		case is && variableName.MatchString(strings.TrimSpace(exported)):
			notes = append(notes, fmt.Sprintf("line %d begins with export, and systemd ignores it: write %s=…", at, strings.TrimSpace(exported)))
		default:
			notes = append(notes, fmt.Sprintf("line %d does not begin with the name of a variable, and is ignored", at))
		}
	}
	return variables, notes
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
