// Package memory makes room for what passes through in megabytes: responses,
// pages, and what is sorted.
package memory

// Make returns an empty slice with room for n bytes, which the kernel backs with
// huge pages where it has them: to touch memory for the first time in pages of 4
// KiB takes longer than to decode what is then written there, and several times as
// long under a hypervisor. What is not touched takes no memory, but for the rest of
// a huge page.
func Make(n int) []byte {
	b := make([]byte, 0, n)
	huge(b)
	return b
}
