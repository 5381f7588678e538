//! See `p2pinst_boot::dhcp::fuzz_responder`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| p2pinst_boot::dhcp::fuzz_responder(bytes));
