package verify

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
)

// TestRedacted looks for a user's name in all that is told of keys.
func TestRedacted(t *testing.T) {
	const key = "sys/expire/id/auth/userpass/login/alice/h1"
	secret := func(v any) bool {
		t.Helper()
		b, err := json.Marshal(v)
		check(t, err)
		return strings.Contains(string(b), "alice")
	}
	m := &copier.Record{
		Settings:  map[string]string{"segments": "3"},
		Scan:      copier.ScanStats{Locks: []string{"core/_lock", "core/alice/_x", "core/migration", "_alice"}},
		Load:      copier.LoadStats{LargestKey: key},
		Proof:     &copier.Proof{Contents: &copier.Contents{Groups: []copier.Group{{Name: "sys/expire/"}}, Largest: []copier.Sized{{Key: key, Bytes: 7, KeyBytes: 3, KeySHA256: "alice"}}}},
		Warnings:  []copier.Warning{{Check: "x", Message: `entry "core/alice" is large`}},
		Processes: []copier.Process{{Reason: "read alice"}, {}},
	}
	got := RedactedRecord(m)
	if secret(got) || !secret(m) {
		t.Errorf("%+v", got)
	}
	if got.Proof.Contents.Largest[0] != (copier.Sized{Key: "sys/expire/…", Bytes: 7}) || got.Processes[1].Reason != "" || got.Settings["segments"] != "3" {
		t.Errorf("%+v", got)
	}
	if locks := got.Scan.Locks; locks[0] != "core/_lock" || locks[1] != "core/…" {
		t.Errorf("%+v", got.Scan)
	}
	r := &DirectoryReport{Report: Report{Diffs: []Diff{{Key: key, Kind: Extra, Known: "leases"}, {Key: "alice", KeyBytes: 5, KeySHA256: "alice"}}, Scan: copier.ScanStats{Locks: []string{"core/alice/_x"}}}}
	if got := r.Redacted(); secret(got) || got.Diffs[0] != (Diff{Key: "sys/expire/…", Kind: Extra, Known: "leases"}) || got.Diffs[1].Key != "…" {
		t.Errorf("%+v", got)
	}
	// What is said of damage names keys in each of their forms.
	for _, key := range []string{key, `a "quoted" \alice`, "alice\x00", "\xffalice", "alice" + strings.Repeat("x", 4000), "…alice"} {
		in := &Inspection{Damage: "page 7: key " + copier.NameKey([]byte(key)) + " stands behind key " + copier.NameKey([]byte("z")), Largest: []copier.Sized{{Key: key}}}
		in.Log.Damage = in.Damage
		if got := in.Redacted(); secret(got) || got.Damage != `page 7: key "…" stands behind key "…"` {
			t.Errorf("%q: %+v", key, got)
		}
	}
}
