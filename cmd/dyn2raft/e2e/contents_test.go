//go:build e2e

package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// contents is what a test has put into a Vault, and what must still be there after
// the move: by reading it, by using it, and by what must stay refused.
type contents struct {
	kv1         map[string]map[string]any // KV version 1, by name
	kv2         map[string]map[string]any // KV version 2, by name
	kv2Old      string                    // a name of kv2 with an older version
	kv1UUID     string                    // the mount's folder in the storage
	plaintexts  map[string]string         // transit: ciphertext to plaintext
	ca          string                    // PEM
	issued      map[string]string         // certificate by serial number, PEM
	roleID      string
	secretID    string
	users       map[string]string // password by name
	policies    map[string]string
	entity      string // id
	group       string // id
	tokens      []string
	tokenPolicy string
	revoked     []string // tokens that were
	deleted     []string // names that kv1 had
	lockedOut   []string // users that were deleted
}

// hiddenNames is how many secrets of kv1 a List on DynamoDB does not show, because
// their name, or a folder's on the way to it, starts with "_".
const hiddenNames = 8

// fill writes about 250 secrets and some of everything else a Vault keeps.
func fill(t *testing.T, v *vault) *contents {
	t.Helper()
	c := &contents{
		kv1: map[string]map[string]any{}, kv2: map[string]map[string]any{},
		plaintexts: map[string]string{}, issued: map[string]string{}, users: map[string]string{}, policies: map[string]string{},
	}
	c.fillKV(t, v)
	c.fillTransit(t, v)
	c.fillPKI(t, v)
	c.fillAuth(t, v)
	return c
}

// clone is the same contents, whose secrets can be changed apart.
func (c *contents) clone() *contents {
	other := *c
	other.kv1, other.kv2 = maps.Clone(c.kv1), maps.Clone(c.kv2)
	return &other
}

func (c *contents) fillKV(t *testing.T, v *vault) {
	t.Helper()
	v.write(t, "sys/mounts/kv1", map[string]any{"type": "kv", "options": map[string]any{"version": "1"}})
	v.write(t, "sys/mounts/kv2", map[string]any{"type": "kv", "options": map[string]any{"version": "2"}})
	c.kv1UUID = v.read(t, "sys/mounts/kv1")["uuid"].(string)

	for i := range 100 {
		name := []string{
			"plain-%03d", "with spaces and a + %03d", "ünïcode/秘密/🔑-%03d",
			"a/very/deep/path/to/a/secret/that/few/would/write/%03d", "percent%%20sign and ?query&x=1 #%03d",
		}[i%5]
		c.kv1[fmt.Sprintf(name, i)] = map[string]any{"value": fmt.Sprintf("v1 %d", i)}
	}
	for i := range hiddenNames / 2 {
		c.kv1[fmt.Sprintf("_hidden-%d", i)] = map[string]any{"value": fmt.Sprintf("hidden %d", i)}
		c.kv1[fmt.Sprintf("_folder/below-%d", i)] = map[string]any{"value": fmt.Sprintf("below %d", i)}
	}
	for i := range 10 {
		c.kv1[fmt.Sprintf("orphans/of/a/lost/marker/%03d", i)] = map[string]any{"value": fmt.Sprintf("orphan %d", i)}
	}
	c.kv1["dots/."] = map[string]any{"value": "a last segment that a parent can't be"}
	c.kv1["empty value"] = map[string]any{"value": ""}
	c.kv1["large"] = map[string]any{"value": strings.Repeat("0123456789abcdef", 12_000)}
	for _, name := range slices.Sorted(maps.Keys(c.kv1)) {
		v.write(t, "kv1/"+name, c.kv1[name])
	}

	for i := range 130 {
		name := []string{"plain-%03d", "sp ace/%03d", "日本/語-%03d", "_under/_score-%03d"}[i%4]
		c.kv2[fmt.Sprintf(name, i)] = map[string]any{"value": fmt.Sprintf("v2 %d", i), "empty": ""}
	}
	// A new KV v2 mount answers 400 while it upgrades itself.
	waitFor(t, "the KV v2 mount", healthLimit, func() error {
		code, answer, err := v.do(http.MethodGet, "kv2/config", nil)
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("status %d: %v", code, answer["errors"])
		}
		return err
	})
	c.kv2Old = "plain-000"
	v.write(t, "kv2/data/"+c.kv2Old, map[string]any{"data": map[string]any{"value": "the first version"}})
	for _, name := range slices.Sorted(maps.Keys(c.kv2)) {
		v.write(t, "kv2/data/"+name, map[string]any{"data": c.kv2[name]})
	}
}

func (c *contents) fillTransit(t *testing.T, v *vault) {
	t.Helper()
	v.write(t, "sys/mounts/transit", map[string]any{"type": "transit"})
	v.write(t, "transit/keys/main", nil)
	for i := range 4 {
		if i == 2 {
			v.write(t, "transit/keys/main/rotate", nil)
		}
		plain := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "plaintext %d", i))
		c.plaintexts[v.write(t, "transit/encrypt/main", map[string]any{"plaintext": plain})["ciphertext"].(string)] = plain
	}
}

func (c *contents) fillPKI(t *testing.T, v *vault) {
	t.Helper()
	v.write(t, "sys/mounts/pki", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": "87600h"}})
	c.ca = v.write(t, "pki/root/generate/internal", map[string]any{
		"common_name": "dyn2raft e2e root", "ttl": "8760h", "key_type": "ec",
	})["certificate"].(string)
	v.write(t, "pki/roles/web", map[string]any{"allowed_domains": "example.com", "allow_subdomains": true, "key_type": "ec", "max_ttl": "720h"})
	for i := range 3 {
		cert := v.write(t, "pki/issue/web", map[string]any{"common_name": fmt.Sprintf("host-%d.example.com", i), "ttl": "240h"})
		c.issued[cert["serial_number"].(string)] = cert["certificate"].(string)
	}
}

func (c *contents) fillAuth(t *testing.T, v *vault) {
	t.Helper()
	for _, name := range []string{"readers", "writers"} {
		c.policies[name] = fmt.Sprintf("path \"kv1/*\" { capabilities = [\"read\"] } # %s", name)
		v.call(t, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": c.policies[name]})
	}
	c.tokenPolicy = "readers"

	v.write(t, "sys/auth/approle", map[string]any{"type": "approle"})
	v.write(t, "auth/approle/role/app", map[string]any{"token_policies": "readers", "token_ttl": "24h"})
	c.roleID = v.read(t, "auth/approle/role/app/role-id")["role_id"].(string)
	c.secretID = v.write(t, "auth/approle/role/app/secret-id", nil)["secret_id"].(string)
	for range 5 {
		c.tokens = append(c.tokens, c.loginAppRole(t, v))
	}

	v.write(t, "sys/auth/userpass", map[string]any{"type": "userpass"})
	for i := range 3 {
		name := fmt.Sprintf("user-%d", i)
		c.addUser(t, v, name)
		c.tokens = append(c.tokens, c.loginUser(t, v, name))
	}

	accessor := v.read(t, "sys/auth/userpass")["accessor"].(string)
	login := v.as(c.tokens[len(c.tokens)-1]).read(t, "auth/token/lookup-self")
	c.entity = login["entity_id"].(string)
	c.group = v.write(t, "identity/group", map[string]any{
		"name": "the group", "policies": "writers", "member_entity_ids": []string{c.entity},
	})["id"].(string)
	v.write(t, "identity/entity", map[string]any{"name": "an entity of its own", "metadata": map[string]any{"userpass": accessor}})

	for i := range 5 {
		token := v.write(t, "auth/token/create", map[string]any{"policies": []string{"readers"}, "ttl": "48h", "no_parent": i%2 == 0})
		c.tokens = append(c.tokens, token["client_token"].(string))
	}
	c.tokens = append(c.tokens, v.write(t, "auth/token/create", map[string]any{"policies": []string{"readers"}, "ttl": "48h"})["client_token"].(string))
	c.revokeLast(t, v)
}

func (c *contents) revokeLast(t *testing.T, v *vault) {
	t.Helper()
	last := len(c.tokens) - 1
	v.write(t, "auth/token/revoke", map[string]any{"token": c.tokens[last]})
	c.tokens, c.revoked = c.tokens[:last], append(c.revoked, c.tokens[last])
}

// live makes a token, a user and secrets, takes others away, and changes some.
func (c *contents) live(t *testing.T, v *vault) {
	t.Helper()
	c.revokeLast(t, v)
	c.tokens = append([]string{v.write(t, "auth/token/create", map[string]any{"policies": []string{"readers"}, "ttl": "48h"})["client_token"].(string)}, c.tokens...)

	gone := slices.Min(slices.Collect(maps.Keys(c.users)))
	v.delete(t, "auth/userpass/users/"+gone)
	delete(c.users, gone)
	c.lockedOut = append(c.lockedOut, gone)
	c.addUser(t, v, "after-"+gone)

	var plain []string
	for name := range c.kv1 {
		if strings.HasPrefix(name, "plain-") && name != "plain-000" {
			plain = append(plain, name)
		}
	}
	slices.Sort(plain)
	v.delete(t, "kv1/"+plain[0])
	delete(c.kv1, plain[0])
	c.deleted = append(c.deleted, plain[0])
	for _, name := range []string{plain[1], "after " + plain[0], "_hidden/after " + plain[0]} {
		c.kv1[name] = map[string]any{"value": "changed since " + plain[0] + " went"}
		v.write(t, "kv1/"+name, c.kv1[name])
	}
}

func (c *contents) addUser(t *testing.T, v *vault, name string) {
	t.Helper()
	c.users[name] = "password of " + name
	v.write(t, "auth/userpass/users/"+name, map[string]any{"password": c.users[name], "token_policies": "readers"})
}

func (c *contents) loginAppRole(t *testing.T, v *vault) string {
	t.Helper()
	return v.write(t, "auth/approle/login", map[string]any{"role_id": c.roleID, "secret_id": c.secretID})["client_token"].(string)
}

func (c *contents) loginUser(t *testing.T, v *vault, name string) string {
	t.Helper()
	return v.write(t, "auth/userpass/login/"+name, map[string]any{"password": c.users[name]})["client_token"].(string)
}

// check reads and uses everything that fill has put in. Its logins leave tokens, and it
// issues a certificate; what was there stays as it was.
func (c *contents) check(t *testing.T, v *vault) {
	t.Helper()
	c.checkSecrets(t, v)

	for ciphertext, plain := range c.plaintexts {
		if got := v.write(t, "transit/decrypt/main", map[string]any{"ciphertext": ciphertext})["plaintext"]; got != plain {
			t.Errorf("%s: transit decrypts to something else", v.name)
		}
	}

	if got := v.read(t, "pki/cert/ca")["certificate"]; strings.TrimSpace(got.(string)) != strings.TrimSpace(c.ca) {
		t.Errorf("%s: the PKI root is another one", v.name)
	}
	for serial, cert := range c.issued {
		if got := v.read(t, "pki/cert/"+serial)["certificate"]; strings.TrimSpace(got.(string)) != strings.TrimSpace(cert) {
			t.Errorf("%s: certificate %s is another one", v.name, serial)
		}
	}
	c.checkIssues(t, v)

	for name, want := range c.policies {
		if got := v.read(t, "sys/policies/acl/"+name)["policy"]; got != want {
			t.Errorf("%s: policy %s is %v, want %q", v.name, name, got, want)
		}
	}
	group := v.read(t, "identity/group/id/"+c.group)
	if got := group["member_entity_ids"]; !reflect.DeepEqual(got, []any{c.entity}) {
		t.Errorf("%s: the group's members are %v, want %s", v.name, got, c.entity)
	}

	tokens := append([]string{c.loginAppRole(t, v)}, c.tokens...)
	for name := range c.users {
		tokens = append(tokens, c.loginUser(t, v, name))
	}
	for i, token := range tokens {
		policies, _ := v.as(token).read(t, "auth/token/lookup-self")["policies"].([]any)
		if !slices.Contains(policies, any(c.tokenPolicy)) {
			t.Errorf("%s: token %d has policies %v, want %s among them", v.name, i, policies, c.tokenPolicy)
		}
		v.as(token).read(t, "kv1/plain-000")
	}
	for _, token := range c.revoked {
		if code, _, err := v.as(token).do(http.MethodGet, "auth/token/lookup-self", nil); err != nil || code != http.StatusForbidden {
			t.Errorf("%s: a revoked token is answered %d (%v), want 403", v.name, code, err)
		}
	}
	for _, name := range c.deleted {
		if code, _, err := v.do(http.MethodGet, "kv1/"+name, nil); err != nil || code != http.StatusNotFound {
			t.Errorf("%s: a deleted secret is answered %d (%v), want 404", v.name, code, err)
		}
	}
	for _, name := range c.lockedOut {
		code, _, err := v.do(http.MethodPost, "auth/userpass/login/"+name, map[string]any{"password": "password of " + name})
		if err != nil || code != http.StatusBadRequest {
			t.Errorf("%s: a deleted user's login is answered %d (%v), want 400", v.name, code, err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

func (c *contents) checkSecrets(t *testing.T, v *vault) {
	t.Helper()
	for name, want := range c.kv1 {
		if got := v.read(t, "kv1/"+name); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: KV v1 secret %q differs", v.name, name)
		}
	}
	for name, want := range c.kv2 {
		if got := v.read(t, "kv2/data/"+name)["data"]; !reflect.DeepEqual(got, any(want)) {
			t.Errorf("%s: KV v2 secret %q differs", v.name, name)
		}
	}
	versions := v.read(t, "kv2/metadata/"+c.kv2Old)["versions"].(map[string]any)
	if len(versions) != 2 {
		t.Errorf("%s: KV v2 secret %q has %d versions, want 2", v.name, c.kv2Old, len(versions))
	}
}

// checkIssues wants a certificate that the old root has signed.
func (c *contents) checkIssues(t *testing.T, v *vault) {
	t.Helper()
	answer := v.write(t, "pki/issue/web", map[string]any{"common_name": "new.example.com", "ttl": "1h"})
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(c.ca)) {
		t.Fatal("the PKI root is no certificate")
	}
	block, _ := pem.Decode([]byte(answer["certificate"].(string)))
	if block == nil {
		t.Fatalf("%s: the issued certificate is not PEM", v.name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "new.example.com"}); err != nil {
		t.Errorf("%s: a newly issued certificate does not verify: %v", v.name, err)
	}
}

// checkListed wants every KV v1 name in the lists: on Raft, unlike on DynamoDB, a name
// that starts with "_" and a folder without a marker are listed too.
func (c *contents) checkListed(t *testing.T, v *vault) {
	t.Helper()
	listed := c.listed(t, v)
	for name := range c.kv1 {
		if !listed[name] {
			t.Errorf("%s: KV v1 secret %q is not listed", v.name, name)
		}
	}
}

// listed returns the KV v1 names that are found by listing folder by folder.
func (c *contents) listed(t *testing.T, v *vault) map[string]bool {
	t.Helper()
	listed := map[string]bool{}
	var walk func(folder string)
	walk = func(folder string) {
		for _, k := range v.call(t, "LIST", "kv1/"+folder, nil)["keys"].([]any) {
			if name := folder + k.(string); strings.HasSuffix(name, "/") {
				walk(name)
			} else {
				listed[name] = true
			}
		}
	}
	walk("")
	return listed
}
