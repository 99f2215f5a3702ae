package vaultconfig

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf16"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
	hclparser "github.com/hashicorp/hcl/hcl/parser"
	jsonparser "github.com/hashicorp/hcl/json/parser"
)

type vars map[string]string

func (v vars) lookup(name string) (string, bool) { s, ok := v[name]; return s, ok }

func ptr(n int) *int { return &n }

// file builds a migrate file of the lines in each block; line 1 opens the
// source, and each line of source counts.
func file(source, destination, top string) string {
	return "storage_source \"dynamodb\" {\n" + source + "\n}\nstorage_destination \"raft\" {\n" + destination + "\n}\n" + top + "\n"
}

const (
	okPath = `path = "/data"`
	okAddr = `cluster_addr = "https://n1:8201"`
)

// The files of testdata, each with what it must give.
func TestFiles(t *testing.T) {
	want := map[string]*Config{
		"guide.hcl": {
			Source:      Source{Type: DynamoDB, DynamoDBTable: DynamoDBTable{Table: "vault-prod", Region: "eu-central-1", HAEnabled: true}},
			Destination: Destination{Type: Raft, Path: "/opt/vault/data", NodeID: "10.0.1.21", Address: "10.0.1.21:8201"},
			ClusterAddr: "https://10.0.1.21:8201",
		},
		"every_key.hcl": {
			Source: Source{Type: DynamoDB, DynamoDBTable: DynamoDBTable{Table: "vault-data", Region: "eu-west-1", Endpoint: "http://127.0.0.1:8000",
				AccessKey: "AKIAEXAMPLE", SecretKey: "sesame/open", SessionToken: "token",
				HAEnabled: true, MaxRetries: ptr(7), MaxParallel: 64}},
			Destination: Destination{Type: Raft, Path: "/opt/vault/data", NodeID: "vault-1", Address: "vault-1:8201", WAL: true, MaxEntrySize: 2 << 20},
			ClusterAddr: "https://vault-1:8201",
		},
		"json.json": {
			Source:      Source{Type: DynamoDB, DynamoDBTable: DynamoDBTable{Table: "vault-prod", Region: "us-east-1", HAEnabled: true, MaxRetries: ptr(3)}},
			Destination: Destination{Type: Raft, Path: "/opt/vault/data", NodeID: "vault-1", Address: "[fd00::1]:8201"},
			ClusterAddr: "https://[fd00::1]:8201",
		},
		"guide_unfilled.hcl": nil, // refused, see TestGuidePlaceholders
	}
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) != len(want) {
		t.Fatalf("testdata has %d files (%v), the table %d", len(files), err, len(want))
	}
	for _, path := range files {
		w, known := want[filepath.Base(path)]
		if !known {
			t.Errorf("%s is in no test", path)
		}
		got, err := Load(path, vars{}.lookup)
		if w == nil {
			if !errors.Is(err, ErrConfig) {
				t.Errorf("%s: error %v, want ErrConfig", path, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if !reflect.DeepEqual(got, w) {
			t.Errorf("%s:\n got %#v\nwant %#v", path, got, w)
		}
	}
}

// TestOtherSources: what is no table lies on this machine, and the variables of a raft
// destination are not its own.
func TestOtherSources(t *testing.T) {
	for source, want := range map[string]Source{
		`storage_source "raft" { path = "/a//b" }`:                            {Type: Raft, Paths: []string{"/a/b"}},
		`storage_source "Raft" { node_id = "x" raft_wal = true path = "/a" }`: {Type: Raft, Paths: []string{"/a"}},
		`storage_source "raft" { path = "/a" paths = ["/b", "c/"] }`:          {Type: Raft, Paths: []string{"/a", "/b", "c"}},
		`storage_source "raft_snapshot" { path = "backup.snap" }`:             {Type: RaftSnapshot, Paths: []string{"backup.snap"}},
		`storage_source "dynamodb_export" { path = "./AWSDynamoDB/0123" }`:    {Type: DynamoDBExport, Paths: []string{"AWSDynamoDB/0123"}},
	} {
		src := strings.ReplaceAll(strings.ReplaceAll(source, "{ ", "{\n"), " }", "\n}") + "\nstorage_destination \"raft\" {\n" + okPath + "\n}\n" + okAddr
		src = strings.NewReplacer(` raft_wal`, "\nraft_wal", ` path =`, "\npath =", ` paths =`, "\npaths =").Replace(src)
		cfg, err := Parse("m.hcl", []byte(src), vars{"VAULT_RAFT_PATH": "/elsewhere", "VAULT_RAFT_NODE_ID": "n9"}.lookup)
		if err != nil || !reflect.DeepEqual(cfg.Source, want) || cfg.Destination.Path != "/elsewhere" || len(cfg.Warnings) > 0 {
			t.Errorf("%s: %+v, %v, want %+v", source, cfg, err, want)
		}
	}
}

// TestOtherDestinations: each stands with what its stanza and the environment say, and
// none but a node needs a cluster_addr.
func TestOtherDestinations(t *testing.T) {
	for destination, want := range map[string]Destination{
		`storage_destination "dynamodb" { table = "back" }`: {Type: DynamoDB,
			DynamoDBTable: DynamoDBTable{Table: "back", Region: "eu-west-1", ReadUnits: 5, WriteUnits: 40}},
		`storage_destination "dynamodb" { table = "back" billing_mode = "PAY_PER_REQUEST" }`: {Type: DynamoDB,
			DynamoDBTable: DynamoDBTable{Table: "back", Region: "eu-west-1"}},
		`storage_destination "raft_snapshot" { path = "/b//c.snap" max_entry_size = "2097152" }`: {Type: RaftSnapshot, Path: "/b/c.snap", MaxEntrySize: 2 << 20},
		`storage_destination "file" { path = "files/" }`:                                         {Type: Files, Path: "files"},
	} {
		src := strings.NewReplacer("{ ", "{\n", " }", "\n}", " billing_mode", "\nbilling_mode", " max_entry", "\nmax_entry").Replace(destination) + "\nstorage_source \"raft\" {\npath = \"/a\"\n}\n"
		cfg, err := Parse("m.hcl", []byte(src), vars{"VAULT_RAFT_PATH": "/elsewhere", "AWS_REGION": "eu-west-1", "AWS_DYNAMODB_WRITE_CAPACITY": "40"}.lookup)
		if err != nil || !reflect.DeepEqual(cfg.Destination, want) || cfg.ClusterAddr != "" || len(cfg.Warnings) > 0 {
			t.Errorf("%s: %+v, %v, want %+v", destination, cfg, err, want)
		}
	}
}

// The example that an empty file is answered with must itself work.
func TestExampleParses(t *testing.T) {
	cfg, err := Parse("example", []byte(example), nil)
	if err != nil || len(cfg.Warnings) > 0 {
		t.Fatalf("%v, warnings %v", err, cfg)
	}
}

func TestGuidePlaceholders(t *testing.T) {
	_, err := Load("testdata/guide_unfilled.hcl", vars{}.lookup)
	for _, want := range []string{
		`guide_unfilled.hcl:2: storage_source: ha_enabled is "<true or false>", want your own value; replace the guide's placeholder`,
		`guide_unfilled.hcl:3: storage_source: region is "<REGION>"`,
		`guide_unfilled.hcl:4: storage_source: table is "<DYNAMODB TABLE NAME>"`,
		`guide_unfilled.hcl:8: storage_destination: node_id is "<Hostname / IP of current node>"`,
		`guide_unfilled.hcl:10: cluster_addr is "https://<Hostname / IP of current node>:8201", want a URL with a host and a port; replace the guide's placeholder`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

func TestValues(t *testing.T) {
	tests := []struct {
		name                     string
		source, destination, top string // defaults: nothing, okPath, okAddr
		env                      vars
		want                     func(*Config) // changes the defaults
	}{
		{name: "defaults"},
		{name: "type in any case", top: okAddr, want: nil},
		{name: "keys of the top level in any case", top: `Cluster_Addr = "https://n1:8201"`},
		{name: "strings", source: `ha_enabled = "true"` + "\n" + `max_parallel = "5"` + "\n" + `dynamodb_max_retries = "2"`,
			want: func(c *Config) { c.Source.HAEnabled, c.Source.MaxParallel, c.Source.MaxRetries = true, 5, ptr(2) }},
		{name: "numbers", source: "ha_enabled = 1\nmax_parallel = 0x10\ndynamodb_max_retries = 0\ntable = 1234",
			want: func(c *Config) {
				c.Source.HAEnabled, c.Source.MaxParallel, c.Source.MaxRetries, c.Source.Table = true, 16, ptr(0), "1234"
			}},
		{name: "floats", source: "max_parallel = 5.0", want: func(c *Config) { c.Source.MaxParallel = 5 }},
		{name: "booleans", source: "ha_enabled = true", destination: okPath + "\nraft_wal = true",
			want: func(c *Config) { c.Source.HAEnabled, c.Destination.WAL = true, true }},
		{name: "false", source: `ha_enabled = "0"`, destination: okPath + "\nraft_wal = false"},
		{name: "the default of retries", source: "dynamodb_max_retries = -1"},
		{name: "empty is not set", source: "table = \"\"\nregion = \"\"\nha_enabled = \"\"\nmax_parallel = \"\"", destination: okPath + "\nnode_id = \"\""},
		{name: "table ARN", source: `table = "arn:aws:dynamodb:eu-west-1:123456789012:table/vault"`,
			want: func(c *Config) { c.Source.Table = "arn:aws:dynamodb:eu-west-1:123456789012:table/vault" }},
		{name: "bare endpoint", source: `endpoint = "dynamodb.internal:8000"`,
			want: func(c *Config) { c.Source.Endpoint = "https://dynamodb.internal:8000" }},
		{name: "path is cleaned, not made absolute", destination: `path = "./data//vault/"`,
			want: func(c *Config) { c.Destination.Path = "data/vault" }},
		{name: "heredoc", destination: "path = <<EOF\n/da", top: okAddr, want: nil},
		{name: "max_entry_size", destination: okPath + "\nmax_entry_size = \"2097152\"",
			want: func(c *Config) { c.Destination.MaxEntrySize = 2 << 20 }},
		{name: "IPv6", top: `cluster_addr = "https://[fd00::1]:8201"`,
			want: func(c *Config) {
				c.ClusterAddr, c.Destination.Address = "https://[fd00::1]:8201", "[fd00::1]:8201"
			}},
		{name: "any scheme and a slash", top: `cluster_addr = "http://n1:8201/"`,
			want: func(c *Config) { c.ClusterAddr = "http://n1:8201/" }},
		{name: "same VAULT_CLUSTER_ADDR", env: vars{"VAULT_CLUSTER_ADDR": "https://n1:8201"}},
		{name: "VAULT_CLUSTER_ADDR that differs in nothing", env: vars{"VAULT_CLUSTER_ADDR": "http://N1:8201/"}},
		{name: "comments and CRLF", source: "# a\r\n// b\r\n/* c */ max_parallel = 3 # d\r",
			want: func(c *Config) { c.Source.MaxParallel = 3 }},

		{name: "the environment beats the stanza",
			source:      "table = \"a-table\"\nendpoint = \"http://a\"\nregion = \"a\"\ndynamodb_max_retries = 1\nha_enabled = false",
			destination: "path = \"/a\"\nnode_id = \"a\"",
			env: vars{"AWS_DYNAMODB_TABLE": "b-table", "AWS_DYNAMODB_ENDPOINT": "http://b", "AWS_DYNAMODB_REGION": "b",
				"AWS_DYNAMODB_MAX_RETRIES": "9", "DYNAMODB_HA_ENABLED": "1", "VAULT_RAFT_PATH": "/b", "VAULT_RAFT_NODE_ID": "b"},
			want: func(c *Config) {
				c.Source = Source{Type: DynamoDB, DynamoDBTable: DynamoDBTable{Table: "b-table", Endpoint: "http://b", Region: "b", MaxRetries: ptr(9), HAEnabled: true}}
				c.Destination.Path, c.Destination.NodeID = "/b", "b"
			}},
		{name: "the environment alone", destination: "", env: vars{"VAULT_RAFT_PATH": "/b"}, want: func(c *Config) { c.Destination.Path = "/b" }},
		{name: "an empty variable is not set", source: `region = "a"`, env: vars{"AWS_DYNAMODB_REGION": "", "AWS_REGION": "", "VAULT_RAFT_PATH": ""},
			want: func(c *Config) { c.Source.Region = "a" }},
		{name: "order of the regions 1", env: vars{"AWS_DYNAMODB_REGION": "r1", "AWS_REGION": "r2", "AWS_DEFAULT_REGION": "r3"}, want: func(c *Config) { c.Source.Region = "r1" }},
		{name: "order of the regions 2", env: vars{"AWS_REGION": "r2", "AWS_DEFAULT_REGION": "r3"}, want: func(c *Config) { c.Source.Region = "r2" }},
		{name: "order of the regions 3", source: `region = "a"`, env: vars{"AWS_DEFAULT_REGION": "r3"}, want: func(c *Config) { c.Source.Region = "r3" }},
		{name: "good variable over bad stanza", source: "ha_enabled = [1]\ndynamodb_max_retries = \"x\"", env: vars{"DYNAMODB_HA_ENABLED": "true", "AWS_DYNAMODB_MAX_RETRIES": "1"},
			want: func(c *Config) { c.Source.HAEnabled, c.Source.MaxRetries = true, ptr(1) }},
		{name: "capacity, which a source does not use", env: vars{"AWS_DYNAMODB_READ_CAPACITY": "5", "AWS_DYNAMODB_WRITE_CAPACITY": "5", "AWS_DYNAMODB_BILLING_MODE": "PROVISIONED", "AWS_DYNAMODB_ALLOW_UPDATES": "anything"}, want: func(c *Config) { c.Source.ReadUnits, c.Source.WriteUnits = 5, 5 }},
		{name: "credentials: the stanza beats the environment", source: "access_key = \"a\"\nsecret_key = \"b\"",
			env:  vars{"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_SESSION_TOKEN": "z"},
			want: func(c *Config) { c.Source.AccessKey, c.Source.SecretKey = "a", "b" }},
		{name: "credentials of the environment are left to the SDK",
			env: vars{"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "AWS_SESSION_TOKEN": "z"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := file(tt.source, cmp.Or(tt.destination, okPath), cmp.Or(tt.top, okAddr))
			switch tt.name {
			case "type in any case":
				src = strings.NewReplacer(`"raft"`, `"RAFT"`, `"dynamodb"`, `"DynamoDB"`).Replace(src)
			case "the environment alone":
				src = file("", "", okAddr)
			case "heredoc": // the text of a heredoc ends in a line break, which no path has
				src = file("", "path = \"/data\"\nautopilot_upgrade_version = <<EOF\nx\nEOF\n", okAddr)
			}
			want := &Config{
				Source:      Source{Type: DynamoDB, DynamoDBTable: DynamoDBTable{Table: DefaultTable, Region: DefaultRegion}},
				Destination: Destination{Type: Raft, Path: "/data", Address: "n1:8201"},
				ClusterAddr: "https://n1:8201",
			}
			if tt.want != nil {
				tt.want(want)
			}
			got, err := Parse("m.hcl", []byte(src), tt.env.lookup)
			if err != nil {
				t.Fatal(err)
			}
			got.Overrides = nil // see TestOverrides
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

func utf16le(s string) string {
	var b []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return string(b)
}

func TestErrors(t *testing.T) {
	both := file("", okPath, "")
	source := "storage_source \"dynamodb\" {\n}\n"
	destination := "storage_destination \"raft\" {\npath = \"/data\"\n}\n"
	tests := []struct {
		name string
		src  string
		env  vars
		want []string
	}{
		{"empty", "", nil, []string{"m.hcl: the configuration is empty", example}},
		{"blank", " \n\t", nil, []string{"m.hcl: the configuration is empty"}},
		{"comment only", "# nothing\n", nil, []string{"no storage_source block", "no storage_destination block", "no cluster_addr"}},
		{"too large", strings.Repeat("#", maxSize+1), nil, []string{"larger than 256 KiB"}},

		{"no source", destination + okAddr, nil, []string{`m.hcl: no storage_source block; write storage_source "dynamodb" { … }`}},
		{"no destination", source + okAddr, nil, []string{`m.hcl: no storage_destination block; write storage_destination "raft" { … }`}},
		{"two sources", source + source + destination + okAddr, nil, []string{"m.hcl:3: a second storage_source block; the first is on line 1; keep exactly one"}},
		{"two destinations", source + destination + destination + okAddr, nil, []string{"m.hcl:6: a second storage_destination block; the first is on line 3"}},
		{"unlabelled source", "storage_source {\n}\n" + destination + okAddr, nil, []string{`m.hcl:1: the storage_source block does not say its type; write storage_source "dynamodb" { … }`}},
		{"two labels", "storage_source \"dynamodb\" \"x\" {\n}\n" + destination + okAddr, nil, []string{`m.hcl:1: the storage_source block has 2 labels`}},
		{"no block", "storage_source = \"dynamodb\"\n" + destination + okAddr, nil, []string{`m.hcl:1: storage_source is a single value, want a block`}},
		{"list for a block", "storage_source = [1]\n" + destination + okAddr, nil, []string{`m.hcl:1: storage_source is a list, want a block`}},
		{"unsupported source", "storage_source \"consul\" {\n}\n" + destination + okAddr, nil, []string{`m.hcl:1: storage_source type "consul" is not supported, only ["dynamodb" "raft" "raft_snapshot" "dynamodb_export" "file"]`}},
		{"a snapshot without a path", "storage_source \"raft_snapshot\" {\n}\n" + destination + okAddr, nil, []string{`m.hcl:1: storage_source: no path; add path = "backup.snap"`}},
		{"a misspelt path of an export", "storage_source \"dynamodb_export\" {\n pth = \"x\"\n}\n" + destination + okAddr, nil, []string{`m.hcl:2: storage_source: "pth" is no key of Vault, and there is no path`}},
		{"paths that are one text", "storage_source \"raft\" {\n paths = \"/a\"\n}\n" + destination + okAddr, nil, []string{`m.hcl:2: storage_source: paths is a single value, want a list of texts`}},
		{"a home directory among paths", "storage_source \"raft\" {\n paths = [\"/a\", \"~/b\"]\n}\n" + destination + okAddr, nil, []string{`m.hcl:2: storage_source: path is "~/b", want its own name`}},
		{"unsupported destination", source + "storage_destination \"consul\" {\n}\n" + okAddr, nil, []string{`m.hcl:3: storage_destination type "consul" is not supported, only ["raft" "raft_snapshot" "file" "dynamodb"]`}},
		{"a pair that is none", source + "storage_destination \"dynamodb\" {\n}\n", nil, []string{`m.hcl:3: storage_source "dynamodb" is not copied to storage_destination "dynamodb"; it is copied to "raft", "raft_snapshot" or "file"`}},
		{"half a credential of the destination", "storage_source \"raft\" {\npath = \"/a\"\n}\nstorage_destination \"dynamodb\" {\naccess_key = \"a\"\n}\n", nil, []string{`m.hcl:5: storage_destination: access_key without secret_key`}},
		{"a snapshot to nowhere", source + "storage_destination \"raft_snapshot\" {\n}\n", nil, []string{`m.hcl:3: storage_destination: no path; add path = "/opt/vault/way-back.snap", the file that will be written`}},
		{"a server's block", "\nstorage \"dynamodb\" {\n}\n" + destination + okAddr, nil, []string{`line 2 has "storage": is that the block meant?`}},
		{"a server's block of another type", source + "storage \"consul\" {\n}\n" + okAddr, nil, []string{`no storage_destination block; write storage_destination "raft" { … }`}},
		{"a server's file", "ui = true\nstorage \"dynamodb\" {\n table = \"abc\"\n}\n" + okAddr, nil, []string{"m.hcl:2: this is the configuration of a Vault server (it has \"storage\")", "whose storage_source block has the lines of the storage block here"}},
		{"a server's file without storage", "listener \"tcp\" {\n}\n", nil, []string{"m.hcl:1: this is the configuration of a Vault server (it has \"listener\")"}},
		{"mistyped cluster_addr", both + "cluster-adr = \"https://n1:8201\"", nil, []string{`no cluster_addr; line 8 has "cluster-adr": did you mean cluster_addr?`}},
		{"home directory", file("", `path = "~/vault"`, okAddr), nil, []string{`m.hcl:5: storage_destination: path is "~/vault", want its own name; neither Vault nor dyn2raft replaces ~`}},
		{"home directory in the environment", both + okAddr, vars{"VAULT_RAFT_PATH": "~vault/data"}, []string{`environment variable VAULT_RAFT_PATH is "~vault/data", want`}},
		{"shell variable", file("", `path = "${DATA}/vault"`, okAddr), nil, []string{`replaces the variable ${DATA}: write the whole path`}},

		{"UTF-16 of Windows", "\xff\xfe" + utf16le(both+okAddr), nil, []string{"m.hcl:1: the configuration is encoded in UTF-16", "iconv -f UTF-16 -t UTF-8 m.hcl > m.hcl.utf8"}},
		{"UTF-16 without a byte order mark", utf16le(both + okAddr), nil, []string{"m.hcl:1: the configuration is encoded in UTF-16", "iconv -f UTF-16LE"}},
		{"UTF-16, big end first", "\x00" + utf16le(both+okAddr), nil, []string{"encoded in UTF-16", "iconv -f UTF-16BE"}},
		{"UTF-32", "\xff\xfe\x00\x00a\x00\x00\x00", nil, []string{"encoded in UTF-32"}},
		{"Latin-1", "# a\n# f\xfcr Vault\n" + both + okAddr, nil, []string{"m.hcl:2: the configuration is not encoded in UTF-8: byte 0xfc", "iconv -f WINDOWS-1252"}},
		{"no-break space", "# \u00a0\n" + file("\u00a0\u00a0table = \"abc\"", okPath, okAddr), nil, []string{"m.hcl:3: a no-break space (U+00A0) stands outside of the quotes"}},
		{"typographic quotes", file("table = “abc”", okPath, okAddr), nil, []string{"m.hcl:2: the typographic quote “ (U+201C)"}},
		{"zero-width space", file("table\u200b = \"a\\\"bc\"", okPath, okAddr), nil, []string{"m.hcl:2: a zero-width space (U+200B)"}},
		{"no-break space in JSON", "{\n\u00a0\"cluster_addr\": \"https://n1:8201\"}", nil, []string{"m.hcl:2: a no-break space (U+00A0)"}},
		{"nothing of Vault's", "\nresource \"aws_dynamodb_table\" \"x\" {\n}\n", nil, []string{"m.hcl:2: this is not the file that `vault operator migrate` takes: it has \"resource\"", example}},
		{"packed", "\x1f\x8b\x08\x00\x00abc", nil, []string{"m.hcl:1: the configuration is no text"}},
		{"single quotes", file("table = 'abc'", okPath, okAddr), nil, []string{"m.hcl:2: the character ' (U+0027) stands outside of the quotes; put texts in double quotes"}},
		{"YAML", "storage_source:\n  dynamodb:\n", nil, []string{"m.hcl:1: the character : (U+003A)", "YAML"}},
		{"no-break space in the path", file("", "path = \"/data\u00a0\"", okAddr), nil, []string{`m.hcl:5: storage_destination: path is "/data\u00a0", want text without characters that can't be seen; it has a no-break space (U+00A0)`}},
		{"no-break space in the node id", file("", okPath+"\nnode_id = \"n\u200b1\"", okAddr), nil, []string{`it has a zero-width space (U+200B)`}},
		{"mistyped block", "storage_sorce \"dynamodb\" {\n}\n" + destination + okAddr, nil, []string{`no storage_source block; line 1 has "storage_sorce"`}},

		{"no path", file("", "", okAddr), nil, []string{`m.hcl:4: storage_destination: no path; add path = "/opt/vault/data"`}},
		{"empty path", file("", `path = ""`, okAddr), nil, []string{`m.hcl:4: storage_destination: no path`}},
		{"path with a line break", file("", "path = <<EOF\n/data\nEOF\n", okAddr), nil, []string{`m.hcl:5: storage_destination: path is "/data\n", want text without`}},
		{"template in node_id", file("", okPath+"\nnode_id = \"{{ GetPrivateIP }}\"", okAddr), nil, []string{`m.hcl:6: storage_destination: node_id is "{{ GetPrivateIP }}"`, "a {{ template }} works only in a server's configuration", `node_id = "vault-1"`}},
		{"template in VAULT_RAFT_NODE_ID", both + okAddr, vars{"VAULT_RAFT_NODE_ID": "{{ x }}"}, []string{`environment variable VAULT_RAFT_NODE_ID is "{{ x }}", want`}},

		{"misspelt table", file(`tabel = "a"`, okPath, okAddr), nil, []string{`m.hcl:2: storage_source: "tabel" is no key of Vault, and there is no table; did you mean "table"?`}},
		{"short table", file(`tbl = "a"`, okPath, okAddr), nil, []string{`m.hcl:2: storage_source: "tbl" is no key of Vault, and there is no table; did you mean "table"?`}},
		{"other names", file("table_name = \"a\"\naws_region = \"b\"", okPath+"\nid = \"c\"", okAddr), nil, []string{`"table_name" is no key of Vault, and there is no table`, `"aws_region" is no key of Vault, and there is no region`, `"id" is no key of Vault, and there is no node_id`}},
		{"misspelt region", file(`regoin = "eu-west-1"`, okPath, okAddr), nil, []string{`m.hcl:2: storage_source: "regoin" is no key of Vault, and there is no region`}},
		{"misspelt endpoint", file(`endpont = "http://a"`, okPath, okAddr), nil, []string{`there is no endpoint`}},
		{"ha-enabled", file(`HA-Enabled = true`, okPath, okAddr), nil, []string{`there is no ha_enabled`}},
		{"misspelt token", file("access_key = \"a\"\nsecret_key = \"b\"\nsesion_token = \"c\"", okPath, okAddr), nil, []string{`m.hcl:4: storage_source: "sesion_token" is no key of Vault, and there is no session_token`}},
		{"misspelt node_id", file("", okPath+"\nnodeid = \"a\"", okAddr), nil, []string{`m.hcl:6: storage_destination: "nodeid" is no key of Vault, and there is no node_id`}},
		{"misspelt path", file("", `pth = "/data"`, okAddr), nil, []string{`m.hcl:5: storage_destination: "pth" is no key of Vault, and there is no path; did you mean "path"?`}},

		{"no cluster_addr", both, nil, []string{"m.hcl: no cluster_addr", `add at the top level, outside both blocks: cluster_addr = "https://<host name or IP of this node>:8201"`}},
		{"no cluster_addr but the variable", both, vars{"VAULT_CLUSTER_ADDR": "https://n7:8201"}, []string{`no cluster_addr`, `cluster_addr = "https://n7:8201" (the value of VAULT_CLUSTER_ADDR, which only the server reads)`}},
		{"cluster_addr in the block", file("", okPath+"\n"+okAddr, ""), nil, []string{"no cluster_addr; move the cluster_addr of line 6 to the top level"}},
		{"two cluster_addr", both + okAddr + "\n" + okAddr, nil, []string{"m.hcl:9: a second cluster_addr; the first is on line 8"}},
		{"cluster_addr a list", both + `cluster_addr = ["https://n1:8201"]`, nil, []string{"m.hcl:8: cluster_addr is a list, want a URL"}},
		{"cluster_addr a block", both + `cluster_addr "x" { }`, nil, []string{"m.hcl:8: cluster_addr is a block, want a URL"}},
		{"VAULT_CLUSTER_ADDR differs", both + okAddr, vars{"VAULT_CLUSTER_ADDR": "https://n2:8201"}, []string{`m.hcl:8: cluster_addr is "https://n1:8201", but the environment variable VAULT_CLUSTER_ADDR is "https://n2:8201"`, "unset VAULT_CLUSTER_ADDR"}},
		{"VAULT_CLUSTER_ADDR a template", both + okAddr, vars{"VAULT_CLUSTER_ADDR": "https://{{ GetPrivateIP }}:8201"}, []string{"but the environment variable VAULT_CLUSTER_ADDR is"}},
		{"VAULT_CLUSTER_ADDR another port", both + okAddr, vars{"VAULT_CLUSTER_ADDR": "https://n1:8202"}, []string{"but the environment variable VAULT_CLUSTER_ADDR is"}},
		{"template in cluster_addr", both + `cluster_addr = "https://{{ GetPrivateIP }}:8201"`, nil, []string{`m.hcl:8: cluster_addr is "https://{{ GetPrivateIP }}:8201"`, "works only in a server's configuration", `write cluster_addr = "https://HOST:8201"`}},

		{"a list for a value", file(`table = ["a"]`, okPath, okAddr), nil, []string{`m.hcl:2: storage_source: table is a list, want a text`}},
		{"a block for a value", file(`table { }`, okPath, okAddr), nil, []string{`m.hcl:2: storage_source: table is a block`}},
		{"half of the credentials", file(`access_key = "AKIA"`, okPath, okAddr), nil, []string{`m.hcl:2: storage_source: access_key without secret_key`}},
		{"the other half", file(`secret_key = "x"`, okPath, okAddr), nil, []string{`m.hcl:2: storage_source: secret_key without access_key`}},
		{"several at once, in the order of the lines", file("max_parallel = \"x\"\nha_enabled = \"y\"\nregion = \"a b\"", okPath+"\nraft_wal = 7", ""), nil,
			[]string{"m.hcl: no cluster_addr", "m.hcl:2: ", "m.hcl:3: ", "m.hcl:4: ", "m.hcl:8: "}},

		{"unterminated text", "storage_source \"dynamodb\" {\n  table = \"a\n}\n", nil, []string{"m.hcl:2: a quoted text does not end on its line"}},
		{"unterminated block", "storage_source \"dynamodb\" {\n  table = \"a\"\n", nil, []string{"m.hcl:", "close"}},
		{"no =", "storage_source \"dynamodb\" {\n  table \"a\"\n}\n", nil, []string{`m.hcl:3: a key is followed by neither "=" nor "{"`}},
		{"byte order mark", "\xef\xbb\xbfcluster_addr = \"https://n1:8201\"\n", nil, []string{"m.hcl:1: the configuration begins with a byte order mark", "tail -c +4 m.hcl > m.hcl.utf8"}},
		{"nothing HCL", "hello world, this is no configuration", nil, []string{"m.hcl:1: "}},
		{"binary", "\x7fELF\x02\x01\x00\x00", nil, []string{"m.hcl:1: "}},
		{"broken escape", file(`table = "\q"`, okPath, okAddr), nil, []string{"m.hcl:"}},
		{"number too large", file(`max_parallel = 99999999999999999999`, okPath, okAddr), nil, []string{"m.hcl:2: "}},
		{"JSON without a comma", "{\"cluster_addr\": \"https://n1:8201\"\n\"x\": 1}", nil, []string{"m.hcl:2: the JSON is malformed"}},
		{"JSON with more after it", "{}\n{}", nil, []string{"m.hcl:2: the JSON is malformed"}},
		{"JSON bad value", "{\"storage_source\":{\"dynamodb\":{\n\"max_parallel\":\"x\"}},\n\"storage_destination\":{\"raft\":{\"path\":\"/d\"}},\n\"cluster_addr\":\"https://n1:8201\"}", nil,
			[]string{`m.hcl:2: storage_source: max_parallel is "x"`}},
		{"JSON escape that HCL's reader does not know", "{\n\"x\": \"\\/\"}", nil, []string{"m.hcl:2: the configuration is malformed"}},
		{"deep blocks", strings.Repeat("a{", maxSize/2), nil, []string{"m.hcl: this is no configuration of Vault's: it has more than 2000 brackets"}},
		{"deep lists", "a=" + strings.Repeat("[", maxBrackets), nil, []string{"m.hcl:1: "}},
		{"deep JSON", `{"a":` + strings.Repeat("[", maxBrackets-1), nil, []string{"m.hcl:1: "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := Parse("m.hcl", []byte(tt.src), tt.env.lookup)
			if cfg != nil || !errors.Is(err, ErrConfig) {
				t.Fatalf("got %v, %v, want ErrConfig", cfg, err)
			}
			var e *Error
			if !errors.As(err, &e) || e.Problem == "" {
				t.Errorf("%v holds no *Error", err)
			}
			rest := err.Error()
			for _, want := range tt.want {
				_, after, found := strings.Cut(rest, want)
				if !found {
					t.Fatalf("no %q in order in:\n%v", want, err)
				}
				rest = after
			}
		})
	}
}

// Each bad value is reported with its line and key if it stands in the file,
// and with the variable, and no file, if it comes from the environment.
func TestBadValues(t *testing.T) {
	tests := []struct {
		block, key string
		env        string // the variable that holds the same value, if there is one
		bad        []string
		want       string
	}{
		{sourceBlock, "table", "AWS_DYNAMODB_TABLE", []string{"ab", "a b c", "täble", "arn:aws:x y", strings.Repeat("x", 256)}, "a table name"},
		{sourceBlock, "region", "AWS_DYNAMODB_REGION", []string{"us east", "us_east", "-a", "eu.west", "a/b"}, "a region"},
		{sourceBlock, "region", "AWS_REGION", []string{"us east"}, "a region"},
		{sourceBlock, "region", "AWS_DEFAULT_REGION", []string{"us east"}, "a region"},
		{sourceBlock, "endpoint", "AWS_DYNAMODB_ENDPOINT", []string{"ftp://x", "http://", "http://a b", "http://a:99999", "http://a:x", "http://a?b=c", "://", "http://u:p@h"}, "a URL"},
		{sourceBlock, "ha_enabled", "DYNAMODB_HA_ENABLED", []string{"yes", "2", "on"}, `"true" or "false"`},
		{sourceBlock, "max_parallel", "", []string{"many", "-1", "1.5", " 5", "99999999999999999999"}, "a whole number, 0 or more"},
		{sourceBlock, "dynamodb_max_retries", "AWS_DYNAMODB_MAX_RETRIES", []string{"-2", "x"}, "a whole number, -1 or more"},
		{sourceBlock, "read_capacity", "AWS_DYNAMODB_READ_CAPACITY", []string{"x"}, "a whole number"},
		{sourceBlock, "write_capacity", "AWS_DYNAMODB_WRITE_CAPACITY", []string{"x"}, "a whole number"},
		{sourceBlock, "billing_mode", "AWS_DYNAMODB_BILLING_MODE", []string{"provisioned", "FREE"}, "PROVISIONED or PAY_PER_REQUEST"},
		{sourceBlock, "disable_clustering", "", []string{"perhaps"}, `"true" or "false"`},
		{destinationBlock, "path", "VAULT_RAFT_PATH", []string{"/a\nb"}, "text without control characters"},
		{destinationBlock, "node_id", "VAULT_RAFT_NODE_ID", []string{"{{x}}", "a\tb"}, ""},
		{destinationBlock, "raft_wal", "", []string{"yes"}, `"true" or "false"`},
		{destinationBlock, "max_entry_size", "", []string{"0", "1MiB", "-5"}, "a whole number, 1 or more"},
		{destinationBlock, "performance_multiplier", "", []string{"fast"}, "a whole number"},
		{destinationBlock, "retry_join_as_non_voter", "", []string{"x"}, `"true" or "false"`},
		{"", "cluster_addr", "", []string{"n1:8201", "10.0.0.1:8201", "https://n1", "https://:8201", "https://n1:0", "https://n1:65536", "https://n1:x",
			"https://n 1:8201", "https://[::]:8201", "https://0.0.0.0:8201", "https://[zz::1]:8201", "https://fd00::1:8201", "8201", "", "https://{{ x }}:8201", "https://u:p@n1:8201"}, ""},
	}
	for _, tt := range tests {
		for _, bad := range tt.bad {
			t.Run(tt.key+"="+bad, func(t *testing.T) {
				line := fmt.Sprintf("%s = %s", tt.key, strings.ReplaceAll(strconv.Quote(bad), `\u`, `\\u`))
				where := fmt.Sprintf("m.hcl:2: %s: %s is ", tt.block, tt.key)
				src := file(line, okPath, okAddr)
				switch tt.block {
				case destinationBlock:
					src = "\n" + file("", line, okAddr)
					where = fmt.Sprintf("m.hcl:6: %s: %s is ", tt.block, tt.key)
				case "":
					src = file("", okPath, line)
					where = "m.hcl:7: cluster_addr is "
				}
				_, err := Parse("m.hcl", []byte(src), vars{}.lookup)
				if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), where) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("in the file: want %q and %q in: %v", where, tt.want, err)
				}
				if tt.env == "" {
					return
				}
				_, err = Parse("m.hcl", []byte(file("", okPath, okAddr)), vars{tt.env: bad}.lookup)
				if where := "environment variable " + tt.env + " is "; !errors.Is(err, ErrConfig) || !strings.HasPrefix(err.Error(), where) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "m.hcl") {
					t.Errorf("in the environment: want %q and %q, and no file, in: %v", where, tt.want, err)
				}
			})
		}
	}
}

func TestWarnings(t *testing.T) {
	src := strings.Join([]string{
		/* 1 */ `storage_source "dynamodb" {`,
		/* 2 */ `  regoin = "eu-west-1"`, // the environment has a region
		/* 3 */ `  max_retries = 3`,
		/* 4 */ `  readcapacity = "x"`,
		/* 5 */ `  frobnicate = "x"`,
		/* 6 */ `  max_parallel = 1`,
		/* 7 */ `  max_parallel = 2`,
		/* 8 */ `}`,
		/* 9 */ `storage_destination "raft" {`,
		/* 10 */ `  path = "/data"`,
		/* 11 */ `  node-id = "n1"`, // and so has it a node id
		/* 12 */ `  retryjoin { a = 1 }`,
		/* 13 */ `  retry_join { leader_api_addr = "a" }`,
		/* 14 */ `  retry_join { leader_api_addr = "b" }`,
		/* 15 */ `}`,
		/* 16 */ `lisener "tcp" { }`,
		/* 17 */ `listener "tcp" { address = "x" }`,
		/* 18 */ okAddr,
	}, "\n")
	cfg, err := Parse("m.hcl", []byte(src), vars{"AWS_REGION": "eu-west-1", "VAULT_RAFT_NODE_ID": "n2"}.lookup)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`m.hcl:2: storage_source: "regoin" is no key of Vault and is ignored; did you mean "region"?`,
		`m.hcl:3: storage_source: "max_retries" is no key of Vault and is ignored; did you mean "dynamodb_max_retries"?`,
		`m.hcl:4: storage_source: "readcapacity" is no key of Vault and is ignored; did you mean "read_capacity"?`,
		`m.hcl:5: storage_source: "frobnicate" is no key of Vault and is ignored`,
		`m.hcl:7: storage_source: "max_parallel" is set twice, first on line 6; the last one counts, delete the other`,
		`m.hcl:11: storage_destination: "node-id" is no key of Vault and is ignored; did you mean "node_id"?`,
		`m.hcl:12: storage_destination: "retryjoin" is no key of Vault and is ignored; did you mean "retry_join"?`,
		`m.hcl:16: "lisener" is no key of Vault and is ignored; did you mean "listener"?`,
	}
	var got []string
	for _, w := range cfg.Warnings {
		got = append(got, w.Error())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if cfg.Source.MaxParallel != 2 || cfg.Source.Table != DefaultTable || cfg.Destination.NodeID != "n2" {
		t.Errorf("an ignored line had an effect: %+v", cfg)
	}
}

func TestOverrides(t *testing.T) {
	src := file("region = \"a\"\ntable = \"same\"", okPath, okAddr)
	cfg, err := Parse("m.hcl", []byte(src), vars{"AWS_REGION": "b", "AWS_DYNAMODB_TABLE": "same", "VAULT_RAFT_PATH": "/b", "VAULT_RAFT_NODE_ID": "n"}.lookup)
	if err != nil {
		t.Fatal(err)
	}
	want := "[m.hcl:2: storage_source: region is overridden by the environment variable AWS_REGION m.hcl:6: storage_destination: path is overridden by the environment variable VAULT_RAFT_PATH]"
	if got := fmt.Sprint(cfg.Overrides); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The kind of the HA storage is found in each form that Vault's parser knows.
func TestHAStorage(t *testing.T) {
	for text, want := range map[string]string{
		`ha_storage "raft" {}`: "raft", `ha_storage = [{ raft = {} }]`: "raft", `ha_backend { consul {} }`: "unknown", "": "",
		`ha_storage = []`: "unknown", `ha_storage = ["raft"]`: "unknown",
	} {
		cfg, err := Parse("m.hcl", []byte(file("", okPath, okAddr)+"\n"+text), nil)
		if err != nil || cfg.HAStorage != want {
			t.Errorf("%s: %+v, %v, expected %q", text, cfg, err, want)
		}
	}
}

func TestNearest(t *testing.T) {
	for name, want := range map[string]string{
		"tabel": "table", "pth": "path", "cluster-addr": "cluster_addr", "allow_updates": "dynamodb_allow_updates",
		"x": "", "password": "", "id": "", strings.Repeat("table", 1000): "",
	} {
		if got := nearest(name, with(dynamodbKeys, raftKeys)); got != want {
			t.Errorf("nearest(%.20q) = %q, want %q", name, got, want)
		}
	}
}

// A key that is one error is not another one, that of the key it was meant to be.
func TestMisspeltOnce(t *testing.T) {
	for _, src := range []string{
		file("", `pth = "/data"`, okAddr),
		file("access_key = \"a\"\nsecret_ky = \"b\"", okPath, okAddr),
	} {
		if _, err := Parse("m.hcl", []byte(src), nil); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v", err)
		}
	}
}

func TestDeciding(t *testing.T) {
	for name, want := range map[string]string{
		"tbl": "table", "tabel": "table", "table_name": "table", "dynamodb_table": "table", "Backend-Table": "table", "aws_region": "region", "region_name": "region",
		"endpoint_url": "endpoint", "access_key_id": "access_key", "aws_secret_key": "secret_key", "data_path": "path", "pth": "path", "id": "node_id", "raft_node_id": "node_id", "wal": "raft_wal",
		"max_parallels": "", "retry_joi": "", "x": "", "tables_of_mine": "", "frobnicate": "", strings.Repeat("table", 1000): "",
	} {
		if got := deciding(name, with(dynamodbKeys, raftKeys)); got != want {
			t.Errorf("deciding(%.20q) = %q, want %q", name, got, want)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	missing := filepath.Join(dir, "missing.hcl")
	tests := []struct {
		name, path string
		want       string
		is         error
	}{
		{"none given", "", "no configuration file given; name the file for `vault operator migrate`", nil},
		{"missing", missing, missing + ": the configuration does not exist; check its path", fs.ErrNotExist},
		{"directory", dir, dir + ": the configuration is a directory; name the file in it", nil},
		{"empty", write("empty.hcl", "", 0o600), "empty.hcl: the configuration is empty", nil},
		{"too large", write("large.hcl", strings.Repeat("\n", maxSize+1), 0o600), "large.hcl: the configuration is larger than 256 KiB", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Load(tt.path, vars{}.lookup)
			if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want ErrConfig with %q", err, tt.want)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("%v is not %v", err, tt.is)
			}
		})
	}
	// Root, as whom tests may run, reads every file: the message is tested alone.
	t.Run("unreadable", func(t *testing.T) {
		err := readError("m.hcl", &fs.PathError{Op: "open", Path: "m.hcl", Err: fs.ErrPermission})
		if !errors.Is(err, ErrConfig) || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "sudo -u vault") {
			t.Errorf("got %v", err)
		}
	})
}

const (
	accessKey    = "AKIASENTINEL0ACCESS"
	secretKey    = "sentinel/Secret+Key"
	sessionToken = "sentinelSessionToken=="
)

var secretFile = file(fmt.Sprintf("access_key = %q\n  secret_key = %q\nsession_token = %q", accessKey, secretKey, sessionToken), okPath, okAddr)

func leaks(text string) bool {
	for _, s := range []string{accessKey, secretKey, sessionToken} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// No damage to a file that holds credentials makes an error or a warning quote
// them: every byte is removed, and replaced by every character of HCL's syntax.
func TestSecretsNotInErrors(t *testing.T) {
	if _, err := Parse("m.hcl", []byte(secretFile), nil); err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(src string) {
		t.Helper()
		cfg, err := Parse("m.hcl", []byte(src), nil)
		text := fmt.Sprint(err)
		if err == nil {
			text = fmt.Sprintf("%v %+v %#v %v", cfg, cfg, cfg, cfg.Warnings)
		} else {
			refused++
			text += fmt.Sprintf("%+v %#v", err, err)
		}
		if leaks(text) {
			t.Fatalf("a credential leaked: %s\nfrom\n%s", text, src)
		}
	}
	for i := range secretFile {
		try(secretFile[:i])
		try(secretFile[:i] + secretFile[i+1:])
		for _, c := range "\"\\{}[]=<$\n1 #\x00" {
			try(secretFile[:i] + string(c) + secretFile[i:])
			try(secretFile[:i] + string(c) + secretFile[i+1:])
		}
	}
	for _, key := range []string{"access_key", "secret_key", "session_token"} {
		try(file(fmt.Sprintf("%s = [%q]", key, secretKey), okPath, okAddr))
		try(file(fmt.Sprintf("%s %q", key, secretKey), okPath, okAddr))
		try(file(fmt.Sprintf("%s %q { }", key, secretKey), okPath, okAddr))
		try(file(fmt.Sprintf("%s = %q", strings.ToUpper(key), secretKey), okPath, okAddr))
		try(file(fmt.Sprintf("%s = \"%s\\q\"", key, secretKey), okPath, okAddr))
		try(file(fmt.Sprintf("%s = <<EOF\n%s\nEOF", key, secretKey), okPath, okAddr))
		try(fmt.Sprintf(`{"storage_source":{"dynamodb":{%q:%q "x":1}}}`, key, secretKey))
		try(fmt.Sprintf(`{"storage_source":{"dynamodb":{%q:[%q]}}}`, key, secretKey))
		try(fmt.Sprintf(`{"storage_source":{"dynamodb":{%q:"%s}}}`, key, secretKey))
		try(file(fmt.Sprintf("endpoint = \"https://user:%s@h\"", secretKey), okPath, okAddr))
		try(file("", okPath, fmt.Sprintf("cluster_addr = \"https://user:%s@h:x\"", secretKey)))
	}
	if refused < 1000 {
		t.Errorf("only %d damaged files were refused: the test does not test errors", refused)
	}
}

func TestSecretsNotPrinted(t *testing.T) {
	cfg, err := Parse("m.hcl", []byte(secretFile), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(cfg.Source.SecretKey); got != secretKey {
		t.Fatalf("the secret is %q", got) // else there is nothing to leak
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
		for _, what := range []any{cfg, *cfg, cfg.Source, &cfg.Source, cfg.Source.SecretKey} {
			if got := fmt.Sprintf(verb, what); leaks(got) || strings.Contains(got, fmt.Sprintf("%x", secretKey)) || !strings.Contains(got, "[redacted]") {
				t.Errorf("%s of %T prints %s", verb, what, got)
			}
		}
	}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("x", "config", cfg, "source", cfg.Source, "key", cfg.Source.SecretKey)
	}
	marshalled, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{log.String(), string(marshalled), cfg.Source.SecretKey.GoString(), cfg.Source.AccessKey.String()} {
		if leaks(got) || !strings.Contains(got, "[redacted]") {
			t.Errorf("printed %s", got)
		}
	}
	if got := Secret("").String(); got != "" {
		t.Errorf("an empty secret prints %q", got)
	}
}

// vaultView reads a block of src as Vault does, with the library's decoder:
// the oracle for our own reading of values, repeated keys included.
func vaultView(src []byte, block string) (m map[string]string, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	var root *ast.File
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(src), []byte("{")) {
		root, err = jsonparser.Parse(src)
	} else {
		root, err = hclparser.ParseDontErrorOnDuplicateKeys(src)
	}
	if err != nil {
		return nil, false
	}
	found := root.Node.(*ast.ObjectList).Filter(block)
	if len(found.Items) != 1 {
		return nil, false
	}
	var decoded map[string]any
	if err := hcl.DecodeObject(&decoded, found.Items[0].Val); err != nil {
		return nil, false
	}
	m = map[string]string{}
	for k, v := range decoded {
		if s, isText := v.(string); isText {
			m[k] = s
			continue
		}
		text, err := json.Marshal(v)
		if err != nil {
			return nil, false
		}
		m[k] = string(text)
	}
	return m, true
}

// errVaultRefuses says that the library's decoder does not take the file, as
// where a repeated key is first a boolean and then a number.
var errVaultRefuses = errors.New("not a file that Vault would take")

// compareWithVault checks cfg, parsed from src with no environment.
func compareWithVault(src []byte, cfg *Config) error {
	source, ok1 := vaultView(src, sourceBlock)
	destination, ok2 := vaultView(src, destinationBlock)
	if !ok1 || !ok2 {
		return errVaultRefuses
	}
	for _, c := range []struct{ key, got, want string }{
		{"table", cfg.Source.Table, cmp.Or(source["table"], DefaultTable)},
		{"region", cfg.Source.Region, cmp.Or(source["region"], DefaultRegion)},
		{"access_key", string(cfg.Source.AccessKey), source["access_key"]},
		{"secret_key", string(cfg.Source.SecretKey), source["secret_key"]},
		{"session_token", string(cfg.Source.SessionToken), source["session_token"]},
		{"max_parallel", strconv.Itoa(cfg.Source.MaxParallel), cmp.Or(source["max_parallel"], "0")},
		{"path", cfg.Destination.Path, filepath.Clean(destination["path"])},
		{"node_id", cfg.Destination.NodeID, destination["node_id"]},
	} {
		if c.key == "max_parallel" { // "+5" and "05" are 5
			if n, err := strconv.Atoi(c.want); err == nil {
				c.want = strconv.Itoa(n)
			}
		}
		if c.got != c.want {
			return fmt.Errorf("%s is %q, Vault reads %q", c.key, c.got, c.want)
		}
	}
	for _, c := range []struct {
		got  bool
		text string
	}{{cfg.Source.HAEnabled, source["ha_enabled"]}, {cfg.Destination.WAL, destination["raft_wal"]}} {
		if want, _ := strconv.ParseBool(c.text); c.got != want {
			return fmt.Errorf("%v for %q", c.got, c.text)
		}
	}
	return nil
}

func TestSameAsVault(t *testing.T) {
	for _, src := range []string{
		secretFile,
		file("table = \"first\"\ntable = \"second\"\nha_enabled = true\nha_enabled = false\nmax_parallel = 1\nmax_parallel = \"+7\"", okPath, okAddr),
		file("table = 0x10ff\nregion = 1e3", `path = true`, okAddr),
		file("table = <<-EOF\n    abc\n    EOF\n", okPath, okAddr),
		file(`table = "${var.x}"`, okPath, okAddr),
		`{"storage_source":{"dynamodb":{"table":"one-t","table":"two-t","region":null}},"storage_destination":{"raft":{"path":"\u002fd"}},"cluster_addr":"https://n1:8201"}`,
	} {
		cfg, err := Parse("m.hcl", []byte(src), nil)
		if err != nil {
			if m, ok := vaultView([]byte(src), sourceBlock); ok && strings.Contains(err.Error(), strconv.Quote(m["table"])) {
				continue // refused for its value, and the value was Vault's
			}
			t.Errorf("%v\n%s", err, src)
			continue
		}
		if err := compareWithVault([]byte(src), cfg); err != nil {
			t.Errorf("%v\n%s", err, src)
		}
		cfg.Source.Table += "x"
		if compareWithVault([]byte(src), cfg) == nil {
			t.Error("the comparison does not see a wrong table")
		}
	}
}

// FuzzParse: no panic, no file that Vault would read otherwise, nothing usable
// without a table, a region, a path and an address that can be dialled.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds in testdata: %v", err)
	}
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, uint8(0), "")
	}
	f.Add([]byte(secretFile), uint8(0), "https://n1:8201")
	f.Add([]byte(file("table = <<-EOF\n    abc\n    EOF\n", okPath, okAddr)), uint8(8), "eu-west-1")
	f.Add([]byte(`{"storage_source":[{"dynamodb":[{"table":"x"}]}]}`), uint8(20), "{{ x }}")
	f.Add([]byte("storage_source \"raft\" {\npaths = [\"/a\", 1, {}]\n}\nstorage_destination \"raft\" {\npath = \"/data\"\n}\n"+okAddr), uint8(0), "")
	variables := []string{"VAULT_CLUSTER_ADDR"}
	for _, keys := range []map[string]key{dynamodbKeys, raftKeys} {
		for _, name := range slices.Sorted(maps.Keys(keys)) {
			variables = append(variables, keys[name].env...)
		}
	}
	f.Fuzz(func(t *testing.T, src []byte, variable uint8, fromEnv string) {
		check := func(cfg *Config, err error) {
			if err != nil {
				if cfg != nil || !errors.Is(err, ErrConfig) || err.Error() == "" {
					t.Fatalf("%v, %v", cfg, err)
				}
				return
			}
			if !slices.Contains(Destinations(cfg.Source.Type), cfg.Destination.Type) {
				t.Errorf("accepted %+v", cfg)
			}
			host, port, err := net.SplitHostPort(cfg.Destination.Address)
			if n, perr := strconv.Atoi(port); cfg.Destination.Type == Raft && (err != nil || host == "" || perr != nil || n < 1 || n > 65535 || !strings.Contains(cfg.ClusterAddr, cfg.Destination.Address)) {
				t.Errorf("address %q of %q", cfg.Destination.Address, cfg.ClusterAddr)
			}
			if (cfg.Source.Type == DynamoDB) != (len(cfg.Source.Paths) == 0) || (cfg.Source.Type == DynamoDB) != (cfg.Source.Table != "" && cfg.Source.Region != "") {
				t.Errorf("accepted %+v", cfg)
			}
			if (cfg.Destination.Type == DynamoDB) != (cfg.Destination.Path == "") || (cfg.Destination.Type == DynamoDB) != (cfg.Destination.Table != "") || cfg.Source.MaxParallel < 0 ||
				(cfg.Source.AccessKey == "") != (cfg.Source.SecretKey == "") || strings.Contains(cfg.Destination.NodeID, "{{") {
				t.Errorf("accepted %+v", cfg)
			}
			for _, w := range cfg.Warnings {
				if w.Line < 1 || strings.ContainsAny(w.Error(), "\n\x1b") {
					t.Errorf("warning %q", w.Error())
				}
			}
		}
		cfg, err := Parse("m.hcl", src, nil)
		check(cfg, err)
		if err == nil && cfg.Source.Type == DynamoDB && cfg.Destination.Type == Raft {
			if err := compareWithVault(src, cfg); err != nil && err != errVaultRefuses {
				t.Error(err)
			}
		}
		name := variables[int(variable)%len(variables)]
		check(Parse("m.hcl", src, vars{name: fromEnv}.lookup))
	})
}

// TestEnvironment: the variables of the command reference, in its order.
func TestEnvironment(t *testing.T) {
	var got []string
	for _, v := range Environment() {
		got = append(got, v.Name+" "+v.Key)
	}
	want := []string{
		"AWS_DYNAMODB_MAX_RETRIES storage_source.dynamodb_max_retries",
		"AWS_DYNAMODB_ENDPOINT storage_source.endpoint",
		"DYNAMODB_HA_ENABLED storage_source.ha_enabled",
		"AWS_DYNAMODB_REGION storage_source.region",
		"AWS_REGION storage_source.region",
		"AWS_DEFAULT_REGION storage_source.region",
		"AWS_DYNAMODB_TABLE storage_source.table",
		"VAULT_RAFT_NODE_ID storage_destination.node_id",
		"VAULT_RAFT_PATH storage_destination.path",
		"AWS_DYNAMODB_BILLING_MODE storage_destination.billing_mode",
		"AWS_DYNAMODB_MAX_RETRIES storage_destination.dynamodb_max_retries",
		"AWS_DYNAMODB_ENDPOINT storage_destination.endpoint",
		"DYNAMODB_HA_ENABLED storage_destination.ha_enabled",
		"AWS_DYNAMODB_READ_CAPACITY storage_destination.read_capacity",
		"AWS_DYNAMODB_REGION storage_destination.region",
		"AWS_REGION storage_destination.region",
		"AWS_DEFAULT_REGION storage_destination.region",
		"AWS_DYNAMODB_TABLE storage_destination.table",
		"AWS_DYNAMODB_WRITE_CAPACITY storage_destination.write_capacity",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, expected %q", got, want)
	}
	for name := range creation {
		if _, known := dynamodbKeys[name]; !known {
			t.Errorf("%s is no key", name)
		}
	}
}

// A pipe that nobody writes to is an empty file: nothing waits for it. One that is
// written to is read, as of -config <(…).
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if src, err := read(path); err != nil || len(src) != 0 {
		t.Errorf("%q, %v", src, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("a"); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := w.WriteString("b")
		wrote <- errors.Join(err, w.Close())
	}()
	src, err := read(fmt.Sprintf("/dev/fd/%d", r.Fd()))
	if err := errors.Join(err, <-wrote); err != nil || string(src) != "ab" {
		t.Errorf("%q, %v", src, err)
	}
}
