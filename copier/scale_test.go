package copier

import (
	"context"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What docs/scale.md assumes of an entry, in bytes: the demo's keys and values, and what a
// buffer needs to find them. And the largest value, where it asks for large ones.
const (
	scaleEntry = 880 + refBytes
	scaleLarge = 400 << 10
)

// readAtOnce is how many runs are read at the same time, whose largest blocks have this size.
func readAtOnce(s *sorter, block int64) int { return min(s.fanIn, int(s.mergeMemory/block)) }

// mergePasses is how often an entry is written again at most, until so many runs are read at once.
func mergePasses(runs, atOnce int) (n int) {
	for all := atOnce; all < runs; all *= atOnce {
		n++
	}
	return n
}

var scaleRow = regexp.MustCompile(`(?m)^\| ([\d,]+) \| ([\d.]+) GiB \| (\d+) MiB \| ([\d,]+) \| (\d+) \| (\d+) \| (\d+) \|$`)

// TestScale compares docs/scale.md with the sorter, and sorts as many runs as its rows
// have, each of one small entry, and as many at the same time.
func TestScale(t *testing.T) { scale(t, 0, 3_000) }

// TestScaleMany does so for the rows with so many runs that it takes long. Of the last
// row there would be more files than a test should have.
func TestScaleMany(t *testing.T) { scale(t, 3_000, 30_000) }

func scale(t *testing.T, from, to int) {
	t.Parallel()
	page, err := os.ReadFile("../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := scaleRow.FindAllStringSubmatch(string(page), -1)
	if len(rows) != 8 {
		t.Fatalf("the page has %d rows, want 8", len(rows))
	}
	number := func(s string) int {
		n, err := strconv.Atoi(strings.ReplaceAll(s, ",", ""))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, row := range rows {
		t.Run(row[1]+" entries, "+row[3]+" MiB", func(t *testing.T) {
			t.Parallel()
			entries, dir := number(row[1]), t.TempDir()
			s := newSorter(dir, int64(number(row[3]))<<20/sortShare, nil, func(Event) {})
			runs, atOnce := int(math.Ceil(float64(entries)*scaleEntry/float64(s.limit))), readAtOnce(s, runBlockSize)
			passes, large := mergePasses(runs, atOnce), mergePasses(runs, readAtOnce(s, scaleLarge))
			data := fmt.Sprintf("%.1f", float64(entries)*(scaleEntry-refBytes)/(1<<30))
			if data != row[2] || runs != number(row[4]) || atOnce != number(row[5]) || passes != number(row[6]) || large != number(row[7]) {
				t.Errorf("it has %s GiB, %d runs, %d read at once, %d passes, or %d with large values; the page says %q", data, runs, atOnce, passes, large, row[2:])
			}
			if runs < from || runs >= to {
				return
			}
			written := int64(0)
			s.create = func() (runFile, error) {
				f, err := os.CreateTemp(dir, "run-*")
				return countedFile{f, &written}, err
			}
			var all int64
			for i := range runs {
				// Neighbours are in other files, so that a merge reads all of them at the same time.
				run := writeEntries(t, dir, []Entry{{Key: fmt.Appendf(nil, "%08x", uint32(i)*2654435761), Value: make([]byte, 200)}})
				s.runs, all = append(s.runs, run), all+run.size
			}
			// A merged run has larger blocks than these, as those of the page have from the beginning.
			s.fanIn, s.mergeMemory = atOnce, math.MaxInt64
			if err := s.reduce(context.Background()); err != nil {
				t.Fatal(err)
			}
			t.Logf("%d runs, %d read at once: %d bytes written again of %d, %d runs are left", runs, atOnce, written, all, len(s.runs))
			if len(s.runs) > atOnce || written > int64(passes)*all || (written > 0) != (passes > 0) {
				t.Errorf("%d runs are left, want at most %d; %d bytes were written again, want at most %d times %d", len(s.runs), atOnce, written, passes, all)
			}
		})
	}
}

// A countedFile adds up what is written.
type countedFile struct {
	*os.File
	written *int64
}

func (f countedFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	*f.written += int64(n)
	return n, err //nolint:wrapcheck // the file's own
}
