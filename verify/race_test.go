//go:build race

package verify

// The race detector makes everything some ten times slower.
const manyEntries = 50_000
