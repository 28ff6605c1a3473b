#![no_main]

skerry_fuzz::target!("answer_head");
