//go:build !race

package verify

const manyEntries = 1_000_000
