//! The targets share this: each is a function of `skerry::fuzz` under libFuzzer's main.

use std::alloc::{GlobalAlloc, Layout, System};

pub use libfuzzer_sys;

/// No input is longer than 8 KiB: whoever asks for this much at once believed a number in it.
const ALLOCATION_BYTES_MAX: usize = 64 * 1024 * 1024;

struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fn check(len: usize) {
    if len >= ALLOCATION_BYTES_MAX {
        // Panicking allocates.
        std::process::abort();
    }
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        check(len);
        unsafe { System.realloc(at, layout, len) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}

/// A target of libFuzzer.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(
            init: $crate::write_seeds($name),
            |bytes: &[u8]| $crate::run($name, bytes)
        );
    };
}

/// Runs one target.
pub fn run(name: &str, bytes: &[u8]) {
    (skerry::fuzz::target_of(name).run)(bytes);
}

/// With `SKERRY_FUZZ_SEEDS` set to a directory: writes the seeds there and ends the process.
pub fn write_seeds(name: &str) {
    let Some(directory) = std::env::var_os("SKERRY_FUZZ_SEEDS") else {
        return;
    };
    for (number, seed) in (skerry::fuzz::target_of(name).seeds)().into_iter().enumerate() {
        let path = std::path::Path::new(&directory).join(format!("seed-{number:03}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    std::process::exit(0);
}
