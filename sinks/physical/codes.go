package physical

import "github.com/dyn2raft/dyn2raft/copier"

// The codes of this package's errors. Their fact is the backend's name.
var (
	// BackendNotEmpty: it holds data that no copy has put there.
	BackendNotEmpty = copier.NewCode("backend-not-empty", "backend")
	// BackendBusy: another migration holds it.
	BackendBusy = copier.NewCode("backend-busy", "backend")
	// BackendUsed: a Vault is active on it.
	BackendUsed = copier.NewCode("backend-used", "backend")
	// BackendTaken: somebody took it from a copy that was under way.
	BackendTaken = copier.NewCode("backend-taken", "backend")
)
