package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/cmd/dyn2raft/hints"
	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/verify"
)

// TestSpool writes reports with and without differences, which must be what a
// report that holds them is, and leaves nothing behind.
func TestSpool(t *testing.T) {
	for _, n := range []int{0, 1, 3, 5000} {
		dir := t.TempDir()
		found := &spool{dir: dir}
		want := &verify.DirectoryReport{Report: verify.Report{Destination: copier.Info{Name: "here\n  \"diffs\": []"}, Diffs: []verify.Diff{}}}
		for i := range n {
			d := verify.Diff{Kind: verify.Missing, Key: fmt.Sprintf("<key> \n%d", i), Source: &verify.Value{Bytes: int64(i), SHA256: strings.Repeat("0", 64)}}
			if err := found.add(d); err != nil {
				t.Fatal(err)
			}
			want.Diffs = append(want.Diffs, d)
		}
		var b bytes.Buffer
		p := &printer{stdout: &b}
		if err := encodeReport(p.stdout, &verify.DirectoryReport{Report: verify.Report{Destination: want.Destination, Diffs: []verify.Diff{}}}, found); err != nil {
			t.Fatal(err)
		}
		got := &verify.DirectoryReport{}
		if err := json.Unmarshal(b.Bytes(), got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%d differences: %v, %.300s", n, err, b.String())
		}
		var whole bytes.Buffer
		if err := (&printer{stdout: &whole}).encode(want); err != nil || whole.String() != b.String() {
			t.Errorf("%d differences: %v, written otherwise than a report that holds them", n, err)
		}
		b.Reset()
		if err := p.name(want, found, "table", "directory"); err != nil || strings.Count(b.String(), "\n") != n {
			t.Errorf("%d differences: %v, %.300s", n, err, b.String())
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		found.close()
		b.Reset()
		if err := encodeReport(p.stdout, want, found); n > 0 && (err == nil || b.Len() > 0) {
			t.Errorf("a work file that can't be read: %v, and %d bytes of JSON", err, b.Len())
		}
	}
	gone := &spool{dir: filepath.Join(t.TempDir(), "gone")}
	if err := gone.add(verify.Diff{}); !errors.Is(err, copier.ErrDestination) || hints.Of(err) == "" {
		t.Errorf("no directory: %v", err)
	}
}
