//go:build suite

// Package suite pins the conformance suite of the OCI distribution-spec as of its release 1.1.1;
// tests/run builds it.
package suite

import _ "github.com/opencontainers/distribution-spec/conformance"
