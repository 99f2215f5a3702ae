package plan

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
func (p *planner) program(ctx context.Context) {
	const check = "vault-version"
	if p.VaultBin == "" {
		return
	}
	path, err := filepath.Abs(p.VaultBin)
	if err != nil {
		p.fail(check, err.Error(), "name the program with its whole path")
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
		p.fail(check, fmt.Sprintf("%s version: %v", path, err), "name the program that the server's unit starts")
		return
	case m == nil:
		p.fail(check, path+" version does not say that it is a Vault", "name the program that the server's unit starts")
		return
	}
	have, table := string(m[1]), p.version
	p.version = have // it is the one that starts
	const hint = "the same version as cluster A's: upgrade before or after the migration, not at once"
	switch order := semver.Compare("v"+have, "v"+table); {
	case table == "":
		p.note(check, "%s is %s; the table does not tell which Vault has run on it", path, have)
	case order < 0:
		p.fail(check, fmt.Sprintf("%s is %s, older than the %s that has run on the table", path, have, table), "no Vault is made to read what a newer one has written; "+hint)
	case order > 0:
		p.warn(check, fmt.Sprintf("%s is %s, newer than the %s that has run on the table", path, have, table), hint)
	case enterprise(have) != enterprise(table):
		p.warn(check, fmt.Sprintf("%s is %s, another edition than the %s that has run on the table", path, have, table), "the same edition as cluster A's; Community can't read what Enterprise has wrapped by a seal")
	default:
		p.pass(check, "%s is %s, as on the table", path, have)
	}
}

func enterprise(version string) bool { return strings.HasPrefix(semver.Build("v"+version), "+ent") }

// enoughOpen is LimitNOFILE of the unit that HashiCorp's packages bring along.
const enoughOpen = 65536

// unit looks at the limits of the server's unit, where systemd is.
func (p *planner) unit(ctx context.Context) {
	const check = "vault-unit"
	if p.VaultUnit == "" {
		return
	}
	show := p.systemctl
	if show == nil {
		show = systemctl
	}
	text, err := show(ctx, "show", "-p", "LoadState", "-p", "User", "-p", "LimitNOFILE", "-p", "LimitMEMLOCK", "--", p.VaultUnit)
	if err != nil {
		p.warn(check, "the unit could not be looked at: "+err.Error(), "see for yourself: systemctl show vault -p LimitNOFILE -p LimitMEMLOCK")
		return
	}
	is := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			is[name] = value
		}
	}
	if is["LoadState"] != "loaded" {
		p.fail(check, fmt.Sprintf("systemd has no unit %s (%s)", p.VaultUnit, is["LoadState"]), "name the server's unit, as systemctl list-unit-files shows it")
		return
	}
	most, err := strconv.ParseUint(is["LimitNOFILE"], 10, 64)
	wrong := false
	if err == nil && most < enoughOpen { // infinity is no number
		wrong = true
		p.warn(check, fmt.Sprintf("%s: LimitNOFILE is %d: each client and each lease may want a file", p.VaultUnit, most), "LimitNOFILE=65536 in the unit, then systemctl daemon-reload")
	}
	if _, err := strconv.ParseUint(is["LimitMEMLOCK"], 10, 64); err == nil && p.mlock {
		wrong = true
		p.warn(check, fmt.Sprintf("%s: LimitMEMLOCK is %s bytes, and disable_mlock is false: Vault ends at its start where it can't lock its memory, the mapped vault.db included", p.VaultUnit, is["LimitMEMLOCK"]),
			"LimitMEMLOCK=infinity in the unit, or disable_mlock = true with swap encrypted or off")
	}
	if st, err := owner(p.Config.Destination.Path); err == nil && p.Owner == "" {
		if runs, has := is["User"], userName(int(st.Uid)); runs != has && !(runs == "" && st.Uid == 0) && runs != strconv.Itoa(int(st.Uid)) {
			wrong = true
			p.warn(check, fmt.Sprintf("%s runs as %q, and the data directory belongs to %s", p.VaultUnit, runs, has), "Vault can't open files that are not its own: chown the directory, or name the unit of this Vault")
		}
	}
	if !wrong {
		p.pass(check, "%s: LimitNOFILE %s, LimitMEMLOCK %s", p.VaultUnit, is["LimitNOFILE"], is["LimitMEMLOCK"])
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
func (p *planner) audit() {
	const check = "audit"
	if len(p.AuditPaths) == 0 {
		return
	}
	who, err := p.vaultUser()
	if err != nil {
		p.warn(check, "could not be looked at: "+err.Error(), "see that the user that Vault runs as can write each audit device's file")
		return
	}
	failed := map[string]error{}
	for _, path := range p.AuditPaths {
		if err := who.canLog(path); err != nil {
			failed[path] = err
		}
	}
	for _, path := range p.AuditPaths {
		err, hint := failed[path], "make its directory on this node, for the user that Vault runs as (install -d -o vault -m 0750 …)"
		switch {
		case err == nil:
			p.pass(check, "%s can write %s", who.name, path)
		case len(failed) == len(p.AuditPaths):
			p.fail(check, err.Error()+": no audit device works, and Vault does not unseal", hint)
		default:
			p.warn(check, err.Error()+": Vault unseals by the other devices, and this one does not work", hint)
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
func (p *planner) vaultUser() (account, error) {
	st, err := owner(p.Config.Destination.Path)
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
