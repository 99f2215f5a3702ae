package raft

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/durable"
	"github.com/dyn2raft/dyn2raft/sinks/internal/loading"
)

// Names of what is not Vault's, and goes with Finish: a bucket of vault.db with two keys.
const (
	markBucket = "dyn2raft"
	markKey    = "mark"
	runKey     = "run"
)

// A note of the mark lies in the staging directory from Finish on: vault.db has none then.
const (
	markName   = "mark.json"
	markKind   = "dyn2raft raft mark"
	markFormat = 1
	maxMark    = 16 << 20 // bytes
)

// A marked is what a run has staged and put a mark on. The JSON form is that of the note.
type marked struct {
	Run  string `json:"run"`
	Mark []byte `json:"mark"`
	// TxID is the number of the transaction that has taken the mark out of vault.db: a
	// vault.db of another one is not the one that the note is of.
	TxID uint64 `json:"transaction_id"`

	finished        bool
	nodeID, address string // of which vault.db is
}

// An applier is what a stage needs to change its vault.db by bbolt.
type applier struct {
	db *bbolt.DB // open from the first change to Finish
	// mapped is how many bytes of the file the map has room for, at the least.
	mapped int64
	pin    *pin
	mark   []byte // of the last Apply, nil where there was none
	// finished is set where the mark is in the note, and not in vault.db.
	finished bool
	// unread is set where vault.db is an earlier process's, and was not looked through.
	unread bool
	large  int // warnings of entries that are larger than Vault writes them

	ahead int64 // see mapAhead
}

// mapAhead is how many bytes are mapped, at the least, beyond twice of what there is when
// the file is opened. A map costs addresses, and no memory. bbolt waits for all readers
// before it maps a file anew, and a pin is one of them.
const mapAhead = 1 << 30

// maxLargeWarnings is how many changes that are too large get a warning.
const maxLargeWarnings = 10

// findMarked looks for a staged vault.db that has a mark, or a note of it. One that is
// damaged has none: the entries must be loaded again.
func (s *Sink) findMarked() error {
	m, err := readMarked(s.aside(vaultDBName))
	if err != nil {
		return s.fail("read "+s.aside(vaultDBName), err)
	}
	if m != nil && m.Mark == nil {
		var note marked
		err := durable.ReadSealed(s.aside(markName), maxMark, markKind, markFormat, &note)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s.fail("read "+s.aside(markName), err)
		}
		if err != nil || note.TxID != m.TxID {
			return nil
		}
		m.Run, m.Mark, m.finished = note.Run, note.Mark, true
	}
	if s.marked = m; m == nil || s.opts.NodeID != "" {
		return nil
	}
	// The id that was made for the copy is in vault.db, and may be in no file.
	there, err := durable.Exists(s.dest(nodeIDName))
	if err != nil {
		return s.fail("look at "+s.dest(nodeIDName), err)
	}
	s.nodeID, s.newNodeID = m.nodeID, !there
	return nil
}

// openDB opens the staged vault.db for transactions.
func (s *stage) openDB(ctx context.Context) error {
	if s.db != nil {
		return nil
	}
	s.unpin() // nothing keeps its pages any more
	path := s.aside(vaultDBName)
	if !s.loaded {
		return s.fail("change "+path, errors.New("nothing was loaded"))
	}
	if s.unread {
		// bbolt panics on a page that is damaged.
		if err := readThrough(ctx, path); err != nil {
			return err
		}
		s.unread = false
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return s.fail("open "+path, err)
	}
	if s.ahead == 0 {
		s.ahead = mapAhead
	}
	s.mapped = 2*fi.Size() + s.ahead
	s.db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		// As Vault has them: it looks for the free pages by itself when it starts, and
		// relies on no list of them.
		NoFreelistSync: true, FreelistType: bbolt.FreelistMapType,
		Timeout:         10 * time.Second, // whoever looks at the file
		InitialMmapSize: int(s.mapped),
		NoStatistics:    true,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag&^os.O_CREATE, perm)
		},
	})
	if err != nil {
		s.db = nil
		return s.fail("open "+path, err)
	}
	// To find the free pages bbolt has read all others, and the system takes long to take
	// so many away, in the end. Where it can't now, it does then.
	_ = unmap(s.db)
	return nil
}

// closeDB closes vault.db. What is pinned stays as it is until it is opened again.
func (s *stage) closeDB() error {
	if s.db == nil {
		return nil
	}
	if s.pin != nil {
		s.pin.release()
	}
	db := s.db
	s.db = nil
	if err := db.Close(); err != nil {
		return s.fail("close "+s.aside(vaultDBName), err)
	}
	return nil
}

// Apply implements [copier.Applier], in one synced transaction of bbolt. An error of
// update is returned as it is.
func (s *stage) Apply(ctx context.Context, changes []copier.Change, update func(old []copier.Entry) ([]byte, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.openDB(ctx); err != nil {
		return err
	}
	path := s.aside(vaultDBName)
	if err := s.disk.Step(durable.Write, path); err != nil {
		return s.fail("write "+path, err)
	}
	var mark []byte
	var refused error // by update
	apply := func(tx *bbolt.Tx) error {
		data := tx.Bucket([]byte(dataBucketName))
		if data == nil {
			return errors.New("it has no bucket for entries")
		}
		if mark == nil {
			var old []copier.Entry
			for _, c := range changes {
				if v := data.Get(c.Key); v != nil {
					old = append(old, copier.Entry{Key: c.Key, Value: v})
				}
			}
			mark, refused = update(old)
			if refused == nil && len(mark) == 0 {
				refused = errors.New("an empty mark")
			}
			if refused != nil {
				return refused
			}
		}
		for _, c := range changes {
			var err error
			if c.Gone {
				err = data.Delete(c.Key)
			} else {
				err = data.Put(c.Key, c.Value)
			}
			if err != nil {
				return fmt.Errorf("entry %s: %w", copier.NameKey(c.Key), err)
			}
		}
		b, err := tx.CreateBucketIfNotExists([]byte(markBucket))
		if err != nil {
			return err
		}
		return errors.Join(b.Put([]byte(runKey), []byte(s.run)), b.Put([]byte(markKey), mark))
	}
	changes = slices.SortedFunc(slices.Values(changes), func(a, b copier.Change) int { return bytes.Compare(a.Key, b.Key) })
	err := s.db.Update(apply)
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		// The map must grow, for which bbolt waits until nobody reads: see Pin.
		s.unpin()
		err = s.db.Update(apply)
	}
	if refused != nil {
		return refused
	}
	if err == nil {
		s.mark, s.finished = bytes.Clone(mark), false
		err = s.disk.Step(durable.Sync, path)
	}
	if err != nil {
		return s.fail("write "+path, err)
	}
	for _, c := range changes {
		if int64(len(c.Key)+len(c.Value)) > s.opts.MaxEntrySize && s.large < maxLargeWarnings {
			s.large++
			s.opts.Notify(loading.TooLarge(c.Entry, s.opts.MaxEntrySize))
		}
	}
	return nil
}

// listBytes is after how much of keys and values a List ends.
const listBytes = 1 << 20

// List implements [copier.Applier].
func (s *stage) List(ctx context.Context, folder, after []byte, b *copier.Batch) (next []byte, err error) {
	if err := s.openDB(ctx); err != nil {
		return nil, err
	}
	path, before := s.aside(vaultDBName), b.Len()
	err = s.db.View(func(tx *bbolt.Tx) error {
		data := tx.Bucket([]byte(dataBucketName))
		if data == nil {
			return errors.New("it has no bucket for entries")
		}
		from := folder
		if after != nil {
			from = append(bytes.Clone(after), 0) // the first key behind it
		}
		c := data.Cursor()
		size := 0
		for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, folder); {
			if err := ctx.Err(); err != nil {
				return err
			}
			if i := bytes.IndexByte(k[len(folder):], '/'); i >= 0 { // a folder of it
				k, v = c.Seek(append(bytes.Clone(k[:len(folder)+i]), '/'+1))
				continue
			}
			if size >= listBytes {
				next = bytes.Clone(b.Entry(b.Len() - 1).Key)
				return nil
			}
			b.Append(k, v)
			size += len(k) + len(v)
			k, v = c.Next()
		}
		return nil
	})
	if err != nil {
		b.Truncate(before)
		return nil, s.fail("read "+path, err)
	}
	return next, nil
}

// Mark implements [copier.Applier].
func (s *stage) Mark(context.Context) ([]byte, error) { return s.mark, nil }

// Finish implements [copier.Applier]: it removes the mark from vault.db and closes that.
// The mark is noted beside it first, so that a later process finds what is finished too.
func (s *stage) Finish(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.mark == nil || s.finished {
		return s.closeDB()
	}
	if err := s.openDB(ctx); err != nil {
		return err
	}
	path := s.aside(vaultDBName)
	if err := s.disk.Step(durable.Write, path); err != nil {
		return s.fail("write "+path, err)
	}
	remove := func(tx *bbolt.Tx) error {
		note, err := durable.Seal(markKind, markFormat, marked{Run: s.run, Mark: s.mark, TxID: uint64(tx.ID())})
		if err != nil {
			return err
		}
		if err := s.disk.Replace(s.aside(markName), note); err != nil {
			return err
		}
		return tx.DeleteBucket([]byte(markBucket))
	}
	err := s.db.Update(remove)
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		s.unpin()
		err = s.db.Update(remove)
	}
	if err == nil {
		s.finished = true
		err = s.disk.Step(durable.Sync, path)
	}
	if err != nil {
		return s.fail("write "+path, err)
	}
	return s.closeDB()
}

// removeMarked removes what an earlier process has staged and marked.
func (s *stage) removeMarked() error {
	s.unpin()
	if err := s.closeDB(); err != nil {
		return err
	}
	if err := s.removeStaged(); err != nil {
		return s.fail("remove what an earlier copy left in "+s.aside(""), err)
	}
	s.mark, s.finished, s.unread, s.loaded = nil, false, false, false
	return nil
}
