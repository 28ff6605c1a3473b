//! The connection string that binds a device to its connected registry (ACR.md section 1.8).
