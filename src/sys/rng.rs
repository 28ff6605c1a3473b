//! Random bytes.

use ring::rand::{SecureRandom, SystemRandom};

/// Where randomness comes from.
pub trait Rng: Send + Sync {
    /// Fills `buffer`.
    fn fill(&self, buffer: &mut [u8]);

    /// A random number, for example of an epoch.
    fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A version 4 UUID in its usual form (RFC 9562).
    fn uuid(&self) -> String {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex = data_encoding::HEXLOWER.encode(&bytes);
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// The kernel's generator.
pub struct SystemRng(SystemRandom);

impl SystemRng {
    /// Opens it.
    pub fn new() -> SystemRng {
        SystemRng(SystemRandom::new())
    }
}

impl Default for SystemRng {
    fn default() -> Self {
        SystemRng::new()
    }
}

impl Rng for SystemRng {
    fn fill(&self, buffer: &mut [u8]) {
        // getrandom(2) fails only on kernels older than any that we run on; no secret may be
        // made without it, so stop.
        self.0.fill(buffer).unwrap_or_else(|_| panic!("the kernel gives no random numbers"));
    }
}
