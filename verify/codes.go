package verify

import "github.com/dyn2raft/dyn2raft/copier"

// The codes of this package's errors.
var (
	// NoManifest: there is no file of that name. ManifestChanged: the file is not as it
	// was written.
	// NotManifest: the file is something else.
	NoManifest      = copier.NewCode("no-manifest")
	NotManifest     = copier.NewCode("not-manifest")
	ManifestChanged = copier.NewCode("manifest-changed")
	// ManifestInside: the manifest's place is within the data directory.
	// ManifestUnwritable: it can't be written there.
	ManifestInside     = copier.NewCode("manifest-inside")
	ManifestUnwritable = copier.NewCode("manifest-unwritable")
	// ManifestLink: the manifest's file is a link.
	ManifestLink = copier.NewCode("manifest-link")
	// NoWorkDir: the directory for the work files of a comparison can't be made or used.
	// CompareRuns: another comparison uses it.
	NoWorkDir   = copier.NewCode("no-work-dir")
	CompareRuns = copier.NewCode("compare-runs")
)
