#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| p2pinst_boot::image::layout::fuzz_layout(bytes));
