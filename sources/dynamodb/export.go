package dynamodb

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sources/internal/sequential"
)

// ErrExport is returned when a folder is not that of a full export, or lacks a part of it,
// or something in it is not as DynamoDB has written it.
var ErrExport = errors.New("it is not a whole export of a table")

// exportVersion is the version of an export's manifest that is known.
const exportVersion = "2020-06-30"

const (
	maxExportManifest = 256 << 20 // of a million files, in bytes
	// maxExportLine is more than the JSON of any item has: 400 KB, with each byte escaped.
	maxExportLine = 4 << 20
	// exportPage is about how many bytes of items a page has.
	exportPage = 1 << 20
)

// An Export is a full export of a table to S3 as a source, in a local folder: what
// `aws s3 sync` makes of the folder AWSDynamoDB/<id> of the bucket. It is safe for
// concurrent use.
//
// Its form is that of the developer guide ("DynamoDB table export output format"), with
// manifests of version 2020-06-30 and items in DynamoDB's JSON. Incremental exports, and
// those in Ion, are refused. An export is of one moment, and holds the locks of that moment
// too; nothing can be locked.
type Export struct {
	dir     string
	summary exportSummary
	data    []exportFile
	files   sequential.Files
}

var _ copier.Source = (*Export)(nil)

// An exportSummary is manifest-summary.json, as far as it matters.
type exportSummary struct {
	Version   string `json:"version"`
	ExportARN string `json:"exportArn"`
	TableARN  string `json:"tableArn"`
	TableID   string `json:"tableId"`
	Time      string `json:"exportTime"`
	FilesKey  string `json:"manifestFilesS3Key"`
	Bytes     int64  `json:"billedSizeBytes"`
	Items     int64  `json:"itemCount"`
	Format    string `json:"outputFormat"`
	Type      string `json:"exportType"` // missing in older ones
}

// An exportFile is a line of manifest-files.json.
type exportFile struct {
	Items int64  `json:"itemCount"`
	MD5   string `json:"md5Checksum"` // of the compressed file, in base64
	Key   string `json:"dataFileS3Key"`
}

// NewExport returns the export in a folder as a source. It does nothing yet.
func NewExport(dir string) *Export {
	e := &Export{dir: dir}
	e.files.Open = func(i int) (sequential.Cursor, error) {
		if i >= len(e.data) {
			return nil, e.fail(fmt.Errorf("%w: there is no file %d of %d", copier.ErrMoved, i, len(e.data)))
		}
		return e.openFile(e.data[i])
	}
	return e
}

func (e *Export) fail(err error) error {
	out := &copier.Error{Kind: copier.ErrSource, Op: "read export " + e.dir, Err: err}
	if errors.Is(err, ErrExport) {
		out.Code = NotAnExport
	}
	return out
}

// An ExportFact is what an export tells of itself, as "dynamodb_export" in [copier.Info].
type ExportFact struct {
	// TableARN names the table, and Time is the moment that the export is of, as
	// DynamoDB writes it: RFC 3339, in UTC.
	TableARN string `json:"table_arn"`
	Time     string `json:"time"`
}

// Open implements [copier.Source]. It reads the manifests, and finds out whether the files
// that they name are there. An error wraps [ErrExport] where they are not what DynamoDB has
// written.
func (e *Export) Open(ctx context.Context) (copier.Info, error) {
	if err := e.read(); err != nil {
		return copier.Info{}, e.fail(err)
	}
	name := e.summary.TableARN
	if _, after, ok := strings.Cut(name, ":table/"); ok {
		name = after
	}
	dir, err := filepath.Abs(e.dir)
	if err != nil {
		return copier.Info{}, e.fail(err)
	}
	fact, err := copier.NewFact(1, ExportFact{e.summary.TableARN, e.summary.Time})
	// The table itself has the ID that is its ARN, and may be locked for a copy.
	return copier.Info{Name: name, ID: e.summary.ExportARN, Incarnation: e.summary.TableID + ", exported " + e.summary.Time, Endpoint: dir,
		Items: e.summary.Items, Exact: true, Bytes: e.summary.Bytes, Facts: copier.Facts{"dynamodb_export": fact}}, err
}

func (e *Export) read() error {
	summary, err := e.manifest("manifest-summary")
	if err != nil {
		return err
	}
	s := &e.summary
	if err := json.Unmarshal(summary, s); err != nil {
		return fmt.Errorf("%w: manifest-summary.json: %w", ErrExport, err)
	}
	switch {
	case s.Version != exportVersion:
		return fmt.Errorf("%w: its manifest has version %.32q, expected %q", ErrExport, s.Version, exportVersion)
	case s.Format != "DYNAMODB_JSON":
		return fmt.Errorf("%w: it is in the format %.32q, expected DYNAMODB_JSON", ErrExport, s.Format)
	case s.Type != "" && s.Type != "FULL_EXPORT":
		return fmt.Errorf("%w: it is of type %.32q, expected FULL_EXPORT", ErrExport, s.Type)
	case s.TableARN == "" || s.ExportARN == "" || s.Items < 0:
		return fmt.Errorf("%w: manifest-summary.json names no table, no export, or %d items", ErrExport, s.Items)
	}
	files, err := e.manifest("manifest-files")
	if err != nil {
		return err
	}
	e.data = nil
	items, names := int64(0), map[string]bool{}
	for dec := json.NewDecoder(bytes.NewReader(files)); ; {
		var f exportFile
		if err := dec.Decode(&f); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("%w: manifest-files.json: %w", ErrExport, err)
		}
		name := e.path(f)
		if st, err := os.Stat(name); err != nil || !st.Mode().IsRegular() {
			return fmt.Errorf("%w: %s is not there as a file (%w)", ErrExport, name, errors.Join(err, fs.ErrNotExist))
		}
		if f.Items < 0 || names[name] {
			return fmt.Errorf("%w: manifest-files.json names %s twice, or with %d items", ErrExport, name, f.Items)
		}
		names[name] = true
		items += f.Items
		e.data = append(e.data, f)
	}
	if items != s.Items {
		return fmt.Errorf("%w: its files have %d items, and manifest-summary.json says %d", ErrExport, items, s.Items)
	}
	return nil
}

// path is where a file of the export is here. Its key names it in the bucket.
func (e *Export) path(f exportFile) string { return filepath.Join(e.dir, "data", path.Base("/"+f.Key)) }

// manifest reads a manifest, and compares it with its MD5: in a file .md5, as exports have,
// or .checksum, as the developer guide says.
func (e *Export) manifest(name string) ([]byte, error) {
	data, err := durable.ReadFile(filepath.Join(e.dir, name+".json"), maxExportManifest)
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.Join(ErrExport, err)
	}
	if err != nil {
		return nil, err
	}
	var sum []byte
	for _, ending := range []string{".md5", ".checksum"} {
		if sum, err = durable.ReadFile(filepath.Join(e.dir, name+ending), 1<<10); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the checksum of %s.json: %w", ErrExport, name, err)
	}
	got := md5.Sum(data)
	if want := strings.TrimSpace(string(sum)); base64.StdEncoding.EncodeToString(got[:]) != want {
		return nil, fmt.Errorf("%w: the MD5 of %s.json is %s, expected %.64q", ErrExport, name, base64.StdEncoding.EncodeToString(got[:]), want)
	}
	return data, nil
}

// Split implements [copier.Source]: each file is a span.
func (e *Export) Split(context.Context, int) ([]copier.Span, error) {
	return e.files.Split(len(e.data)), nil
}

// Read implements [copier.Source]. An error wraps [ErrExport] where a file is damaged,
// which shows with its last page.
func (e *Export) Read(ctx context.Context, span copier.Span, b *copier.Batch) (copier.Page, error) {
	if err := context.Cause(ctx); err != nil {
		return copier.Page{}, err
	}
	return e.files.Read(ctx, span, b)
}

// Close implements [copier.Source].
func (e *Export) Close() error { return e.files.Close() }

// An exportCursor reads one file of items: a line for each, compressed.
type exportCursor struct {
	e     *Export
	info  exportFile
	file  *os.File
	sum   hash.Hash
	raw   io.Reader // the compressed file
	lines *bufio.Scanner
	items int64
	body  []byte // of a page
}

func (e *Export) openFile(info exportFile) (sequential.Cursor, error) {
	f, err := os.Open(e.path(info))
	if err != nil {
		return nil, e.fail(err)
	}
	c := &exportCursor{e: e, info: info, file: f, sum: md5.New()}
	c.raw = bufio.NewReaderSize(io.TeeReader(f, c.sum), 64<<10)
	z, err := gzip.NewReader(c.raw)
	if err != nil {
		return nil, errors.Join(c.fail(err), f.Close())
	}
	c.lines = bufio.NewScanner(z)
	c.lines.Buffer(make([]byte, 64<<10), maxExportLine)
	return c, nil
}

func (c *exportCursor) fail(err error) error {
	return c.e.fail(fmt.Errorf("%w: %s, behind item %d: %w", ErrExport, filepath.Base(c.info.Key), c.items, err))
}

// Page implements [sequential.Cursor]. It makes of the lines what a Scan would have
// returned, and has that decoded.
func (c *exportCursor) Page(b *copier.Batch, page *copier.Page, most int64) (items int64, err error) {
	c.body = append(c.body[:0], `{"Items":[`...)
	more := true
	for items < most && len(c.body) < exportPage {
		if more = c.lines.Scan(); !more {
			break
		}
		item, ok := bytes.CutPrefix(c.lines.Bytes(), []byte(`{"Item":`))
		item, ok2 := bytes.CutSuffix(bytes.TrimRight(item, " \r"), []byte("}"))
		if !ok || !ok2 {
			return 0, c.fail(errors.New("a line is no item"))
		}
		if items > 0 {
			c.body = append(c.body, ',')
		}
		c.body = append(c.body, item...)
		items++
	}
	c.body = fmt.Appendf(c.body, `],"Count":%d}`, items)
	err = c.lines.Err()
	if err == nil {
		target := scanTarget{b: b, from: b.Len()}
		err = target.decode(c.body, true)
		*page = target.page
	}
	if err == nil {
		c.items += items
		if !more {
			err = c.end()
		}
	}
	switch {
	case err != nil:
		return 0, c.fail(err)
	case !more:
		return items, io.EOF
	}
	return items, nil
}

// end finds out whether the file was what it must be.
func (c *exportCursor) end() error {
	if _, err := io.Copy(io.Discard, c.raw); err != nil {
		return err
	}
	if sum := base64.StdEncoding.EncodeToString(c.sum.Sum(nil)); sum != c.info.MD5 {
		return fmt.Errorf("its MD5 is %s, expected %.64q", sum, c.info.MD5)
	}
	if c.items != c.info.Items {
		return fmt.Errorf("it has %d items, expected %d", c.items, c.info.Items)
	}
	return nil
}

// Close implements [sequential.Cursor].
func (c *exportCursor) Close() error { return c.file.Close() }
