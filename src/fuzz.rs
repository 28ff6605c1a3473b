//! Every place where bytes of a stranger or of a damaged disk are read, as plain functions over
//! bytes. `tests/fuzz/run` calls them under a fuzzer; the test below calls them with the seeds
//! and some changes of these. A function panics where the program is wrong.

mod text;

use crate::gateway::fuzz as gateway;
use crate::http::fuzz as http;
use crate::store::fuzz as store;

/// One of those places.
pub struct Target {
    /// What it is called on the command line.
    pub name: &'static str,
    /// Reads the bytes and checks what comes of them.
    pub run: fn(&[u8]),
    /// What a fuzzer starts from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// All of them.
pub const TARGETS: [Target; 18] = [
    target("journal", store::journal, store::segments),
    target("checkpoint", store::checkpoint, store::checkpoints),
    target("row", store::row, store::rows),
    target("request_head", http::request_head, text::request_heads),
    target("reply_head", http::reply_head, text::reply_heads),
    target("answer_head", http::answer_head, text::answer_heads),
    target("body", http::body, text::bodies),
    target("connection", http::connection, text::connections),
    target("location", http::location, text::locations),
    target("route", text::route, text::routes),
    target("range", text::range, text::ranges),
    target("manifest", text::manifest, text::manifests),
    target("message", gateway::message, gateway::messages),
    target("challenge", gateway::challenge, text::challenges),
    target("schedule", text::schedule, text::schedules),
    target("scope", text::scope, text::scopes),
    target("connection_string", text::connection_string, text::connection_strings),
    target("config", text::config, text::configs),
];

/// The target of this name. Panics when there is none.
pub fn target_of(name: &str) -> &'static Target {
    static ALL: [Target; 18] = TARGETS;
    ALL.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// Those that open stores or run connections take longer.
    const SLOW: [&str; 3] = ["journal", "checkpoint", "connection"];

    struct Chance(u64);

    impl Chance {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 16).unwrap() % bound.max(1)
        }

        /// Changes `bytes` in one of the ways that damage and malice have.
        fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
            let at = self.below(bytes.len() + 1);
            let len = self.below(8).min(bytes.len() - at);
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = b"\0\xff\x7f\r\n:;,=/%-9"[self.below(13)],
                2 => drop(bytes.drain(at..at + len)),
                3 => bytes.extend_from_within(at..at + len),
                4 => bytes.truncate(at),
                _ => {
                    let from = self.below(other.len() + 1);
                    let piece = &other[from..other.len().min(from + 16)];
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
        }
    }

    fn survives(target: &Target, bytes: &[u8]) {
        let run = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
        assert!(run.is_ok(), "{} does not survive {}", target.name, bytes.escape_ascii());
    }

    #[test]
    fn what_strangers_send_and_disks_hold_makes_nothing_panic() {
        let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
        for target in &TARGETS {
            let seeds = (target.seeds)();
            seeds.iter().for_each(|seed| survives(target, seed));
            let rounds = if SLOW.contains(&target.name) { 300 } else { 3000 };
            for _ in 0..rounds {
                let mut bytes = seeds[chance.below(seeds.len())].clone();
                for _ in 0..=chance.below(4) {
                    let other = &seeds[chance.below(seeds.len())];
                    chance.change(&mut bytes, other);
                }
                survives(target, &bytes);
            }
        }
    }

    #[test]
    fn every_target_has_a_program() {
        let manifest = include_str!("../tests/fuzz/Cargo.toml");
        let programs = manifest.lines().filter_map(|line| line.strip_prefix("path = \"targets/"));
        let mut programs: Vec<&str> = programs.map(|rest| rest.trim_end_matches(".rs\"")).collect();
        let mut names = TARGETS.map(|target| target.name);
        programs.sort_unstable();
        names.sort_unstable();
        assert_eq!(programs, names);
    }
}
