//go:build !linux

package memory

// huge does nothing: only Linux has the call for it.
func huge([]byte) {}
