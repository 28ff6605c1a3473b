#![no_main]

skerry_fuzz::target!("route");
