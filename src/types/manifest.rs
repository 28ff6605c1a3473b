//! Manifests and indexes, parsed for what a registry needs to know of them.
