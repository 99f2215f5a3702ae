package durable

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
)

// A sealed record is one JSON object and a newline:
//
//	{"kind":"…","format":1,"sha256":"…","record":{…}}
//
// Kind says what it is a record of, format is the version of that kind's form, and
// sha256 is that of the record's compact form, in hexadecimal. The whole is
// compact, or indented by two spaces: whatever has one byte changed, outside of
// the record too, is refused.
type sealed struct {
	Kind   string          `json:"kind"`
	Format int             `json:"format"`
	SHA256 string          `json:"sha256"`
	Record json.RawMessage `json:"record"`
}

var (
	// ErrNotSealed is returned for what has not the form of a sealed record.
	ErrNotSealed = errors.New("it is damaged, or no sealed record at all")
	// ErrDamaged is returned for a sealed record that is not as it was written.
	ErrDamaged = errors.New("it is damaged: its checksum does not match")
)

// A KindError is returned for the sealed record of something else.
type KindError struct{ Kind, Want string }

func (e *KindError) Error() string {
	return fmt.Sprintf("it is a record of kind %q, and not of %q", e.Kind, e.Want)
}

// A FormatError is returned for a sealed record that another version has written.
type FormatError struct{ Format, Want int }

func (e *FormatError) Error() string {
	return fmt.Sprintf("its format is %d, this version knows %d", e.Format, e.Want)
}

// Seal makes a sealed record, in the compact form.
func Seal(kind string, format int, record any) ([]byte, error) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // so that other programs compute the same checksum
	if err := enc.Encode(record); err != nil {
		return nil, err
	}
	return seal(kind, format, bytes.TrimSuffix(body.Bytes(), []byte("\n"))), nil
}

// SealIndented is Seal for what people read.
func SealIndented(kind string, format int, record any) ([]byte, error) {
	data, err := Seal(kind, format, record)
	if err != nil {
		return nil, err
	}
	return indented(data)
}

func seal(kind string, format int, record []byte) []byte {
	return fmt.Appendf(nil, "{\"kind\":%q,\"format\":%d,\"sha256\":\"%x\",\"record\":%s}\n", kind, format, sha256.Sum256(record), record)
}

func indented(data []byte) ([]byte, error) {
	var out bytes.Buffer
	err := json.Indent(&out, data, "", "  ")
	return out.Bytes(), err
}

// Unseal reads a sealed record of that kind and format into record. An error is or
// wraps [ErrNotSealed], a [KindError], a [FormatError] or [ErrDamaged]; record may
// have been written to then.
func Unseal(data []byte, kind string, format int, record any) error {
	is, at, body, err := Peek(data)
	switch {
	case err != nil:
		return err
	case is != kind:
		return &KindError{is, kind}
	case at != format:
		return &FormatError{at, format}
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSealed, err)
	}
	// The checksum is in here.
	if want := seal(kind, format, compact.Bytes()); !bytes.Equal(data, want) {
		if want, err := indented(want); err != nil || !bytes.Equal(data, want) {
			return ErrDamaged
		}
	}
	if err := json.Unmarshal(compact.Bytes(), record); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSealed, err)
	}
	return nil
}

// Peek returns what data says that it is, and its record, of whatever kind and
// format: nothing of it is checked. An error wraps [ErrNotSealed].
func Peek(data []byte) (kind string, format int, record json.RawMessage, err error) {
	var s sealed
	if err := json.Unmarshal(data, &s); err != nil {
		return "", 0, nil, fmt.Errorf("%w: %w", ErrNotSealed, err)
	}
	if s.Kind == "" || len(s.SHA256) != 2*sha256.Size || s.Record == nil {
		return "", 0, nil, ErrNotSealed
	}
	return s.Kind, s.Format, s.Record, nil
}

// ReadSealed is [Unseal] for a file of at most limit bytes. Other errors are those
// of [ReadFile].
func ReadSealed(path string, limit int64, kind string, format int, record any) error {
	data, err := ReadFile(path, limit)
	if err != nil {
		return err
	}
	return Unseal(data, kind, format, record)
}
