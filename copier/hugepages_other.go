//go:build !linux

package copier

// hugePages does nothing: only Linux has the call for it.
func hugePages([]byte) {}
