package dynamodb

import (
	"bytes"
	endian "encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"
)

// What Vault Enterprise seal-wraps ends in sealWrapEnd, and is before that one wrapped
// blob, or, with several seals, manyBlobs, the length of the rest in 4 bytes, big-endian,
// and a message of several blobs (field 2). A blob is a message of go-kms-wrapping: field
// 1 is the ciphertext, 4 says that it is wrapped, 5 names the key.
const (
	sealWrapEnd = 's'
	manyBlobs   = "multiwrapvalue:1"
)

// sealWrapped reports whether a value is seal-wrapped, by decoding it. What Vault encrypts
// by itself begins with the number of a key, 4 bytes and the first of them 0, where no
// such message begins.
func sealWrapped(value []byte) bool {
	rest, ok := bytes.CutSuffix(value, []byte{sealWrapEnd})
	if !ok {
		return false
	}
	if many, ok := bytes.CutPrefix(rest, []byte(manyBlobs)); ok {
		if len(many) < 4 || uint64(endian.BigEndian.Uint32(many)) != uint64(len(many)-4) {
			return false
		}
		blobs := 0
		return fields(many[4:], func(n protowire.Number, _ uint64, field []byte) bool {
			if n == 2 && wrappedBlob(field) {
				blobs++
			}
			return n <= 2
		}) && blobs > 0
	}
	return wrappedBlob(rest)
}

func wrappedBlob(message []byte) bool {
	var ciphertext, wrapped bool
	ok := fields(message, func(n protowire.Number, number uint64, field []byte) bool {
		switch n {
		case 1:
			ciphertext = len(field) > 0
		case 4:
			wrapped = wrapped || number == 1
		case 5:
			wrapped = wrapped || field != nil
		}
		return n <= 8
	})
	return ok && ciphertext && wrapped
}

// fields calls f with the fields of a message, numbers or bytes, and reports whether it is
// one, of such fields, and f takes all of them.
func fields(message []byte, f func(n protowire.Number, number uint64, field []byte) bool) bool {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return false
		}
		message = message[size:]
		var number uint64
		var field []byte
		switch kind {
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			field, size = protowire.ConsumeBytes(message)
		default:
			return false
		}
		if size < 0 || !f(n, number, field) {
			return false
		}
		message = message[size:]
	}
	return true
}
