package server

import "syscall"

// DieWithParent has a process killed when the one that starts it ends.
func DieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
