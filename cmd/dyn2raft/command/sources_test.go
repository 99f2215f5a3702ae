package command

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/rogpeppe/go-internal/testscript"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dyn2raft/dyn2raft/sources/dynamodb/dynamotest"
)

// scriptSnapshot makes a snapshot of what a vault.db holds: snapshot DIR FILE.
func scriptSnapshot(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "snapshot DIR FILE")
	var state []byte
	db, err := bolt.Open(filepath.Join(ts.MkAbs(args[0]), "vault.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	ts.Check(err)
	ts.Check(db.View(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("data")).ForEach(func(k, v []byte) error {
			message := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), k)
			message = protowire.AppendBytes(protowire.AppendTag(message, 2, protowire.BytesType), v)
			state = append(binary.AppendUvarint(state, uint64(len(message))), message...)
			return nil
		})
	}))
	ts.Check(db.Close())
	meta, err := json.Marshal(raft.SnapshotMeta{ID: "snap-1", Index: 2112, Term: 3, Size: int64(len(state))})
	ts.Check(err)
	sums := fmt.Appendf(nil, "%x  meta.json\n%x  state.bin\n", sha256.Sum256(meta), sha256.Sum256(state))
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	archive := tar.NewWriter(z)
	for _, f := range []struct {
		name string
		data []byte
	}{{"meta.json", meta}, {"state.bin", state}, {"SHA256SUMS", sums}, {"SHA256SUMS.sealed", []byte("x")}} {
		ts.Check(archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.data)), Mode: 0o600}))
		_, err := archive.Write(f.data)
		ts.Check(err)
	}
	ts.Check(errors.Join(archive.Close(), z.Close()))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), out.Bytes(), 0o600))
}

// scriptExport makes an export of the table: export DIR.
func scriptExport(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 1, "export DIR")
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Join(dir, "data"), 0o700))
	put := func(name string, data []byte) string {
		ts.Check(os.WriteFile(filepath.Join(dir, name), data, 0o600))
		sum := md5.Sum(data)
		return base64.StdEncoding.EncodeToString(sum[:])
	}
	items := of(ts).server.Items(dynamotest.VaultTable)
	var files []byte
	for i, name := range []string{"a.json.gz", "b.json.gz"} {
		var lines bytes.Buffer
		z := gzip.NewWriter(&lines)
		part := items[i*len(items)/2 : (i+1)*len(items)/2]
		for _, item := range part {
			line, err := json.Marshal(map[string]any{"Item": exportItem(ts, item)})
			ts.Check(err)
			_, err = z.Write(append(line, '\n'))
			ts.Check(err)
		}
		ts.Check(z.Close())
		files = fmt.Appendf(files, `{"itemCount":%d,"md5Checksum":%q,"dataFileS3Key":"AWSDynamoDB/01/data/%s"}`+"\n", len(part), put("data/"+name, lines.Bytes()), name)
	}
	summary, err := json.Marshal(map[string]any{"version": "2020-06-30", "exportArn": "arn:aws:dynamodb:us-east-1:1:table/" + dynamotest.VaultTable + "/export/01",
		"tableArn": "arn:aws:dynamodb:us-east-1:1:table/" + dynamotest.VaultTable, "tableId": "id", "exportTime": "2026-11-01T02:03:04Z",
		"itemCount": len(items), "outputFormat": "DYNAMODB_JSON"})
	ts.Check(err)
	for name, data := range map[string][]byte{"manifest-files": files, "manifest-summary": summary} {
		put(name+".md5", []byte(put(name+".json", data)))
	}
}

// exportItem is an item as an export has it.
func exportItem(ts *testscript.TestScript, item map[string]types.AttributeValue) map[string]any {
	out := map[string]any{}
	for name, value := range item {
		switch v := value.(type) {
		case *types.AttributeValueMemberB:
			out[name] = map[string]any{"B": v.Value}
		case *types.AttributeValueMemberS:
			out[name] = map[string]any{"S": v.Value}
		case *types.AttributeValueMemberN:
			out[name] = map[string]any{"N": v.Value}
		case *types.AttributeValueMemberNULL:
			out[name] = map[string]any{"NULL": v.Value}
		default:
			ts.Fatalf("an attribute is %T", v)
		}
	}
	return out
}

// scriptAppendLog has the log of a data directory go on by a put of KEY, or a delete where
// there is no VALUE, that vault.db has not: append-log DIR KEY [VALUE].
func scriptAppendLog(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && (len(args) == 2 || len(args) == 3), "append-log DIR KEY [VALUE]")
	log, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(ts.MkAbs(args[0]), "raft", "raft.db"), MsgpackUseNewTimeFormat: true})
	ts.Check(err)
	last, err := log.LastIndex()
	ts.Check(err)
	last = max(last, 2) // where a copy leaves vault.db
	kind := uint64(1)
	if len(args) == 3 {
		kind = 2
	}
	op := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), kind)
	op = protowire.AppendString(protowire.AppendTag(op, 3, protowire.BytesType), args[1])
	if len(args) == 3 {
		op = protowire.AppendString(protowire.AppendTag(op, 4, protowire.BytesType), args[2])
	}
	data := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), op)
	ts.Check(log.StoreLog(&raft.Log{Index: last + 1, Term: 1, Data: data}))
	ts.Check(log.Close())
}

// scriptCut takes bytes from the end of a file: cut FILE BYTES.
func scriptCut(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) == 2, "cut FILE BYTES")
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	st, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), st.Size()-n))
}

// scriptServers has a vault.db know the voters of a cluster: servers FILE ID=ADDRESS….
func scriptServers(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, !neg && len(args) > 1, "servers FILE ID=ADDRESS…")
	config := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	settings(ts, args[1:], func(id, address string) error {
		server := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), id)
		server = protowire.AppendString(protowire.AppendTag(server, 3, protowire.BytesType), strings.TrimPrefix(address, "http://"))
		config = protowire.AppendBytes(protowire.AppendTag(config, 2, protowire.BytesType), server)
		return nil
	})
	db, err := bolt.Open(ts.MkAbs(args[0]), 0o600, &bolt.Options{Timeout: time.Second})
	ts.Check(err)
	err = db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("config")).Put([]byte("latest_config"), config) })
	ts.Check(errors.Join(err, db.Close()))
}
