//! Datagrams to the TFTP server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| p2pinst_boot::tftp::fuzz_tftp(bytes));
