package vaultconfig

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Files of a directory are merged, by name; another directory is not looked into,
// and an empty one is no configuration.
func TestServerDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadServer(dir, nil); err == nil {
		t.Error("an empty directory was taken")
	}
	for name, text := range map[string]string{
		"a.hcl":  "storage \"raft\" {\n node_id = \"first\"\n}\ndisable_mlock = true\n",
		"b.json": `{"cluster_addr":"https://h:1"}`,
		"c.txt":  "{{{",
		"d.hcl":  "storage \"raft\" {\n node_id = \"last\"\n path = \"/d\"\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "e.hcl"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := LoadServer(dir, nil)
	if err != nil || s.Storage != "raft" || s.NodeID != "last" || s.Path != "/d" || s.ClusterAddr != "https://h:1" || !s.MlockSet || len(s.Problems) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

// The text of a damaged file is in no error, and no damage is a panic.
func TestServerDamaged(t *testing.T) {
	const good = "storage \"raft\" {\n  path = \"/d\"\n  node_id = \"topsecret\"\n}\nseal \"transit\" {\n  token = \"topsecret\"\n}\n"
	file := filepath.Join(t.TempDir(), "vault.hcl")
	refused := 0
	for i := range good {
		for _, c := range "\"\\{}[]=\n#\x00" {
			if err := os.WriteFile(file, []byte(good[:i]+string(c)+good[i+1:]), 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := LoadServer(file, nil)
			if err != nil {
				refused++
				if strings.Contains(err.Error(), "topsecret") {
					t.Fatal(err)
				}
				continue
			}
			for _, e := range append(s.Problems, s.Duplicates...) {
				if strings.Contains(e.Error(), "topsecret") {
					t.Fatal(e)
				}
			}
		}
	}
	if refused < 500 {
		t.Errorf("only %d damaged files were refused", refused)
	}
}

// What systemd.exec(5) says of EnvironmentFile=, and what its parser does.
func TestEnvironmentFile(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"A=b":                                   {"A": "b"},
		"# A=c\n; A=d\n\n  A = b  \nB=":         {"A": "b", "B": ""},
		"A=b c  # no comment":                   {"A": "b c  # no comment"},
		`A="b c "`:                              {"A": "b c "},
		`A='b "c" \n'`:                          {"A": `b "c" \n`},
		`A="b \"c\" \n \$"`:                     {"A": `b "c" \n $`},
		`A="b"'c'  d`:                           {"A": "bcd"},
		`A=b"c"`:                                {"A": `b"c"`},
		`A=b\ c\d`:                              {"A": "b cd"},
		"A=b\\\nc\nD=e":                         {"A": "bc", "D": "e"},
		"A=\"b\nc\"\nD=e":                       {"A": "b\nc", "D": "e"},
		"A=b\r\nC=d\r\n":                        {"A": "b", "C": "d"},
		"A=b\nA=c":                              {"A": "c"},
		"export A=b\nB C=d\n1A=e\nno sign\nF=g": {"F": "g"},
		"":                                      {},
	} {
		got, notes := parseEnvironment([]byte(text))
		if !maps.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if strings.HasPrefix(text, "export") && (len(notes) != 4 || !strings.Contains(notes[0], "line 1") || !strings.Contains(notes[3], "line 4")) {
			t.Errorf("%q: notes %q", text, notes)
		}
	}
}
