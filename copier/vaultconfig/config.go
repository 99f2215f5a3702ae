// Package vaultconfig reads the file that `vault operator migrate -config` takes,
// together with the environment variables that Vault gives precedence over it.
//
// A value is taken as Vault takes it: from the environment where a variable is
// set and not empty, else from the stanza, else Vault's default. Credentials
// are the exception: the stanza wins, and the environment is left to the AWS
// SDK's own chain. Keys that Vault knows and dyn2raft does not use are
// accepted; any other key becomes a [Warning], as Vault itself ignores it.
//
// No value of access_key, secret_key or session_token appears in an error, a
// warning or the printed form of a [Config].
package vaultconfig

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// DefaultTable is the table Vault uses where none is named.
	DefaultTable = "vault-dynamodb-backend"
	// DefaultRegion is the AWS region Vault uses where none is named.
	DefaultRegion = "us-east-1"

	// maxSize and maxBrackets are far above any real file (a few hundred bytes,
	// some kilobytes with certificates in retry_join). They keep the parser
	// away from data given by mistake: it recurses, and its time grows with the
	// square of the nesting.
	maxSize     = 256 << 10
	maxBrackets = 2000
)

// Config is a validated migrate file with the environment applied.
// It is safe to print and to log: see [Secret].
type Config struct {
	Source      Source
	Destination Destination
	// HAStorage is the type of a top-level ha_storage or ha_backend, such as
	// "raft": the Vaults elect their leader there then, and not in the table.
	// It is empty where there is none.
	HAStorage string
	// ClusterAddr is the top-level cluster_addr as written.
	ClusterAddr string
	// Warnings lists what Vault would ignore without a word, in file order.
	Warnings []*Error
	// Overrides lists the values of the file that the environment replaced.
	Overrides []*Error
}

// The types of storage. [RaftSnapshot] and [DynamoDBExport] are none of Vault's, and
// unknown to its own migrate.
const (
	DynamoDB       = "dynamodb"
	Raft           = "raft"
	RaftSnapshot   = "raft_snapshot"
	DynamoDBExport = "dynamodb_export"
	Files          = "file"
)

// A pair is a type of storage_source, with the types of storage_destination that it can
// be copied to, the usual one first.
type pair struct {
	source       string
	destinations []string
}

// pairs are what goes with what. A table is not copied to another one, for which there are
// AWS's own backups, nor an export; and neither a snapshot nor files to others of their kind.
var pairs = []pair{
	{DynamoDB, []string{Raft, RaftSnapshot, Files}},
	{Raft, []string{Raft, DynamoDB, RaftSnapshot, Files}},
	{RaftSnapshot, []string{Raft, DynamoDB, Files}},
	{DynamoDBExport, []string{Raft, RaftSnapshot, Files}},
	{Files, []string{Raft, DynamoDB, RaftSnapshot}},
}

// Destinations returns the types of storage_destination that a type of storage_source can
// be copied to, and nothing of a type that is none.
func Destinations(source string) []string {
	for _, p := range pairs {
		if p.source == source {
			return slices.Clone(p.destinations)
		}
	}
	return nil
}

// A DynamoDBTable is what a stanza of type [DynamoDB] says.
type DynamoDBTable struct {
	Table  string // name or ARN; never empty
	Region string // never empty
	// Endpoint is an http or https URL, or empty for AWS's own endpoint.
	Endpoint string

	// The credentials of the stanza, or empty: the AWS SDK's chain finds them.
	// AccessKey and SecretKey are both set or both empty.
	AccessKey, SecretKey, SessionToken Secret

	HAEnabled bool
	// MaxRetries is how often the SDK repeats a failed request; nil is the
	// SDK's own default (Vault writes that -1, or leaves it out).
	MaxRetries *int
	// MaxParallel bounds the requests in flight; 0 is not set.
	MaxParallel int
	// ReadUnits and WriteUnits are the capacity, in units a second, that a table is made
	// with. Both are 0 where the stanza names neither, or asks for PAY_PER_REQUEST.
	ReadUnits, WriteUnits int64
}

// Name says which table that is.
func (t DynamoDBTable) Name() string { return "table " + t.Table + " in " + t.Region }

// Source is the stanza storage_source.
type Source struct {
	Type string // one of the types above
	// Paths are what is read where Type is not [DynamoDB]: for [Raft] the data
	// directories of one cluster's stopped nodes, otherwise one file or folder. They are
	// cleaned, not made absolute.
	Paths []string

	DynamoDBTable // where Type is [DynamoDB]
}

// Name says what is read: a table and its region, or paths.
func (s Source) Name() string {
	if s.Type != DynamoDB {
		return s.Type + " " + strings.Join(s.Paths, ", ")
	}
	return s.DynamoDBTable.Name()
}

// Destination is the stanza storage_destination.
type Destination struct {
	Type string // one of the types above
	// Path is the data directory, the folder of files, or the snapshot's file. It is
	// cleaned, not made absolute, as Vault takes it; never empty, but where Type is
	// [DynamoDB].
	Path string

	// The rest but for the table is of [Raft], and MaxEntrySize of [RaftSnapshot] too.

	// NodeID is the Raft server id. Empty: a UUID is kept in <path>/node-id.
	NodeID string
	// Address is host:port of cluster_addr, the node's Raft address.
	Address string
	// WAL says that the log store is raft/wal/ instead of raft/raft.db.
	WAL bool
	// MaxEntrySize is in bytes; 0 is Vault's default of 1 MiB.
	MaxEntrySize uint64

	DynamoDBTable // where Type is [DynamoDB]
}

// Name says where the copy goes: a table and its region, or a path.
func (d Destination) Name() string {
	if d.Type == DynamoDB {
		return d.DynamoDBTable.Name()
	}
	return d.Path
}

// Load reads and validates the file at path. env looks up an environment
// variable: [os.LookupEnv], or a map in a test. Every error is [ErrConfig].
func Load(path string, env func(string) (string, bool)) (*Config, error) {
	if path == "" {
		return nil, &Error{Problem: "no configuration file given",
			Hint: "name the file for `vault operator migrate`"}
	}
	src, err := read(path)
	if err != nil {
		return nil, readError(path, err)
	}
	return Parse(path, src, env)
}

// readError says why the file at path could not be read, and what to do.
func readError(path string, err error) *Error {
	e := &Error{File: path, Err: err}
	switch {
	case errors.Is(err, unix.EISDIR):
		e.Problem, e.Hint = "the configuration is a directory", "name the file in it, for example "+filepath.Join(path, "migrate.hcl")
	case errors.Is(err, errTooLarge):
		e.Problem = fmt.Sprintf("the configuration is larger than %d KiB", maxSize>>10)
		e.Hint = "is this the file for `vault operator migrate`?"
	case errors.Is(err, fs.ErrNotExist):
		e.Problem, e.Hint = "the configuration does not exist", "check its path"
		if what := Unexpanded(path); what != "" {
			e.Hint = NoShell(what)
		}
	case errors.Is(err, fs.ErrPermission):
		e.Problem = fmt.Sprintf("no permission to read the configuration (running as uid %d)", os.Getuid())
		if e.Hint = OwnMode(path); e.Hint == "" {
			e.Hint = "run as the user who runs Vault, for example with sudo -u vault"
		}
	default:
		e.Problem = fmt.Sprintf("cannot read the configuration: %v", err)
	}
	return e
}

var errTooLarge = errors.New("file too large")

// read returns the content of a file, or of a pipe (-config <(…)), which is empty
// where nobody writes to it.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(src) > maxSize {
		err = errTooLarge
	}
	return src, err
}

// Parse validates src, the content of a migrate file in HCL or JSON, with the
// environment env (nil: none). name stands for the file in errors. Parse
// reports every mistake it finds, joined; each is an [*Error] and [ErrConfig].
func Parse(name string, src []byte, env func(string) (string, bool)) (*Config, error) {
	if len(src) > maxSize {
		return nil, &Error{File: name, Problem: fmt.Sprintf("the configuration is larger than %d KiB", maxSize>>10)}
	}
	if len(strings.TrimSpace(string(src))) == 0 {
		return nil, &Error{File: name, Problem: "the configuration is empty",
			Hint: "it needs storage_source, storage_destination and cluster_addr, for example\n" + example}
	}
	items, err := parseSyntax(name, src)
	if err != nil {
		return nil, err
	}
	if env == nil {
		env = func(string) (string, bool) { return "", false }
	}
	r := &reader{file: name, env: env}
	cfg := r.config(items)
	if len(r.errs) > 0 {
		sortByLine(r.errs)
		return nil, errors.Join(plainErrors(r.errs)...)
	}
	sortByLine(cfg.Warnings)
	sortByLine(cfg.Overrides)
	return cfg, nil
}

func plainErrors(errs []*Error) []error {
	out := make([]error, len(errs))
	for i, e := range errs {
		out[i] = e
	}
	return out
}

func sortByLine(errs []*Error) {
	slices.SortStableFunc(errs, func(a, b *Error) int { return a.Line - b.Line })
}

// example is the smallest file that works.
const example = `storage_source "dynamodb" {
  table  = "vault-dynamodb-backend"
  region = "us-east-1"
}
storage_destination "raft" {
  path    = "/opt/vault/data"
  node_id = "vault-1"
}
cluster_addr = "https://vault-1.example.com:8201"`

// reader turns parsed items into a Config and collects what is wrong.
type reader struct {
	file      string
	env       func(string) (string, bool)
	errs      []*Error
	warnings  []*Error
	overrides []*Error
	server    bool     // which has its own word for keys that are set twice
	misspelt  []string // keys that are missing since they have another name
}

// ignored warns of a key that Vault does not know.
func (r *reader) ignored(it item, block, suggestion string) {
	e := &Error{File: r.file, Line: it.line, Problem: block + quote(it.keys[0]) + " is no key of Vault and is ignored"}
	if suggestion != "" {
		e.Hint = fmt.Sprintf("did you mean %q?", suggestion)
	}
	r.warnings = append(r.warnings, e)
}

// second reports what there may be once.
func (r *reader) second(it item, what string, first int) {
	r.fail(it.line, fmt.Sprintf("a second %s; the first is on line %d", what, first), "keep exactly one of them")
}

func (r *reader) fail(line int, problem, hint string) {
	r.errs = append(r.errs, &Error{File: r.file, Line: line, Problem: problem, Hint: hint})
}

// value is the text of one setting and where it came from.
type value struct {
	text string
	line int    // 0 where it came from the environment
	env  string // the variable, or empty
}

// bad reports v, the value of key in block, as not being what is wanted.
func (r *reader) bad(v value, block, key, want, hint string) {
	found := quote(v.text)
	if v.env != "" {
		r.errs = append(r.errs, &Error{Variable: v.env,
			Problem: fmt.Sprintf("is %s, want %s", found, want), Hint: hint})
		return
	}
	if block != "" {
		key = block + ": " + key
	}
	r.fail(v.line, fmt.Sprintf("%s is %s, want %s", key, found, want), hint)
}

// quote shows a value that is no secret: on one line, and not at length. A
// text with an @ may hold a URL's password, and is not shown.
func quote(s string) string {
	if strings.Contains(s, "@") {
		return "a text with an @ (not shown, it may hold a password)"
	}
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strconv.Quote(s)
}

func (r *reader) config(items []item) *Config {
	found := map[string][]item{}
	for _, it := range items {
		name := strings.ToLower(it.keys[0]) // Vault matches top-level keys without regard to case
		if topLevelKeys[name] == "" {
			r.ignored(it, "", nearest(name, topLevelKeys))
		}
		found[name] = append(found[name], it)
	}
	if r.otherFile(items, found) {
		return nil
	}
	cfg := &Config{}
	for _, it := range slices.Concat(found["ha_backend"], found["ha_storage"]) {
		cfg.HAStorage = cmp.Or(label(it), "unknown")
	}
	if b, ok := r.block(items, sourceBlock, found[sourceBlock]); ok {
		cfg.Source.Type = b.kind
		if values := r.resolve(b, sourceKeys[b.kind]); b.kind == DynamoDB {
			cfg.Source.DynamoDBTable = r.table(b.name, values)
		} else {
			cfg.Source.Paths = r.paths(b, values)
		}
	}
	b, ok := r.block(items, destinationBlock, found[destinationBlock])
	if ok {
		cfg.Destination.Type = b.kind
		if values := r.resolve(b, destinationKeys[b.kind]); b.kind == DynamoDB {
			cfg.Destination.DynamoDBTable = r.table(b.name, values)
		} else {
			cfg.Destination = r.destination(b, values)
		}
	}
	if to := Destinations(cfg.Source.Type); ok && to != nil && !slices.Contains(to, b.kind) {
		r.fail(b.line, fmt.Sprintf("storage_source %q is not copied to storage_destination %q", cfg.Source.Type, b.kind), fmt.Sprintf("it is copied to %s", either(to)))
	}
	if b.kind != DynamoDB && b.kind != Files && b.kind != RaftSnapshot { // where no node's address becomes a part of the copy
		cfg.ClusterAddr, cfg.Destination.Address = r.clusterAddr(items, found["cluster_addr"], b)
	}
	cfg.Warnings, cfg.Overrides = r.warnings, r.overrides
	return cfg
}

// otherFile reports what was given in place of a migrate file: a Vault server's own
// configuration, which has a storage block, or a listener, and neither of the blocks
// that are needed; or what has nothing of Vault's in it.
func (r *reader) otherFile(items []item, found map[string][]item) bool {
	if len(found[sourceBlock])+len(found[destinationBlock]) > 0 {
		return false
	}
	vaults := func(it item) bool { return nearest(it.keys[0], topLevelKeys) != "" }
	if len(items) > 0 && !slices.ContainsFunc(items, vaults) {
		r.fail(items[0].line, fmt.Sprintf("this is not the file that `vault operator migrate` takes: it has %s, and neither storage_source nor storage_destination nor cluster_addr", quote(items[0].keys[0])),
			"name that file, or write one, for example\n"+example)
		return true
	}
	for _, key := range []string{"storage", "backend", "listener"} {
		if len(found[key]) == 0 {
			continue
		}
		it := found[key][0]
		hint := "write a file of its own for the migration, for example\n" + example
		if len(it.keys) == 2 && strings.EqualFold(it.keys[1], DynamoDB) {
			hint += fmt.Sprintf("\nwhose storage_source block has the lines of the %s block here", key)
		}
		r.fail(it.line, fmt.Sprintf("this is the configuration of a Vault server (it has %s), not the file that `vault operator migrate` takes", quote(it.keys[0])), hint)
		return true
	}
	return false
}

const (
	sourceBlock      = "storage_source"
	destinationBlock = "storage_destination"
)

// supported are the storage types of each block, the usual one first.
var supported = func() map[string][]string {
	types := map[string][]string{}
	for _, p := range pairs {
		types[sourceBlock] = append(types[sourceBlock], p.source)
		for _, d := range p.destinations {
			if !slices.Contains(types[destinationBlock], d) {
				types[destinationBlock] = append(types[destinationBlock], d)
			}
		}
	}
	return types
}()

// either lists words, each quoted.
func either(words []string) string {
	var b strings.Builder
	for i, word := range words {
		switch {
		case i > 0 && i == len(words)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(strconv.Quote(word))
	}
	return b.String()
}

// block finds the one block called name; false where it is not usable.
func (r *reader) block(all []item, name string, found []item) (stanza, bool) {
	kinds := supported[name]
	kind := kinds[0]
	form := fmt.Sprintf("write %s %q { … }", name, kind)
	switch len(found) {
	case 1:
	case 0:
		hint := form
		for _, it := range all {
			key := strings.ToLower(it.keys[0])
			typed := key == "storage" && len(it.keys) == 2 && strings.EqualFold(it.keys[1], kind)
			if typed || nearest(key, topLevelKeys) == name {
				hint = fmt.Sprintf("line %d has %s: is that the block meant? %s", it.line, quote(it.keys[0]), form)
				break
			}
		}
		r.fail(0, fmt.Sprintf("no %s block", name), hint)
		return stanza{}, false
	default:
		r.second(found[1], name+" block", found[0].line)
		return stanza{}, false
	}
	it := found[0]
	problem := ""
	switch {
	case it.body == nil:
		problem = fmt.Sprintf("%s is %s, want a block", name, it.found)
	case len(it.keys) == 1:
		problem = fmt.Sprintf("the %s block does not say its type", name)
	case len(it.keys) > 2:
		problem = fmt.Sprintf("the %s block has %d labels, want its type only", name, len(it.keys)-1)
	}
	if problem != "" {
		r.fail(it.line, problem, form)
		return stanza{}, false
	}
	// Vault's own guide writes "Raft".
	kind = strings.ToLower(it.keys[1])
	if !slices.Contains(kinds, kind) {
		r.fail(it.line, fmt.Sprintf("%s type %s is not supported, only %q", name, quote(it.keys[1]), kinds),
			fmt.Sprintf("dyn2raft knows storage_source %s, and storage_destination %s", either(supported[sourceBlock]), either(supported[destinationBlock])))
		return stanza{}, false
	}
	return stanza{name: name, kind: kind, line: it.line, items: it.body}, true
}

// stanza is the body of a storage block.
type stanza struct {
	name  string
	kind  string // its storage type
	line  int
	items []item
}

// resolve returns the value of each key that is set, checked. Keys Vault does
// not know become warnings.
func (r *reader) resolve(b stanza, known map[string]key) map[string]value {
	file := map[string]item{}
	for _, it := range b.items {
		name := it.keys[0]
		k, ok := known[name]
		if !ok {
			if meant := r.decisive(name, b, known); meant != "" {
				r.misspelt = append(r.misspelt, meant)
				r.fail(it.line, fmt.Sprintf("%s: %q is no key of Vault, and there is no %s", b.name, name, meant),
					fmt.Sprintf("did you mean %q? Vault would ignore this line, and use its default instead", meant))
				continue
			}
			r.ignored(it, b.name+": ", cmp.Or(nearest(name, known), deciding(name, known)))
			continue
		}
		if first, again := file[name]; again && !k.any && !r.server {
			// Vault takes the last one, and warns that it will not for ever.
			r.warnings = append(r.warnings, &Error{File: r.file, Line: it.line, Hint: "the last one counts, delete the other",
				Problem: fmt.Sprintf("%s: %s is set twice, first on line %d", b.name, quote(name), first.line)})
		}
		file[name] = it
	}

	values := map[string]value{}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		k := known[name]
		it, inFile := file[name]
		v := value{text: it.text, line: it.line}
		if set := r.variable(k); set.text != "" {
			if v = set; inFile && (!it.scalar || it.text != v.text) {
				r.overrides = append(r.overrides, &Error{File: r.file, Line: it.line, Problem: fmt.Sprintf("%s: %s is overridden by the environment variable %s", b.name, name, v.env)})
			}
		}
		if v.env == "" && inFile && !it.scalar && !k.any {
			r.fail(it.line, fmt.Sprintf("%s: %s is %s, want a text, a number or true or false", b.name, name, it.found), fmt.Sprintf(`write %s = "…"`, name))
			continue
		}
		if v.text == "" {
			continue
		}
		values[name] = v
		if k.check == nil {
			continue
		}
		if strings.HasPrefix(v.text, "<") && strings.HasSuffix(v.text, ">") {
			r.bad(v, b.name, name, "your own value", "replace the guide's placeholder")
			continue
		}
		if want, hint := k.check(v.text); want != "" {
			r.bad(v, b.name, name, want, hint)
		}
	}
	return values
}

// decisive returns the key that name, which Vault does not know, was probably
// meant to be, if that key is absent and decides which data is read, or where the
// copy goes; else "".
func (r *reader) decisive(name string, b stanza, known map[string]key) string {
	meant := deciding(name, known)
	if r.variable(known[meant]).text != "" || slices.ContainsFunc(b.items, func(it item) bool { return it.keys[0] == meant }) {
		return ""
	}
	return meant
}

// variable is the strongest variable of a key that is set, or nothing. Vault takes an
// empty one as unset.
func (r *reader) variable(k key) value {
	for _, name := range k.env {
		if text, _ := r.env(name); text != "" {
			return value{text: text, env: name}
		}
	}
	return value{}
}

// table is what a stanza of type "dynamodb" says.
func (r *reader) table(block string, v map[string]value) DynamoDBTable {
	t := DynamoDBTable{
		Table:        cmp.Or(v["table"].text, DefaultTable),
		Region:       cmp.Or(v["region"].text, DefaultRegion),
		AccessKey:    Secret(v["access_key"].text),
		SecretKey:    Secret(v["secret_key"].text),
		SessionToken: Secret(v["session_token"].text),
		HAEnabled:    isTrue(v["ha_enabled"]),
		MaxParallel:  int(integerOf(v["max_parallel"])),
	}
	if e := v["endpoint"].text; e != "" {
		t.Endpoint = withScheme(e)
	}
	if n, set := v["dynamodb_max_retries"]; set && integerOf(n) >= 0 {
		retries := int(integerOf(n))
		t.MaxRetries = &retries
	}
	read, write := integerOf(v["read_capacity"]), integerOf(v["write_capacity"])
	if mode := v["billing_mode"].text; mode == provisioned || mode == "" && read+write > 0 {
		t.ReadUnits, t.WriteUnits = cmp.Or(read, vaultUnits), cmp.Or(write, vaultUnits)
	}
	// Vault refuses a half too, rather than mixing it with the environment's.
	for _, pair := range [][2]string{{"access_key", "secret_key"}, {"secret_key", "access_key"}} {
		if has, ok := v[pair[0]]; ok && v[pair[1]].text == "" && !slices.Contains(r.misspelt, pair[1]) {
			r.fail(has.line, fmt.Sprintf("%s: %s without %s", block, pair[0], pair[1]),
				"give both, or neither and let the AWS environment variables, profile or instance role provide them")
		}
	}
	return t
}

const (
	provisioned = "PROVISIONED"
	vaultUnits  = 5 // a second, of each kind, that Vault makes a table with
)

// paths are those of a source on this machine: path, and what the list paths has.
func (r *reader) paths(b stanza, values map[string]value) (out []string) {
	all := []value{values["path"]}
	for _, it := range b.items {
		if b.kind != Raft || it.keys[0] != "paths" {
			continue
		}
		if it.texts == nil {
			r.fail(it.line, fmt.Sprintf("%s: paths is %s, want a list of texts", b.name, it.found), `write paths = ["…", "…"], a data directory for each stopped node`)
		}
		for _, text := range it.texts {
			all = append(all, value{text: text, line: it.line})
		}
	}
	for _, v := range all {
		if v.text == "" {
			continue
		}
		want, hint := plain(v.text)
		if what := Unexpanded(v.text); what != "" {
			want, hint = "its own name", "dyn2raft does not replace "+what+": write the whole path"
		}
		if want != "" {
			r.bad(v, b.name, "path", want, hint)
		}
		out = append(out, filepath.Clean(v.text))
	}
	if out == nil && !slices.Contains(r.misspelt, "path") {
		what := map[string]string{Raft: "/opt/vault/data", RaftSnapshot: "backup.snap", DynamoDBExport: "AWSDynamoDB/01234567890123-abcdefab", Files: "/opt/vault/files"}[b.kind]
		r.fail(b.line, b.name+": no path", fmt.Sprintf("add path = %q, what is to be read", what))
	}
	return out
}

func (r *reader) destination(b stanza, v map[string]value) Destination {
	what, such := "the directory Vault will run on", "/opt/vault/data"
	switch b.kind {
	case RaftSnapshot:
		what, such = "the file that will be written", "/opt/vault/way-back.snap"
	case Files:
		what, such = "the folder Vault will run on", "/opt/vault/files"
	}
	d := Destination{
		Type:         b.kind,
		NodeID:       v["node_id"].text,
		WAL:          isTrue(v["raft_wal"]),
		MaxEntrySize: uint64(max(integerOf(v["max_entry_size"]), 0)),
	}
	if path := v["path"].text; path != "" {
		d.Path = filepath.Clean(path)
		if shell := Unexpanded(path); shell != "" {
			r.bad(v["path"], destinationBlock, "path", "its own name", "neither Vault nor dyn2raft replaces "+shell+": write the whole path, such as "+such)
		}
	} else if !slices.Contains(r.misspelt, "path") {
		r.fail(b.line, destinationBlock+": no path", fmt.Sprintf("add path = %q, %s", such, what))
	}
	return d
}

// Unexpanded is what a shell would have replaced in path, or "". What has that very
// name is there all the same.
func Unexpanded(path string) string {
	if _, err := os.Lstat(path); err == nil {
		return ""
	}
	switch {
	case strings.HasPrefix(path, "~"), strings.Contains(path, "/~/"): // the latter once it was made absolute
		return "~ (a home directory)"
	case shellVariable.MatchString(path):
		return "the variable " + shellVariable.FindString(path)
	}
	return ""
}

// NoShell is what to do about a path on the command line, part of which is
// [Unexpanded].
func NoShell(what string) string {
	return "no shell has replaced " + what + ": put a blank instead of = before the path, and no quotes around it; or write the whole path"
}

var shellVariable = regexp.MustCompile(`\$(\w+|\{[^}]*\})`)

// clusterAddr returns cluster_addr and its host:port. It comes from the file
// only, as it does for the peer; but a server would let VAULT_CLUSTER_ADDR
// win, and then stand in the configuration under another address than its own.
func (r *reader) clusterAddr(all, found []item, destination stanza) (addr, hostPort string) {
	fromEnv, _ := r.env("VAULT_CLUSTER_ADDR")
	switch len(found) {
	case 1:
	case 0:
		line := `cluster_addr = "https://<host name or IP of this node>:8201"`
		if _, want, _ := splitClusterAddr(fromEnv); want == "" && quote(fromEnv) == strconv.Quote(fromEnv) {
			line = fmt.Sprintf("cluster_addr = %q", fromEnv) + " (the value of VAULT_CLUSTER_ADDR, which only the server reads)"
		}
		hint := "add at the top level, outside both blocks: " + line
		for _, it := range all {
			if nearest(it.keys[0], topLevelKeys) == "cluster_addr" {
				hint = fmt.Sprintf("line %d has %s: did you mean cluster_addr?", it.line, quote(it.keys[0]))
			}
		}
		for _, it := range destination.items {
			if it.keys[0] == "cluster_addr" {
				hint = fmt.Sprintf("move the cluster_addr of line %d to the top level, outside both blocks", it.line)
			}
		}
		r.fail(0, "no cluster_addr", hint)
		return "", ""
	default:
		r.second(found[1], "cluster_addr", found[0].line)
		return "", ""
	}
	it := found[0]
	if !it.scalar || len(it.keys) != 1 {
		r.fail(it.line, fmt.Sprintf("cluster_addr is %s, want a URL", it.found), `write cluster_addr = "https://HOST:8201"`)
		return "", ""
	}
	hostPort, want, hint := splitClusterAddr(it.text)
	if want != "" {
		r.bad(value{text: it.text, line: it.line}, "", "cluster_addr", want, hint)
		return "", ""
	}
	if fromEnv != "" {
		// The scheme is of no account: cluster members always use TLS.
		if other, want, _ := splitClusterAddr(fromEnv); want != "" || !strings.EqualFold(other, hostPort) {
			r.fail(it.line, fmt.Sprintf("cluster_addr is %s, but the environment variable VAULT_CLUSTER_ADDR is %s", quote(it.text), quote(fromEnv)),
				"a Vault server would use the variable's: set both to the address of this node, or unset VAULT_CLUSTER_ADDR here and for the server")
			return "", ""
		}
	}
	return it.text, hostPort
}

// isTrue and integerOf read values that resolve has checked already; one it found
// wrong, or that is not set, reads as false or 0.
func isTrue(v value) bool {
	b, _ := strconv.ParseBool(v.text)
	return b
}

func integerOf(v value) int64 {
	n, err := strconv.ParseInt(v.text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
