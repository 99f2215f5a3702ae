// Package crash holds the crash test: copies in processes of their own that
// are killed, resumed, killed again and at last compared with the table. It
// has tests only.
package crash
