//go:build !linux

package server

import "syscall"

// DieWithParent does nothing: the system has no such thing.
func DieWithParent() *syscall.SysProcAttr { return nil }
