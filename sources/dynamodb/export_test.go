package dynamodb

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/copiertest"
)

func TestExportContract(t *testing.T) {
	x := newExport(3)
	var want []copier.Entry
	for i := range 9000 {
		e := copier.Entry{Key: fmt.Appendf(nil, "logical/kv/%05d", i), Value: bytes.Repeat([]byte{byte(i)}, i%900)}
		want = append(want, e)
		x.add(i%2, exportItem("logical/kv", fmt.Sprintf("%05d", i), fmt.Sprintf(`{"B":%q}`, base64.StdEncoding.EncodeToString(e.Value)), ""))
	}
	x.add(0, exportItem("logical", "kv/", `{"NULL":true}`, ""))
	x.add(1, exportItem("core", "_lock", `{"B":"eA=="}`, `,"Identity":{"B":"eA=="},"Expires":{"N":"1"}`))
	x.ending = ".checksum" // as the developer guide names them
	if _, err := NewExport(x.write(t)).Open(t.Context()); err != nil {
		t.Error(err)
	}
	x.ending = ""
	dir := x.write(t)
	copiertest.TestSource(t, func() copier.Source { return NewExport(dir) }, want)

	info, err := NewExport(dir).Open(t.Context())
	if err != nil || info.Items != 9002 || !info.Exact || info.Name != "vault" {
		t.Errorf("%+v, %v, want table vault with exactly 9002 items", info, err)
	}
	_, _, stats, err := scanAll(t, NewExport(dir))
	if err != nil || stats.Markers != 1 || len(stats.Locks) != 1 || stats.Entries != 9000 {
		t.Errorf("%+v, %v, want 9000 entries, a marker and a lock", stats, err)
	}
}

func TestExportRefused(t *testing.T) {
	item := exportItem("core", "keyring", `{"B":"eA=="}`, "")
	for name, change := range map[string]func(*export){
		"another version":       func(x *export) { x.summary["version"] = "2021-01-01" },
		"in Ion":                func(x *export) { x.summary["outputFormat"] = "ION" },
		"incremental":           func(x *export) { x.summary["exportType"] = "INCREMENTAL_EXPORT" },
		"another number in all": func(x *export) { x.summary["itemCount"] = 7 },
		"another number in one": func(x *export) {
			x.lines[0], x.summary["itemCount"] = strings.Replace(x.lines[0], `"itemCount":1`, `"itemCount":2`, 1), 2
		},
		"a file twice":           func(x *export) { x.lines = append(x.lines, x.lines[0]) },
		"no such file":           func(x *export) { x.lines[0] = strings.Replace(x.lines[0], "file0", "other", 1) },
		"another MD5":            func(x *export) { x.lines[0] = strings.Replace(x.lines[0], `"md5Checksum":"`, `"md5Checksum":"A`, 1) },
		"no manifest of files":   func(x *export) { x.without = "manifest-files.json" },
		"no checksum":            func(x *export) { x.without = "manifest-files.md5" },
		"a wrong checksum":       func(x *export) { x.sum = "AAAA" },
		"a line that is no item": func(x *export) { x.files[0] = []string{`{"Itme":{}}`} },
	} {
		x := newExport(1)
		x.add(0, item)
		x.prepare()
		change(x)
		if _, _, _, err := scanAll(t, NewExport(x.write(t))); !errors.Is(err, ErrExport) || !errors.Is(err, copier.ErrSource) {
			t.Errorf("%s: %v, want ErrExport", name, err)
		}
	}
}

// TestExportDamage changes each byte of a file of items.
func TestExportDamage(t *testing.T) {
	x := newExport(1)
	for i := range 3 {
		x.add(0, exportItem("logical", fmt.Sprint(i), `{"B":"eA=="}`, ""))
	}
	dir := x.write(t)
	name := filepath.Join(dir, "data", "file0.json.gz")
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1 << (i % 8)
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := scanAll(t, NewExport(dir)); !errors.Is(err, ErrExport) {
			t.Errorf("byte %d is changed: %v, want ErrExport", i, err)
		}
	}
}

// TestExportNotVaults has an item that no Vault has written: it is named, as a table's is.
func TestExportNotVaults(t *testing.T) {
	x := newExport(1)
	x.add(0, exportItem("core", "odd", `{"S":"text"}`, ""))
	_, _, _, err := scanAll(t, NewExport(x.write(t)))
	if !errors.Is(err, ErrNotVaultItem) || !strings.Contains(err.Error(), "odd") {
		t.Errorf("%v, want ErrNotVaultItem and its name", err)
	}
}

// scanAll opens a source and reads all of it.
func scanAll(t *testing.T, src copier.Source) (copier.Info, int, copier.ScanStats, error) {
	t.Helper()
	info, err := src.Open(t.Context())
	if err != nil {
		return info, 0, copier.ScanStats{}, err
	}
	sorted, stats, err := copier.Scan(t.Context(), src, copier.ScanOptions{WorkDir: t.TempDir()})
	if err != nil {
		return info, 0, stats, err
	}
	return info, int(stats.Entries), stats, sorted.Close()
}

// An export is a folder to be.
type export struct {
	files   [][]string // lines
	summary map[string]any
	lines   []string // of manifest-files.json
	without string   // the name of a file that is left out
	sum     string   // in place of each checksum
	ending  string   // of their files; "" is that of real exports
}

func newExport(files int) *export {
	return &export{files: make([][]string, files)}
}

func (x *export) add(file int, line string) { x.files[file] = append(x.files[file], line) }

func exportItem(path, key, value, more string) string {
	return fmt.Sprintf(`{"Item":{"Path":{"S":%q},"Key":{"S":%q},"Value":%s%s}}`, path, key, value, more)
}

func exportData(lines []string) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	for _, line := range lines {
		_, _ = z.Write([]byte(line + "\n"))
	}
	_ = z.Close()
	return out.Bytes()
}

// prepare makes the manifests of what the files hold.
func (x *export) prepare() {
	items := 0
	for i, lines := range x.files {
		items += len(lines)
		sum := md5.Sum(exportData(lines))
		x.lines = append(x.lines, fmt.Sprintf(`{"itemCount":%d,"md5Checksum":%q,"etag":"x-1","dataFileS3Key":"backup/AWSDynamoDB/01/data/file%d.json.gz"}`,
			len(lines), base64.StdEncoding.EncodeToString(sum[:]), i))
	}
	x.summary = map[string]any{"version": "2020-06-30", "exportArn": "arn:x", "tableArn": "arn:aws:dynamodb:us-east-1:1:table/vault", "tableId": "id",
		"exportTime": "2026-01-01T00:00:00Z", "manifestFilesS3Key": "backup/AWSDynamoDB/01/manifest-files.json", "billedSizeBytes": 9, "itemCount": items,
		"outputFormat": "DYNAMODB_JSON"}
}

func (x *export) write(t *testing.T) string {
	t.Helper()
	if x.summary == nil {
		x.prepare()
	}
	dir := t.TempDir()
	put := func(name string, data []byte) {
		if name == x.without {
			return
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, lines := range x.files {
		put(fmt.Sprintf("data/file%d.json.gz", i), exportData(lines))
	}
	summary, err := json.Marshal(x.summary)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"manifest-summary": summary, "manifest-files": []byte(strings.Join(x.lines, "\n"))} {
		sum := md5.Sum(data)
		text := base64.StdEncoding.EncodeToString(sum[:])
		if x.sum != "" {
			text = x.sum
		}
		put(name+".json", data)
		put(name+cmp.Or(x.ending, ".md5"), []byte(text))
	}
	return dir
}
