package command

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/dyn2raft/dyn2raft/copier"
	"github.com/dyn2raft/dyn2raft/copier/vaultconfig"
)

// TestOrders: a copy does what the order says that lies there, and not what one said
// that was for an earlier process.
func TestOrders(t *testing.T) {
	path := t.TempDir()
	file := orderFile(path)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	ask := armed(path, false, &printer{log: hclog.New(&hclog.LoggerOptions{Output: &log})})
	order := func(text string, at time.Time) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(arm copier.Arm) {
		t.Helper()
		if got := ask(); got != arm {
			t.Errorf("it is %v, expected %v", got, arm)
		}
	}
	soon, earlier := time.Now().Add(time.Minute), time.Now().Add(-time.Minute)
	want(copier.NotArmed)
	order(`{"rehearse":false}`, earlier)
	want(copier.NotArmed)
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an order for an earlier process stays: %v", err)
	}
	order(`{"rehearse":true}`, soon)
	want(copier.Rehearse)
	order(`{"rehearse":false}`, soon)
	want(copier.Armed)
	order(`{`, soon)
	want(copier.NotArmed)
	want(copier.NotArmed)
	if n := strings.Count(log.String(), "can't be read"); n != 1 {
		t.Errorf("that an order can't be read is said %d times:\n%s", n, log.String())
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	ask = armed(path, true, &printer{log: hclog.NewNullLogger()})
	want(copier.Armed)
	order(`{`, soon) // perhaps a rehearsal
	want(copier.NotArmed)
	order(`{"rehearse":true}`, soon)
	want(copier.Rehearse)

	(&manifestWriter{cfg: &vaultconfig.Config{Destination: vaultconfig.Destination{Path: path}}, out: &printer{log: hclog.NewNullLogger()}}).cutOver(func(copier.Event) {})(copier.Rehearsed{})
	want(copier.Armed)
}

// TestFollowingRows: what is said of a copy that follows its table.
func TestFollowingRows(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		live copier.LiveStatus
		want []string
	}{
		{copier.LiveStatus{}, []string{"not ready", "0 keys to apply"}},
		{copier.LiveStatus{Ready: true, Expected: 1200 * time.Millisecond, Pending: 1, Noted: 1234}, []string{"ready to cut over, expected downtime 1.2s", "1 key to apply", "1,234 noted"}},
		{copier.LiveStatus{Ready: true, Rehearsed: now.Add(-time.Minute), Outage: time.Second}, []string{"rehearsed 1m0s ago, 1s without the table"}},
		{copier.LiveStatus{Ready: true, GivenBack: now.Add(-time.Minute), Reason: "a\x1breason"}, []string{"tried     1m0s ago, and given back: a"}},
		{copier.LiveStatus{CutOver: now}, []string{"Vault may be started"}},
	} {
		var all strings.Builder
		for _, r := range following(&c.live, now) {
			all.WriteString(r.text + "\n")
		}
		for _, want := range c.want {
			if !strings.Contains(all.String(), want) {
				t.Errorf("%q lacks %q", all.String(), want)
			}
		}
		if strings.ContainsRune(all.String(), '\x1b') {
			t.Errorf("%q has a control character", all.String())
		}
	}
}
