package copier

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// A vaultSource is a lockedSource that can be asked for an entry.
type vaultSource struct {
	*lockedSource
	values map[string]string
}

func (s *vaultSource) Value(_ context.Context, key string) ([]byte, bool, error) {
	if err := s.c.call("src.Value"); err != nil {
		return nil, false, err
	}
	v, ok := s.values[key]
	return []byte(v), ok, nil
}

const sealConfig = `{"type":"shamir","secret_shares":5,"secret_threshold":3}`

// What Vault 1.21.1 says of the same values is in the end-to-end suite.
func TestParseSealConfig(t *testing.T) {
	for text, want := range map[string]string{
		sealConfig:        "",
		sealConfig + " }": "", // only the first value is read
		`{"Secret_Shares":1,"secret_threshold":1,"type":"","more":[]}`:                    "",
		`{"secret_shares":2,"secret_threshold":2,"pgp_keys":["AA==","AA=="]}`:             "",
		`{"secret_shares":255,"secret_threshold":255,"stored_shares":-1,"type":"awskms"}`: "",
		`{}`:                 "secret_shares is 0",
		`null`:               "secret_shares is 0",
		`[]`:                 "not the JSON",
		`5`:                  "not the JSON",
		`no json!`:           "not the JSON",
		`{"secret_shares":5`: "not the JSON",
		`{"secret_shares":"5","secret_threshold":"3"}`:                       "not the JSON",
		`{"secret_shares":5.5,"secret_threshold":3}`:                         "not the JSON",
		`{"secret_shares":5,"secret_threshold":3,"type":5}`:                  "not the JSON",
		`{"secret_shares":5,"secret_threshold":3,"backup":"false"}`:          "not the JSON",
		`{"secret_shares":5,"secret_threshold":3,"nonce":1}`:                 "not the JSON",
		`{"secret_shares":5,"secret_threshold":3,"name":{}}`:                 "not the JSON",
		`{"secret_shares":5,"secret_threshold":0}`:                           "secret_threshold is 0",
		`{"secret_shares":5,"secret_threshold":9}`:                           "secret_threshold is 9",
		`{"secret_shares":5,"secret_threshold":1}`:                           "secret_threshold is 1",
		`{"secret_shares":300,"secret_threshold":3}`:                         "secret_shares is 300",
		`{"secret_shares":1,"secret_threshold":1,"stored_shares":2}`:         "stored_shares is 2",
		`{"secret_shares":5,"secret_threshold":3,"pgp_keys":["AA=="]}`:       "1 pgp_keys",
		`{"secret_shares":1,"secret_threshold":1,"pgp_keys":["-----BEGIN"]}`: "not in base64",
	} {
		s, err := ParseSealConfig([]byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || err == nil && s.Type == "" {
			t.Errorf("%s: %+v, %v, expected %q", text, s, err, want)
		}
		if lack := Lack("core/seal-config", []byte(text)); (lack == "") != (want == "") {
			t.Errorf("%s: it lacks %q", text, lack)
		}
	}
}

// A source that no initialized Vault has used is refused before it is locked, unless
// the caller accepts it, and so is one that can't be asked.
func TestCopyRefusesWhatIsNotAVaults(t *testing.T) {
	unreachable := errors.New("unreachable")
	for name, c := range map[string]struct {
		values map[string]string
		accept bool
		fails  error
		want   error
		text   string
	}{
		"a Vault's":     {values: map[string]string{"core/keyring": "k", "core/seal-config": sealConfig}},
		"nothing":       {want: ErrNotAVault, text: "it has no core/keyring and no core/seal-config"},
		"no keyring":    {values: map[string]string{"core/seal-config": sealConfig}, want: ErrNotAVault, text: "it has no core/keyring"},
		"empty keyring": {values: map[string]string{"core/keyring": "", "core/seal-config": sealConfig}, want: ErrNotAVault, text: "it has no core/keyring that a Vault takes (its value is empty, or not binary)"},
		"no seal":       {values: map[string]string{"core/keyring": "k"}, want: ErrNotAVault, text: "it has no core/seal-config"},
		"seal refused": {values: map[string]string{"core/keyring": "k", "core/seal-config": "{}"}, want: ErrNotAVault,
			text: "it has no core/seal-config that a Vault takes (secret_shares is 0, expected 1 to 255)"},
		"accepted":       {accept: true},
		"can't be asked": {fails: unreachable, want: unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			cc := &copyCase{t: t, vault: true, fail: map[string]error{"src.Value": c.fails}}
			cc.wrap = func(s *lockedSource) Source { return &vaultSource{s, c.values} }
			cc.opts.Uninitialized = c.accept
			_, err := cc.run(t.Context())
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if c.want == nil {
				return
			}
			if strings.Contains(cc.String(), "src.Lock") || errors.Is(err, ErrNotAVault) && (!errors.Is(err, ErrSource) || !strings.HasSuffix(err.Error(), c.text)) {
				t.Errorf("%v after %s", err, cc.String())
			}
		})
	}
}

// A source that can't be asked for an entry is refused too: by what it was read to hold,
// before anything is in place.
func TestCopyRefusesWhatTurnsOutToBeNoVaults(t *testing.T) {
	of := func(seal string) []Entry {
		return []Entry{{Key: []byte("core/keyring"), Value: []byte("k")}, {Key: []byte("core/seal-config"), Value: []byte(seal)}, {Key: []byte("z")}}
	}
	for name, c := range map[string]struct {
		entries []Entry
		accept  bool
		text    string
	}{
		"a Vault's":    {entries: of(sealConfig)},
		"nothing":      {entries: []Entry{{Key: []byte("z")}}, text: "it has no core/keyring and no core/seal-config"},
		"seal refused": {entries: of("{}"), text: "it has no core/seal-config that a Vault takes (secret_shares is 0, expected 1 to 255)"},
		"accepted":     {entries: []Entry{{Key: []byte("z")}}, accept: true},
	} {
		t.Run(name, func(t *testing.T) {
			cc := &copyCase{t: t, vault: true, noLock: true, entries: c.entries}
			cc.opts.Uninitialized = c.accept
			_, err := cc.run(t.Context())
			if c.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrNotAVault) || !errors.Is(err, ErrSource) || !strings.HasSuffix(err.Error(), c.text) || strings.Contains(cc.String(), "dst.Prepare") {
				t.Errorf("%v after %s", err, cc.String())
			}
		})
	}
}

// Options.Check comes when both ends are fit, and before anything is locked.
func TestCheck(t *testing.T) {
	c := &copyCase{t: t}
	c.opts.Check = func(context.Context, Info) ([]Warning, error) { return nil, c.call("check") }
	if _, err := c.run(t.Context()); err != nil || !strings.HasPrefix(c.String(), "dst.Open src.Prepare check src.Lock") {
		t.Errorf("%v after %s", err, c.String())
	}
	full := errors.New("full")
	c = &copyCase{t: t, fail: map[string]error{"check": full}}
	c.opts.Check = func(context.Context, Info) ([]Warning, error) { return nil, c.call("check") }
	if result, err := c.run(t.Context()); !errors.Is(err, full) || result.Resumable || strings.Contains(c.String(), "src.Lock") {
		t.Errorf("%v, resumable %v, after %s", err, result.Resumable, c.String())
	}
}
