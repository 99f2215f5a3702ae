//go:build !linux

package boltfile

// startWriteback does nothing: only Linux has the call for it.
func startWriteback(File, int64, int64) {}
