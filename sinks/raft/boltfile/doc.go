// Package boltfile writes a complete bbolt database in one sequential pass
// over sorted input.
//
// bbolt itself pays for random access, for transactions and for keeping the
// file whole at every moment. A file that nobody uses before it is complete
// needs none of that: leaves are written from left to right as the entries
// come, each branch page as soon as its children are known, and at the end,
// after a sync, the two meta pages that make it a database. No page is read,
// moved or written twice. A [Writer] holds a buffer and, per level of the tree,
// at most two branch pages, whatever the size of the file.
//
// The format is bbolt's version 2, as go.etcd.io/bbolt v1.5.0 reads it
// (internal/common: page.go, meta.go, inode.go, bucket.go), in the byte order
// of the machine. Three rules go beyond what bbolt's Check tests, and a file
// that breaks one opens well and fails later: each branch page has at least
// two elements, a branch key is the whole first key of its child, and the file
// is as long as its high-water mark says.
//
// The freelist is not stored (there are no free pages), so bbolt scans the
// branch and leaf pages when it opens the file for writing; Vault's option
// NoFreelistSync does the same after every start.
//
// # Fill
//
// How full pages should be depends on what comes next. BenchmarkFill updated a
// tenth of a file's entries, then inserted a tenth as many, both at random
// places, with bbolt and Vault's options, 64 to a transaction. Sizes are in MB,
// pages are what an operation writes on average. Measured on 2026-11-23, 2
// cores of an Intel Xeon with other work on them, 200,000 entries of about 800
// bytes and 800,000 of about 104 bytes, pages of 4 KiB:
//
//	                800-byte entries                     104-byte entries
//	fill   new  updated inserted  pages/op     new  updated inserted  pages/op
//	0.50   421    422      422   2.80 2.79     206    206      206   2.58 2.58
//	0.60   345    346      347   2.63 2.64     169    170      170   2.37 2.37
//	0.70   282    282      286   2.44 2.48     144    145      145   2.23 2.23
//	0.75   259    260      267   2.37 2.46     134    135      135   2.18 2.19
//	0.80   240    241      255   2.31 2.48     125    126      126   2.14 2.15
//	0.85   223    223      249   2.26 2.58     118    118      124   2.11 2.13
//	0.90   211    212      251   2.21 2.82     111    111      140   2.08 2.22
//	1.00   187    193      250   2.47 3.10      99    104      196   2.24 2.53
//
// (the pages of an update, then of an insert). bbolt splits a page that
// overflows into halves, so a file that is packed tightly at first is soon the
// larger one. At [DefaultFill] the file is smallest after the inserts, and its
// operations write within 5% of the fewest pages. The processor time of an
// operation was 30 to 55 microseconds at every fill, without a trend.
//
// # Speed
//
// BenchmarkLoad on the same day and machine, with 6 to 10 other processes ready
// to run, 400,000 entries of about 800 bytes and 3,200,000 of about 104, MB of
// the file a second, median of 9 turns:
//
//	                                       800-byte   104-byte
//	plain write of the same bytes, sync    803        1044
//	this package                           784         865
//	bbolt, sorted, 8 MB batches, no sync    72          58
//
// It keeps up with the plain write because it asks the kernel to start writing
// to disk on the way (on Linux), which the plain write leaves to its sync. Since
// then it also syncs beside its writes: a disk that works only when it is told to
// flush would else idle as long as entries are still being merged. bench/RESULTS.md
// has the newest numbers. It allocates nothing per entry, and takes about 0.12 and
// 0.06 microseconds of processor time for one.
package boltfile
