package verify

import (
	"regexp"
	"slices"

	"github.com/dyn2raft/dyn2raft/copier"
)

// redactedKey replaces a key, which can name a user, by what it is for: see
// [copier.Group].
func redactedKey(key string) string { return string(copier.GroupName([]byte(key))) + "…" }

// lockKeys are the locks that Vault's storage and migrations have; others are named
// after what they lock.
var lockKeys = map[string]bool{"core/_lock": true, "core/lock": true, "core/migration": true}

func redactedLocks(keys []string) []string {
	out := make([]string, len(keys))
	for i, key := range keys {
		if out[i] = key; !lockKeys[key] {
			out[i] = redactedKey(key)
		}
	}
	return out
}

func redactedLargest(largest []copier.Sized) []copier.Sized {
	out := make([]copier.Sized, len(largest))
	for i, s := range largest {
		out[i] = copier.Sized{Key: redactedKey(s.Key), Bytes: s.Bytes}
	}
	return out
}

// redactedReason takes the place of an error's text, which may name any key.
const redactedReason = "…"

// RedactedRecord is the record of a copy without the names of keys, which can name
// users: what a key is for is all that is told of it. It is for people who are to
// read of a copy, and proves nothing any more: it is not to be written as a manifest.
func RedactedRecord(r *copier.Record) *copier.Record {
	out := *r
	out.Scan.Locks = redactedLocks(r.Scan.Locks)
	if out.Load.LargestKey != "" {
		out.Load.LargestKey = redactedKey(out.Load.LargestKey)
	}
	if r.Proof != nil && r.Proof.Contents != nil {
		proof, contents := *r.Proof, *r.Proof.Contents
		contents.Largest = redactedLargest(contents.Largest)
		proof.Contents, out.Proof = &contents, &proof
	}
	out.Warnings = slices.Clone(r.Warnings)
	for i := range out.Warnings {
		out.Warnings[i].Message = redactedText(out.Warnings[i].Message)
	}
	out.Processes = slices.Clone(r.Processes)
	for i := range out.Processes {
		if out.Processes[i].Reason != "" {
			out.Processes[i].Reason = redactedReason
		}
	}
	return &out
}

// Redacted is the report without the names of keys, as [RedactedRecord].
func (r *DirectoryReport) Redacted() *DirectoryReport {
	out := *r
	out.Scan.Locks = redactedLocks(r.Scan.Locks)
	out.Diffs = make([]Diff, len(r.Diffs))
	for i, d := range r.Diffs {
		d.Key, d.KeyBytes, d.KeySHA256 = redactedKey(d.Key), 0, ""
		out.Diffs[i] = d
	}
	return &out
}

// Redacted is the inspection without the names of keys, as [RedactedRecord].
func (in *Inspection) Redacted() *Inspection {
	out := *in
	out.Largest = redactedLargest(in.Largest)
	out.Damage, out.Log.Damage = redactedText(in.Damage), redactedText(in.Log.Damage)
	return &out
}

// redactedText is a text that names keys as [copier.NameKey] does, in quotes.
func redactedText(s string) string { return quotedKey.ReplaceAllString(s, `"…"`) }

// quotedKey is a key in a text, with the length and checksum of one that is not whole.
var quotedKey = regexp.MustCompile(`"(?:[^"\\]|\\.)*"(?:… \(\d+ bytes, sha256 [0-9a-f]+\))?`)
