// Package cluster looks at a Vault cluster after a migration, over Vault's
// public HTTP API: is it up, is it whole, and is it the one that was copied?
// It changes nothing and reads no secret.
//
// What the API answers is documented at https://developer.hashicorp.com/vault/api-docs/system;
// the fields were compared with the answers of a Vault 1.21.1.
package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/dyn2raft/dyn2raft/copier"
)

// A Report holds what was found, in the order of the checks. A warning is what a person
// should look at and the cluster can live with, or what could not be checked. A failure
// means that the cluster is not as it should be. Checks that an earlier result makes
// pointless are left out: those of a sealed Vault, for instance.
type Report struct {
	// Address is the server that was asked, without a password.
	Address string `json:"address"`
	// Version and ClusterName are empty where the server does not give them.
	Version     string          `json:"version,omitempty"`
	ClusterName string          `json:"cluster_name,omitempty"`
	ClusterID   string          `json:"cluster_id,omitempty"`
	Checks      copier.Findings `json:"checks"`
}

// Healthy reports whether no check failed. Look at Unchecked too.
func (r *Report) Healthy() bool { return r.Checks.Count(copier.Failed) == 0 }

// Unchecked is the number of checks that could not be made.
func (r *Report) Unchecked() int {
	n := 0
	for _, c := range r.Checks {
		if c.Unchecked {
			n++
		}
	}
	return n
}

// Expect is what the cluster is compared with. Nothing is compared with a
// field's zero value.
type Expect struct {
	// Version is the one that should run, such as "1.21.1", which is also that
	// of "1.21.1+ent".
	Version string
	// Peers is the number of servers in the Raft configuration, and Voters
	// how many of them vote. Without Voters all Peers should vote.
	Peers, Voters int
	// NodeID and Address, a host:port, belong to the server that was given
	// the copy.
	NodeID, Address string
	// Mounts, Auth and Audit are as many as `vault secrets list`, `vault auth
	// list` and `vault audit list` showed on the cluster that was copied.
	Mounts, Auth, Audit int
	// MountIDs and AuthIDs are the UUIDs in the copied keys that begin with
	// logical/UUID/ and auth/UUID/. Each should belong to a mount of the root
	// namespace: those that do not are a warning, since a mount that was
	// disabled can leave data behind, and a failure if they are all. This is
	// what a copy's keys tell of its mounts: those without data of their own
	// have no key, so that a number of UUIDs is not a number of mounts.
	MountIDs, AuthIDs []string
}

// cluster reports whether anything is expected of the Raft configuration.
func (e Expect) cluster() bool { return e.Peers+e.Voters != 0 || e.NodeID != "" }

// any reports whether anything is expected that only a token can show.
func (e Expect) any() bool {
	return e.cluster() || e.Mounts+e.Auth+e.Audit+len(e.MountIDs)+len(e.AuthIDs) != 0
}

// DefaultSample is the time between the two looks at the applied index.
const DefaultSample = 5 * time.Second

// Options are for [Check]. The zero value is ready.
type Options struct {
	Expect Expect
	// Sample is the time between the two looks at the applied index, or 0 for
	// [DefaultSample].
	Sample time.Duration
}

// Check looks at the cluster behind a client, see [Connect]. What is wrong
// there is in the report. An error says that there is none: that the address
// does not answer as a Vault does ([copier.ErrDestination]), or the context's
// cause. Without a token only what Vault tells everybody is checked. The client
// must not be used by others meanwhile.
func Check(ctx context.Context, client *api.Client, opts Options) (*Report, error) {
	if opts.Sample == 0 {
		opts.Sample = DefaultSample
	}
	c := &checker{
		Options: opts,
		client:  client,
		// These paths are served in the root namespace only.
		root:   client.WithNamespace(""),
		report: &Report{Address: shownAddress(client)},
	}
	c.Findings = &c.report.Checks
	c.run(ctx)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if c.err != nil {
		return nil, c.err
	}
	return c.report, nil
}

func (c *checker) run(ctx context.Context) {
	if !c.sealStatus(ctx) || !c.node(ctx) {
		return
	}
	before := c.leader(ctx)
	sampled := time.Now()
	if c.client.Token() == "" {
		c.unchecked("token", "", c.Expect.any(), "no token: peers, autopilot, nodes, secrets engines, auth methods and audit devices were not checked")
	} else if c.peers(ctx) {
		c.autopilot(ctx)
		c.nodes(ctx)
		c.mounts(ctx)
	}
	c.appliedIndex(ctx, before, sampled)
}
