package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/semver"
	"golang.org/x/sys/unix"
)

// versionLine is what the program says of itself.
var versionLine = regexp.MustCompile(`^(?:Vault|OpenBao) v(\d+\.\d+\.\d+[^\s,]*)`)

// program asks the Vault that will start on the copy for its version, and runs
// nothing else of it. It is the file that was named: one that was found by PATH
// could be anybody's.
func (p *probe) program(ctx context.Context) {
	if p.Program == "" {
		return
	}
	path, err := filepath.Abs(p.Program)
	if err != nil {
		p.Fail("vault-version", "path", "%w", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "version")
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{"PATH=" + os.Getenv("PATH"), "HOME=/"}, "/", time.Second // no token of the shell's
	out, err := cmd.Output()
	m := versionLine.FindSubmatch(out)
	switch {
	case err != nil:
		p.Fail("vault-version", "program", "%s version: %v", path, err)
		return
	case m == nil:
		p.Fail("vault-version", "program", "%s version does not say that it is a Vault", path)
		return
	}
	have, table := string(m[1]), p.Version
	p.Version = have // it is the one that starts
	switch order := semver.Compare("v"+have, "v"+table); {
	case table == "":
		p.Note("vault-version", "", "%s is %s; the table does not tell which Vault has run on it", path, have)
	case order < 0:
		p.Fail("vault-version", "older", "%s is %s, older than the %s that has run on the table", path, have, table)
	case order > 0:
		p.Warn("vault-version", "", "%s is %s, newer than the %s that has run on the table", path, have, table)
	case enterprise(have) != enterprise(table):
		p.Warn("vault-version", "edition", "%s is %s, another edition than the %s that has run on the table", path, have, table)
	default:
		p.Pass("vault-version", "%s is %s, as on the table", path, have)
	}
}

func enterprise(version string) bool { return strings.HasPrefix(semver.Build("v"+version), "+ent") }

// enoughOpen is LimitNOFILE of the unit that HashiCorp's packages bring along.
const enoughOpen = 65536

// unit looks at the limits of the server's unit, where systemd is.
func (p *probe) unit(ctx context.Context) {
	if p.Unit == "" {
		return
	}
	text, err := p.systemctl(ctx, "show", "-p", "LoadState", "-p", "User", "-p", "LimitNOFILE", "-p", "LimitMEMLOCK", "--", p.Unit)
	if err != nil {
		p.Warn("vault-unit", "unknown", "the unit could not be looked at: %w", err)
		return
	}
	is := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			is[name] = value
		}
	}
	if is["LoadState"] != "loaded" {
		p.Fail("vault-unit", "missing", "systemd has no unit %s (%s)", p.Unit, is["LoadState"])
		return
	}
	before := len(p.Findings)
	if most, err := strconv.ParseUint(is["LimitNOFILE"], 10, 64); err == nil && most < enoughOpen { // infinity is no number
		p.Warn("vault-unit", "files", "%s: LimitNOFILE is %d: each client and each lease may want a file", p.Unit, most)
	}
	if _, err := strconv.ParseUint(is["LimitMEMLOCK"], 10, 64); err == nil && p.mlock {
		p.Warn("vault-unit", "memlock", "%s: LimitMEMLOCK is %s bytes, and disable_mlock is false: Vault ends at its start where it can't lock its memory, the mapped vault.db included", p.Unit, is["LimitMEMLOCK"])
	}
	if st, err := owner(p.Path); err == nil && p.Owner == "" {
		if runs, has := is["User"], UserName(int(st.Uid)); runs != has && !(runs == "" && st.Uid == 0) && runs != strconv.Itoa(int(st.Uid)) {
			p.Warn("vault-unit", "user", "%s runs as %q, and the data directory belongs to %s", p.Unit, runs, has)
		}
	}
	if len(p.Findings) == before {
		p.Pass("vault-unit", "%s: LimitNOFILE %s, LimitMEMLOCK %s", p.Unit, is["LimitNOFILE"], is["LimitMEMLOCK"])
	}
}

// systemctl runs the system's own program, wherever PATH leads.
func systemctl(ctx context.Context, args ...string) (string, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return "", errors.New("systemd does not run here")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	program := "/usr/bin/systemctl"
	if _, err := os.Stat(program); err != nil {
		program = "/bin/systemctl"
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.WaitDelay = []string{"LC_ALL=C"}, time.Second
	out, err := cmd.Output()
	return string(out), err
}

// audit looks at the files of the audit devices, as the user that Vault will run
// as. Vault does not unseal where all of its audit devices fail.
func (p *probe) audit() {
	if len(p.AuditPaths) == 0 {
		return
	}
	who, err := p.vaultUser()
	if err != nil {
		p.Warn("audit", "unknown", "could not be looked at: %w", err)
		return
	}
	failed := map[string]error{}
	for _, path := range p.AuditPaths {
		if err := who.canLog(path); err != nil {
			failed[path] = err
		}
	}
	for _, path := range p.AuditPaths {
		switch err := failed[path]; {
		case err == nil:
			p.Pass("audit", "%s can write %s", who.name, path)
		case len(failed) == len(p.AuditPaths):
			p.Fail("audit", "", "%w: no audit device works, and Vault does not unseal", err)
		default:
			p.Warn("audit", "", "%w: Vault unseals by the other devices, and this one does not work", err)
		}
	}
}

// An account is a user whose rights are told by the files' modes.
type account struct {
	name string
	uid  uint32
	gids []uint32
}

// vaultUser is whom the copy will belong to: -owner, else the owner of the data
// directory. It needs no account here, as in a container.
func (p *probe) vaultUser() (account, error) {
	st, err := owner(p.Path)
	if err != nil {
		return account{}, err
	}
	name, group, _ := strings.Cut(p.Owner, ":")
	if name == "" {
		name, group = strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
	}
	u, err := user.LookupId(name)
	if err != nil {
		u, err = user.Lookup(name)
	}
	if err != nil {
		u = &user.User{Uid: name, Username: name}
	}
	uid, numErr := strconv.ParseUint(u.Uid, 10, 32)
	if numErr != nil {
		return account{}, errors.Join(err, numErr)
	}
	a := account{name: u.Username, uid: uint32(uid)}
	ids, err := u.GroupIds()
	if err != nil {
		ids = []string{u.Gid}
	}
	for _, id := range append(ids, group) {
		if gid, err := strconv.ParseUint(id, 10, 32); err == nil { // a group's name is in the account's list
			a.gids = append(a.gids, uint32(gid))
		}
	}
	return a, nil
}

// canLog returns why the account can't append to an audit device's file, or make
// it.
func (a account) canLog(path string) error {
	switch path {
	case "stdout", "discard":
		return nil
	case "":
		return errors.New("the path of an audit device's file is empty")
	}
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s is below the directory that Vault is started in: write it whole", path)
	}
	dir := filepath.Dir(path)
	want, at := fs.FileMode(0o3), dir // to make a file
	switch fi, err := os.Stat(path); {
	case err == nil && !fi.Mode().IsRegular():
		return fmt.Errorf("%s is no file", path)
	case err == nil:
		want, at = 0o2, path
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there", dir)
	}
	if !a.may(at, want) {
		return fmt.Errorf("%s can't write %s", a.name, at)
	}
	for ; ; dir = filepath.Dir(dir) {
		if !a.may(dir, 0o1) {
			return fmt.Errorf("%s can't get through %s", a.name, dir)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// may reports whether the account has rights to a file, which are of the last
// three bits of a mode. Of another account's only the mode tells.
func (a account) may(path string, rights fs.FileMode) bool {
	if int(a.uid) == os.Geteuid() {
		return unix.Access(path, uint32(rights)) == nil
	}
	st, err := owner(path)
	if err != nil {
		return false
	}
	mode := fs.FileMode(st.Mode)
	switch {
	case a.uid == 0:
		return true
	case a.uid == st.Uid:
		return mode>>6&rights == rights
	case slices.Contains(a.gids, st.Gid):
		return mode>>3&rights == rights
	default:
		return mode&rights == rights
	}
}

// owner returns whose a file is, and its mode.
func owner(path string) (*syscall.Stat_t, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", path, err)
	}
	return &st, nil
}
