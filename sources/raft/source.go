// Package raft reads the data directory of a stopped Vault with integrated storage, as a
// source.
//
// Vault.db is not the data: what the log holds behind it is replayed, see package replay.
// And one node is not the cluster: a write is acknowledged once it is in the logs of a
// majority, so only the newest of a majority's logs is certain to have all of them. It is
// the choice that Raft makes when it elects a leader. What that log holds of writes that
// nobody was told are done is taken too, as the leader would.
package raft

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/sources/raft/internal/fsm"
	"github.com/dyn2raft/dyn2raft/sources/raft/replay"
	"github.com/dyn2raft/dyn2raft/sources/raft/vaultdb"
)

var (
	// ErrMinority is returned when there are directories of fewer than a majority of the
	// cluster's voters: acknowledged writes may be missing in all of them.
	ErrMinority = errors.New("not a majority of the cluster's voters")
	// ErrBehind is returned when no directory reaches Options.AtLeastIndex.
	ErrBehind = errors.New("acknowledged entries are missing")
	// ErrPeer is returned when a member of the cluster answers: it may be writing.
	ErrPeer = errors.New("a member of the cluster answers")
	// ErrOtherCluster is returned when two directories have no server in common.
	ErrOtherCluster = errors.New("the directories are not of one cluster")
	// ErrSameNode is returned when there are more directories than the cluster has servers, so
	// that two are states of one node.
	ErrSameNode = errors.New("two directories are of one node")
	// ErrPeersFile is returned when a directory holds a peers.json, by which its Vault
	// would make itself another cluster at its next start.
	ErrPeersFile = errors.New("it holds a peers.json")
	// ErrTorn is returned when a log ends in something that is no entry, see
	// replay.Tail.Torn, and there is no majority without it.
	ErrTorn = errors.New("its log ends in something that is no entry")
)

// The codes of this package's errors, in the order of the sentinels, and those of what
// package replay refuses.
var (
	FewNodes     = copier.NewCode("few-nodes")
	LogBehind    = copier.NewCode("log-behind")
	PeerAnswers  = copier.NewCode("peer-answers", "peer")
	OtherCluster = copier.NewCode("other-cluster")
	SameNode     = copier.NewCode("same-node")
	PeersFile    = copier.NewCode("peers-file")
	LogTorn      = copier.NewCode("log-torn")
	LogGap       = copier.NewCode("log-gap")
	LogUnknown   = copier.NewCode("log-unknown")
)

// codes are those of errors.
var codes = map[error]copier.Code{ErrMinority: FewNodes, ErrBehind: LogBehind, ErrOtherCluster: OtherCluster, ErrSameNode: SameNode,
	ErrPeersFile: PeersFile, ErrTorn: LogTorn, replay.ErrGap: LogGap, replay.ErrUnknown: LogUnknown}

// fail says where an error happened, and gives it its code.
func fail(op string, err error) error {
	out := &copier.Error{Kind: copier.ErrSource, Op: op, Err: err}
	for sentinel, code := range codes {
		if errors.Is(err, sentinel) {
			out.Code = code
		}
	}
	return out
}

// Options say what a [Source] reads.
type Options struct {
	// Paths are the data directories of stopped nodes of one cluster, copied to this
	// machine or mounted: one or more, of a majority of its voters.
	Paths []string
	// AtLeastIndex is what the last entry must have reached, such as the "Raft Committed
	// Index" that a Vault told last. It is a lower bound, and no proof.
	AtLeastIndex uint64
	// Fewer accepts fewer directories than a majority's, and Torn a log that a loss of
	// power, or damage, has torn.
	Fewer, Torn bool
	// IgnorePeers are the ids of members that may answer.
	IgnorePeers []string
	// Dial finds out whether somebody listens at an address, host:port; nil has a TCP
	// connection tried for 3 s.
	Dial func(ctx context.Context, address string) error
}

// A Source reads the newest of some nodes' directories. It is safe for concurrent use, and
// holds vault.db of each from Open to Close: no Vault starts on it. It changes nothing.
type Source struct {
	opts  Options
	nodes []*node
	*node // the newest, once it is open
	keys  []string
	same  []Same
}

// A node is one directory.
type node struct {
	path  string
	id    string // from its file node-id; empty where its configuration has it
	db    *vaultdb.Source
	state vaultdb.State
	tail  *replay.Tail
}

var (
	_ copier.Source    = (*Source)(nil)
	_ copier.Getter    = (*Source)(nil)
	_ copier.Rechecker = (*Source)(nil)
	_ copier.Ordered   = (*Source)(nil)
)

// New returns a source. It does nothing yet.
func New(o Options) (*Source, error) {
	if len(o.Paths) == 0 {
		return nil, &copier.Error{Kind: copier.ErrConfig, Op: "read integrated storage", Err: errors.New("no directory is named")}
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) error {
			c, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return c.Close()
		}
	}
	return &Source{opts: o}, nil
}

// Open implements [copier.Source]. An error wraps [copier.ErrSource], and those of this
// package and of package replay; or [copier.ErrLocked] where a Vault runs on a directory.
func (s *Source) Open(ctx context.Context) (info copier.Info, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	var newest copier.Info
	for _, path := range s.opts.Paths {
		n := &node{path: path, db: &vaultdb.Source{Path: filepath.Join(path, "vault.db")}}
		if info, err = n.db.Open(ctx); err != nil {
			return info, err
		}
		s.nodes = append(s.nodes, n)
		if err = n.read(ctx); err != nil {
			return info, err
		}
		if s.node == nil || s.node.tail.Torn && !n.tail.Torn || s.node.tail.Torn == n.tail.Torn && s.node.before(n) {
			s.node, newest = n, info
		}
	}
	servers := s.node.servers()
	accepted, err := s.judge(servers)
	if err != nil {
		return info, fail("read integrated storage in "+strings.Join(s.opts.Paths, ", "), err)
	}
	if err = s.silent(ctx, servers); err != nil {
		return info, err
	}
	for _, id := range s.opts.IgnorePeers {
		accepted = append(accepted, "whether "+id+" runs was not asked")
	}
	s.keys = make([]string, 0, len(s.tail.Changes))
	for key := range s.tail.Changes {
		s.keys = append(s.keys, key)
	}
	sort.Strings(s.keys)
	abs, err := filepath.Abs(s.path)
	if err != nil {
		return info, err
	}
	term, index := s.end()
	fact, err := copier.NewFact(1, Fact{Path: abs, Nodes: s.opts.Paths, FSMIndex: s.state.Index, Index: index, Term: term, Puts: s.tail.Puts, Deletes: s.tail.Deletes, Accepted: accepted, Same: s.same, Unnamed: s.unnamed()})
	return copier.Info{Name: s.path, ID: abs, Incarnation: fmt.Sprintf("%s, log up to %d of term %d", newest.Incarnation, index, term), Bytes: newest.Bytes,
		Facts: copier.Facts{"raft_source": fact}}, err
}

// A Fact is what a source tells of itself, as "raft_source" in [copier.Info].
type Fact struct {
	// Path is the directory that was read, of those of the Nodes.
	Path  string   `json:"path"`
	Nodes []string `json:"nodes"`
	// FSMIndex is where vault.db stands, Index and Term what the log ends with, and Puts
	// and Deletes count the operations between.
	FSMIndex uint64 `json:"fsm_index"`
	Index    uint64 `json:"index"`
	Term     uint64 `json:"term"`
	Puts     int64  `json:"puts"`
	Deletes  int64  `json:"deletes"`
	// Accepted says what would have been refused without Options.Fewer, Options.Torn and
	// Options.IgnorePeers.
	Accepted []string `json:"accepted,omitempty"`
	// Same are directories of a node that another directory is of, too: it is one voter.
	Same []Same `json:"same,omitempty"`
	// Unnamed are directories that do not tell which node's they are, where there are two or
	// more: each is taken for another node.
	Unnamed []string `json:"unnamed,omitempty"`
}

// A Same is a directory of a node that is in another one, which is at least as new.
type Same struct {
	Path  string `json:"path"`
	Newer string `json:"newer"`
	// Node is the id that both have. It is empty where both hold the same files.
	Node string `json:"node,omitempty"`
}

// read reads a node's state and log.
func (n *node) read(ctx context.Context) (err error) {
	_, err = os.Lstat(filepath.Join(n.path, "raft", "peers.json"))
	if !errors.Is(err, fs.ErrNotExist) {
		return fail("look at "+n.path, cmp.Or(err, ErrPeersFile))
	}
	if n.state, err = n.db.State(); err != nil {
		return err
	}
	if n.tail, err = replay.Read(ctx, n.path, n.state.Index); errors.Is(err, replay.ErrGap) || errors.Is(err, replay.ErrUnknown) {
		return fail("", err)
	}
	if err = vaultdb.OfSource(err); errors.Is(err, vaultdb.ErrDamaged) {
		err = &copier.Error{Kind: copier.ErrSource, Code: vaultdb.SourceDamaged, Err: err}
	}
	return err
}

// end is the term and the index of the last entry that a node has.
func (n *node) end() (term, index uint64) {
	if n.tail.Last > n.state.Index {
		return n.tail.LastTerm, n.tail.Last
	}
	return n.state.Term, n.state.Index
}

// before reports whether a node's log is older than another's, as an election has it.
func (n *node) before(o *node) bool {
	term, index := n.end()
	oTerm, oIndex := o.end()
	return cmp.Or(cmp.Compare(term, oTerm), cmp.Compare(index, oIndex)) < 0
}

// servers is the newest configuration of the cluster that a node knows.
func (n *node) servers() []vaultdb.Server {
	if n.tail.ConfigIndex <= n.state.ConfigIndex {
		return n.state.Servers
	}
	out := make([]vaultdb.Server, len(n.tail.Servers))
	for i, s := range n.tail.Servers {
		out[i] = vaultdb.Server{ID: string(s.ID), Address: string(s.Address), Suffrage: strings.ToLower(s.Suffrage.String())}
	}
	return out
}

// whose tells which node a directory is of, as far as that can be: Vault writes the file
// node-id where the configuration names no id, and a configuration is not in the directory.
func (n *node) whose(servers []vaultdb.Server) error {
	id, err := os.ReadFile(filepath.Join(n.path, "node-id"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if slices.ContainsFunc(servers, func(s vaultdb.Server) bool { return s.ID == string(id) }) {
		n.id = string(id)
	}
	return nil
}

// twin reports whether two directories are of one node: they say so, or hold the same files.
func (n *node) twin(o *node) (bool, error) {
	if n.id != "" && o.id != "" {
		return n.id == o.id, nil
	}
	return sameFiles(n.path, o.path)
}

// sameFiles reports whether what Raft has in two directories is the same, byte for byte. The
// files of two nodes differ in their first page: it counts transactions.
func sameFiles(a, b string) (bool, error) {
	for _, pattern := range []string{"vault.db", "raft/raft.db", "raft/wal/*"} {
		names, err := fs.Glob(os.DirFS(a), pattern)
		if err != nil {
			return false, err
		}
		others, err := fs.Glob(os.DirFS(b), pattern)
		if err != nil || !slices.Equal(names, others) {
			return false, err
		}
		for _, name := range names {
			if same, err := sameFile(filepath.Join(a, name), filepath.Join(b, name)); err != nil || !same {
				return false, err
			}
		}
	}
	return true, nil
}

func sameFile(a, b string) (same bool, err error) {
	var files [2]*os.File
	var infos [2]fs.FileInfo
	for i, path := range []string{a, b} {
		if files[i], err = os.Open(path); err != nil {
			return false, err
		}
		defer files[i].Close()
		if infos[i], err = files[i].Stat(); err != nil {
			return false, err
		}
	}
	if os.SameFile(infos[0], infos[1]) {
		return true, nil
	}
	if infos[0].Size() != infos[1].Size() {
		return false, nil
	}
	var bufs [2][256 << 10]byte
	for {
		n, err := io.ReadFull(files[0], bufs[0][:])
		if n == 0 {
			return err == io.EOF, notEOF(err)
		}
		if m, err := io.ReadFull(files[1], bufs[1][:n]); m < n {
			return false, notEOF(err)
		}
		if !bytes.Equal(bufs[0][:n], bufs[1][:n]) {
			return false, nil
		}
	}
}

// notEOF is an error, unless that is the end of a file.
func notEOF(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// apart returns the newest directory of each node, and notes the others.
func (s *Source) apart(servers []vaultdb.Server) (nodes []*node, err error) {
	s.same = nil
	for _, n := range s.nodes {
		if err := n.whose(servers); err != nil {
			return nil, err
		}
		at := -1
		for i, o := range nodes {
			twin, err := n.twin(o)
			if err != nil {
				return nil, err
			}
			if twin {
				at = i
				break
			}
		}
		if at < 0 {
			nodes = append(nodes, n)
			continue
		}
		older, newer := n, nodes[at]
		if newer.before(older) {
			older, newer = newer, older
		}
		nodes[at] = newer
		id := ""
		if n.id == newer.id && n.id == older.id {
			id = n.id
		}
		s.same = append(s.same, Same{Path: older.path, Newer: newer.path, Node: id})
	}
	if len(nodes) > len(servers) {
		return nil, fmt.Errorf("%w: there are %d, and the cluster has %d", ErrSameNode, len(nodes), len(servers))
	}
	return nodes, nil
}

// counted says which directories count as one, in brackets.
func (s *Source) counted() string {
	var all []string
	for _, o := range s.same {
		text := fmt.Sprintf("%s and %s hold the same files", o.Newer, o.Path)
		if o.Node != "" {
			text = fmt.Sprintf("%s and %s are of %s", o.Newer, o.Path, o.Node)
		}
		all = append(all, text)
	}
	if all == nil {
		return ""
	}
	return " (" + strings.Join(all, "; ") + ")"
}

// unnamed are the directories that count as nodes, and do not tell as which.
func (s *Source) unnamed() (paths []string) {
	for _, n := range s.nodes {
		if n.id == "" && !slices.ContainsFunc(s.same, func(o Same) bool { return o.Path == n.path }) {
			paths = append(paths, n.path)
		}
	}
	if len(paths) < 2 {
		return nil
	}
	return paths
}

// judge refuses directories that may lack an acknowledged write, and says of which it does
// not only because that was asked for.
func (s *Source) judge(servers []vaultdb.Server) (accepted []string, err error) {
	voters := 0
	for _, server := range servers {
		if server.Suffrage == "voter" {
			voters++
		}
	}
	for _, n := range s.nodes {
		if !slices.ContainsFunc(n.servers(), func(a vaultdb.Server) bool {
			return slices.ContainsFunc(servers, func(b vaultdb.Server) bool { return a.ID == b.ID })
		}) {
			return nil, fmt.Errorf("%w: %s and %s", ErrOtherCluster, s.path, n.path)
		}
	}
	nodes, err := s.apart(servers)
	if err != nil {
		return nil, err
	}
	votes, whole := 0, 0
	for _, n := range nodes {
		if n.state.DesiredSuffrage == "non-voter" || slices.ContainsFunc(servers, func(s vaultdb.Server) bool { return s.ID == n.id && s.Suffrage != "voter" }) {
			continue
		}
		votes++
		if !n.tail.Torn {
			whole++
		}
	}
	if _, index := s.end(); index < s.opts.AtLeastIndex {
		return nil, fmt.Errorf("%w: the newest entry is %d, and %d was acknowledged", ErrBehind, index, s.opts.AtLeastIndex)
	}
	take := func(err error, asked bool) error {
		if !asked {
			return err
		}
		accepted = append(accepted, err.Error())
		return nil
	}
	if s.tail.Torn {
		err = take(fmt.Errorf("%w: behind entry %d in %s", ErrTorn, s.tail.Last, s.path), s.opts.Torn)
	}
	if err == nil && whole <= voters/2 {
		err = take(fmt.Errorf("%w: directories of %d of %d%s", ErrMinority, whole, voters, s.counted()), s.opts.Fewer || s.opts.Torn && votes > voters/2)
	}
	return accepted, err
}

// silent refuses a cluster of which a member answers. That one does not is no proof that
// it is stopped.
func (s *Source) silent(ctx context.Context, servers []vaultdb.Server) error {
	var g errgroup.Group
	for _, server := range servers {
		if slices.Contains(s.opts.IgnorePeers, server.ID) {
			continue
		}
		g.Go(func() error {
			if s.opts.Dial(ctx, server.Address) == nil {
				return &copier.Error{Kind: copier.ErrLocked, Op: "ask " + server.Address, Code: PeerAnswers, Facts: map[string]string{"peer": server.ID}, Err: fmt.Errorf("%w: %s", ErrPeer, server.ID)}
			}
			return context.Cause(ctx)
		})
	}
	return g.Wait()
}

// The tokens of spans begin with what they are of.
const ofDB, ofTail = 'v', 't'

// Split implements [copier.Source]: the last span is the log's.
func (s *Source) Split(ctx context.Context, n int) ([]copier.Span, error) {
	spans, err := s.db.Split(ctx, max(n-1, 0))
	if err != nil {
		return nil, err
	}
	for i := range spans {
		spans[i].From = append([]byte{ofDB}, spans[i].From...)
	}
	return append(spans, copier.Span{Index: len(spans), From: tailToken(0)}), nil
}

func tailToken(i int) []byte { return strconv.AppendInt([]byte{ofTail}, int64(i), 10) }

// Read implements [copier.Source].
func (s *Source) Read(ctx context.Context, span copier.Span, b *copier.Batch) (page copier.Page, err error) {
	if err := context.Cause(ctx); err != nil {
		return page, err
	}
	kind, inner := byte(0), span
	if len(span.From) > 0 {
		kind, inner.From = span.From[0], span.From[1:]
	}
	if len(span.Until) > 0 {
		inner.Until = span.Until[1:]
	}
	switch kind {
	case ofDB:
		var read copier.Batch
		if page, err = s.db.Read(ctx, inner, &read); err != nil {
			return page, err
		}
		for i := range read.Len() {
			e := read.Entry(i)
			if _, changed := s.tail.Changes[string(e.Key)]; !changed {
				fsm.Take(e, b, &page)
			}
		}
		for i := range page.Next {
			page.Next[i].From = append([]byte{ofDB}, page.Next[i].From...)
			page.Next[i].Until = span.Until
		}
		return page, nil
	case ofTail:
		return s.readTail(inner, span, b)
	}
	return page, &copier.Error{Kind: copier.ErrSource, Op: "read a span", Err: fmt.Errorf("the token %.64q is none of this source", span.From)}
}

// pageKeys is how many keys of the log a page has.
const pageKeys = 1000

func (s *Source) readTail(inner, span copier.Span, b *copier.Batch) (page copier.Page, err error) {
	from, err := strconv.Atoi(string(inner.From))
	until := len(s.keys)
	if err == nil && len(inner.Until) > 0 {
		until, err = strconv.Atoi(string(inner.Until))
	}
	if err != nil || from < 0 || from > until || until > len(s.keys) {
		return page, &copier.Error{Kind: copier.ErrSource, Op: "read a span of the log", Err: fmt.Errorf("%w: keys %q to %q of %d", copier.ErrMoved, inner.From, inner.Until, len(s.keys))}
	}
	to := min(from+pageKeys, until)
	for _, key := range s.keys[from:to] {
		if c := s.tail.Changes[key]; !c.Deleted {
			fsm.Take(copier.Entry{Key: []byte(key), Value: c.Value}, b, &page)
		}
	}
	if to < until {
		page.Next = []copier.Span{{Index: span.Index, From: tailToken(to), Until: span.Until}}
	}
	return page, nil
}

// Value implements [copier.Getter].
func (s *Source) Value(ctx context.Context, key string) ([]byte, bool, error) {
	if c, ok := s.tail.Changes[key]; ok {
		return slices.Clone(c.Value), !c.Deleted, nil
	}
	return s.db.Value(ctx, key)
}

// Recheck implements [copier.Rechecker].
func (s *Source) Recheck(ctx context.Context) error { return s.db.Recheck(ctx) }

// Stream implements [copier.Ordered].
func (s *Source) Stream(ctx context.Context) (copier.Stream, error) {
	db, err := s.db.Stream(ctx)
	if err != nil {
		return nil, err
	}
	return &stream{s: s, db: db}, nil
}

// A stream merges vault.db and the changes behind it.
type stream struct {
	s      *Source
	db     copier.Stream
	ahead  copier.Entry // of db, where filled is set
	filled bool
	ended  bool
	next   int // of the changed keys
	buf    copier.Batch
}

// Next implements [copier.Stream].
func (m *stream) Next() (copier.Entry, error) {
	for {
		if !m.filled && !m.ended {
			var err error
			if m.ahead, err = m.db.Next(); err == io.EOF {
				m.ended = true
			} else if err != nil {
				return copier.Entry{}, err
			}
			m.filled = !m.ended
		}
		var e copier.Entry
		switch {
		case m.ended && m.next == len(m.s.keys):
			return copier.Entry{}, io.EOF
		case m.next == len(m.s.keys) || m.filled && string(m.ahead.Key) < m.s.keys[m.next]:
			e, m.filled = m.ahead, false
		default:
			key := m.s.keys[m.next]
			m.next++
			if m.filled && string(m.ahead.Key) == key {
				m.filled = false
			}
			c := m.s.tail.Changes[key]
			if c.Deleted {
				continue
			}
			e = copier.Entry{Key: []byte(key), Value: c.Value}
		}
		m.buf.Reset()
		if fsm.Take(e, &m.buf, new(copier.Page)); m.buf.Len() > 0 {
			return m.buf.Entry(0), nil
		}
	}
}

// Close implements [copier.Source]: it gives all directories back.
func (s *Source) Close() (err error) {
	for _, n := range s.nodes {
		err = errors.Join(err, n.db.Close())
	}
	s.nodes = nil
	return err
}
