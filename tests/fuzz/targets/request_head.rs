#![no_main]

skerry_fuzz::target!("request_head");
