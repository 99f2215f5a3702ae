package dynamodb

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/dyn2raft/dyn2raft/copier"
)

// attrFound is our own attribute of a leader lock that we took over: what it
// held before, so that it can be left as it was found, by Reset too.
const attrFound = "Dyn2raftFound"

// takenAttrs are the attributes of a leader lock that we overwrite.
var takenAttrs = []string{attrValue, attrIdentity, attrExpires}

// A leaderLock is the item core/_lock as it was read, and nil where there is
// none. Items of old Vaults have no Identity.
type leaderLock attributes

func (l leaderLock) sameAs(o leaderLock) bool {
	return (l == nil) == (o == nil) &&
		reflect.DeepEqual(l[attrIdentity], o[attrIdentity]) && reflect.DeepEqual(l[attrExpires], o[attrExpires])
}

// expiry returns when the lock expires, and false if it does not say.
func (l leaderLock) expiry() (time.Time, bool) {
	n, ok := l[attrExpires].(*types.AttributeValueMemberN)
	if !ok {
		return time.Time{}, false
	}
	ns, err := strconv.ParseInt(n.Value, 10, 64)
	return time.Unix(0, ns), err == nil
}

// expired reports whether nobody holds the lock any more, by our clock. One
// whose Expires is there and can't be read does not count as expired.
func (l leaderLock) expired() bool {
	t, ok := l.expiry()
	return ok && !t.After(time.Now()) || l[attrExpires] == nil
}

// staleAfter is how long a leader lock may have been expired to show that
// Vaults still elect their leader in the table.
const staleAfter = 24 * time.Hour

// stale reports whether the lock expired long ago.
func (l leaderLock) stale() bool {
	t, ok := l.expiry()
	return ok && time.Since(t) > staleAfter
}

// run is the id of the dyn2raft run that holds the lock, if one does.
func (l leaderLock) run() (string, bool) {
	if l[attrIdentity] == nil {
		return "", false
	}
	return strings.CutPrefix(string(binaryOf(l[attrValue])), holderPrefix)
}

// held reports whether the lock has the given identity.
func (l leaderLock) held(identity []byte) bool {
	return l[attrIdentity] != nil && bytes.Equal(binaryOf(l[attrIdentity]), identity)
}

// found is what a lock of ours has to go back to.
func (l leaderLock) found() leaderLock {
	if m, ok := l[attrFound].(*types.AttributeValueMemberM); ok {
		return m.Value
	}
	return nil
}

// holder names who holds the lock.
func (l leaderLock) holder() string {
	if id, ok := l.run(); ok {
		return holderPrefix + shown(id)
	}
	name := fmt.Sprintf("the Vault with leader id %q", binaryOf(l[attrValue]))
	if t, ok := l.expiry(); ok {
		name += ", until " + t.UTC().Format(time.RFC3339)
	}
	return name
}

// asSeen is the condition that the lock is still what was read, and adds what it
// needs to values.
func (l leaderLock) asSeen(values attributes) string {
	if l == nil {
		return "attribute_not_exists(#Path)"
	}
	as := func(attr string) string {
		if l[attr] == nil {
			return "attribute_not_exists(#" + attr + ")"
		}
		values[":seen"+attr] = l[attr]
		return "#" + attr + " = :seen" + attr
	}
	return as(attrIdentity) + " AND " + as(attrExpires)
}

func (s *Source) readLeader(ctx context.Context, q request) (leaderLock, error) {
	return s.getItem(ctx, q, leaderLockKey)
}

// watchLeader returns the leader lock once nobody seems to hold it. first is
// what was read before.
func (s *Source) watchLeader(ctx context.Context, first leaderLock) (leaderLock, error) {
	if first == nil {
		return nil, nil
	}
	watch, held := s.timing.watch, copier.WaitHeldLock
	if first.expired() {
		held = copier.WaitExpiredLock
		// By our clock, which may be ahead: two renewals are enough to see.
		watch = min(watch, 2*s.timing.renew+s.timing.retry)
	}
	until := time.Now().Add(watch)
	defer s.wait(held, first.holder(), watch)()
	for {
		if err := sleep(ctx, s.timing.retry); err != nil {
			return nil, err
		}
		now, err := s.readLeader(ctx, request{})
		if err != nil {
			return nil, err
		}
		// A holder that stops in order deletes its lock: then nobody may take
		// it until the watch is over.
		if now != nil && !now.sameAs(first) {
			if id, ok := now.run(); ok {
				return nil, s.locked("take the leader lock", CopyRuns, fmt.Errorf("dyn2raft run %s holds it, and renews it", shown(id)))
			}
			return nil, s.locked("take the leader lock", VaultRuns,
				fmt.Errorf("%w: %s, took or renewed the lock %s", ErrVaultRunning, now.holder(), leaderLockKey))
		}
		if !time.Now().Before(until) {
			return now, nil
		}
	}
}

// leaderPath is where an active Vault announces itself, under the Value of its
// leader lock, wherever that lock is. It removes its predecessors' entries
// when it becomes active, and its own when it stops in order.
const leaderPath = "core/leader"

// doubt returns why the leader lock does not show whether a Vault is running;
// nothing where it does, or will once it has been watched. A lock that is there
// shows that Vaults elect their leader in the table, also if its holder gives
// it back while it is watched; but one that expired long ago tells nothing of
// today's Vaults.
func (s *Source) doubt(ctx context.Context, q request, leader leaderLock) (string, error) {
	if leader != nil && !leader.expired() {
		return "", nil
	}
	lock := "the table has no leader lock"
	if t, ok := leader.expiry(); ok {
		lock = "the table's leader lock expired at " + t.UTC().Format(time.RFC3339)
	}
	if s.opts.HAStorage != "" {
		return lock + ", and the configuration has the HA storage " + strconv.Quote(s.opts.HAStorage) + ", where Vaults elect their leader", nil
	}
	out, err := ask(ctx, s, &q, s.client.Query, s.keysOf(leaderPath))
	if err != nil {
		return "", err
	}
	for _, item := range out.Items {
		if id, ok := item[attrKey].(*types.AttributeValueMemberS); ok && id.Value != string(binaryOf(leader[attrValue])) {
			return fmt.Sprintf("%s, but the entry %s/%s, which an active Vault has, and one that was killed leaves: it may elect its leader elsewhere", lock, leaderPath, id.Value), nil
		}
	}
	if (leader == nil || leader.stale()) && !s.opts.HAEnabled {
		return lock + ", and storage_source does not say ha_enabled = \"true\"", nil
	}
	return "", nil
}

// lostLeader is the error of a run whose leader lock is not its own any more.
func (s *Source) lostLeader(there leaderLock) error {
	what := fmt.Errorf("%w: the lock %s was removed", ErrVaultRunning, leaderLockKey)
	if there != nil {
		what = fmt.Errorf("%w: %s, took the lock %s", ErrVaultRunning, there.holder(), leaderLockKey)
	}
	return s.locked("hold the leader lock", VaultRuns, fmt.Errorf("%w from this run: %w since it was read", what, copier.ErrMoved))
}

// restoreLeader leaves the leader lock as it was found, on the condition that it
// has the given identity. Where it has not, the error wraps [copier.ErrMoved].
func (s *Source) restoreLeader(ctx context.Context, identity types.AttributeValue, found leaderLock) error {
	c := change{key: leaderLockKey, cond: "#Identity = :ours", values: attributes{":ours": identity}}
	if found != nil {
		var set, remove []string
		for _, attr := range append([]string{attrFound}, takenAttrs...) {
			if v := found[attr]; v != nil {
				c.values[":"+attr] = v
				set = append(set, "#"+attr+" = :"+attr)
			} else {
				remove = append(remove, "#"+attr)
			}
		}
		if set != nil {
			c.update = "SET " + strings.Join(set, ", ") + " "
		}
		if remove != nil {
			c.update += "REMOVE " + strings.Join(remove, ", ")
		}
	}
	got, err := s.write(ctx, c)
	// A request that was tried again is refused where the first try has had its
	// effect, and its answer was lost.
	if got.refused && !(got.repeated && leaderLock(got.there).sameAs(found)) {
		return s.lostLeader(got.there)
	}
	return err
}
