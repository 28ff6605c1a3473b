#![no_main]

skerry_fuzz::target!("reply_head");
