package copier

import (
	"errors"
	"fmt"
	"maps"
	"syscall"
)

// A Code names what a person can do about an [Error]. Libraries have codes; the words
// for them, with the names of flags and of other commands, are the caller's.
type Code string

var codes = map[Code][]string{}

// NewCode makes a code, with the names of the facts that an error with it has. It is
// for variables of packages, as errors.New is: a name that is taken panics.
func NewCode(name string, facts ...string) Code {
	if _, ok := codes[Code(name)]; ok {
		panic(fmt.Sprintf("code %q is made twice", name))
	}
	codes[Code(name)] = facts
	return Code(name)
}

// Codes returns the codes of all packages that the program is made of, each with the
// names of its facts.
func Codes() map[Code][]string { return maps.Clone(codes) }

// The engine's codes.
var (
	// NeedResume: an unfinished copy is in the destination, to be resumed or thrown
	// away.
	NeedResume = NewCode("need-resume")
	// WasGivenUp: the unfinished copy was given up, and what it had locked is free.
	WasGivenUp = NewCode("was-given-up")
	// OtherCopy: the unfinished copy was begun with other settings.
	OtherCopy = NewCode("other-copy")
	// OtherSource: the unfinished copy is of another source, which it has locked. Facts:
	// the id of that source, and the directories with what was read of it.
	OtherSource = NewCode("other-source", "source", "files")
	// SourceRemade: the source of the unfinished copy has its name, and is another one: it
	// was deleted and made again, or, where nothing keeps writers away, it has changed.
	// Facts: held is "yes" where the copy had locked it, and else empty.
	SourceRemade = NewCode("source-remade", "held")
	// SourceWritten: somebody wrote to the source while it was read, or since; what was
	// read is of no use.
	SourceWritten = NewCode("source-written")
	// RecordDamaged: the record of the unfinished copy can't be read. OtherVersion: it is
	// one of another version. Facts, which may be empty: the copy's run, and where its
	// work files are, as far as the record seems to say.
	RecordDamaged = NewCode("record-damaged", "run", "work_dir")
	OtherVersion  = NewCode("other-version", "run", "work_dir")
	// NeedRestart: what was read before can't be used.
	NeedRestart = NewCode("need-restart")
	// WorkGone: the directory with the work files is gone.
	WorkGone = NewCode("work-gone")
	// WorkFull: the file system of the work files is full, or a quota is used up.
	WorkFull = NewCode("work-full")
	// WorkReadOnly: the file system of the work files has become read-only.
	WorkReadOnly = NewCode("work-read-only")
	// WorkNotFile: something has the name of a work file and is no file. Facts: its path,
	// and setup, which is "yes" where it has the name of the copy's record.
	WorkNotFile = NewCode("work-not-file", "path", "setup")
	// FeedGap: what was written to the source meanwhile may have been missed, so that all
	// of it must be read again.
	FeedGap = NewCode("feed-gap")
	// WrittenAfter: somebody has written to the source behind the commit. Facts: the keys,
	// or the first ones.
	WrittenAfter = NewCode("written-after-commit", "keys")
	// InPlace: the result of an earlier process is. InPlaceInUse: and a Vault has it open.
	InPlace      = NewCode("in-place")
	InPlaceInUse = NewCode("in-place-in-use")
	// JournalGone: what was read is there, and the list of it is gone.
	JournalGone = NewCode("journal-gone")
	// NotAsRead: what was loaded is not what was read; nothing was put in place.
	NotAsRead = NewCode("not-as-read")
	// ResultDamaged: the result that is in place is not what was read. Facts: known is
	// "yes" where what was read is on record, so that the copy can be made anew.
	ResultDamaged = NewCode("result-damaged", "known")
	// InUse: a Vault has the result open.
	InUse = NewCode("in-use")
	// ResultUsed: a Vault has run on the result, and what was read for it is not on
	// record.
	ResultUsed = NewCode("result-used")
)

// workCode is the code of a work file's error.
func workCode(err error) Code {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return WorkFull
	case errors.Is(err, syscall.EROFS):
		return WorkReadOnly
	}
	return ""
}
