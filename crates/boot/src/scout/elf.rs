//! What a program for Linux on x86-64 says of the libraries that it needs, and a kernel module of itself (ELF-64: gABI chapters 4
//! and 5, LSB 5.0 "Symbol Versioning"). Reads bytes that it does not trust, and executes nothing.

use std::collections::BTreeSet;

use thiserror::Error;

use super::field::Fields;

const MAGIC: &[u8; 4] = b"\x7fELF";
/// 64 bits, little-endian, version 1 of the format.
const IDENT: &[u8; 3] = &[2, 1, 1];
const X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const DT_VERDEF: u64 = 0x6fff_fffc;
const DT_VERNEED: u64 = 0x6fff_fffe;
/// More entries of one table than any program has: then it is damaged, or made to cost time.
const TABLE_MAX: u64 = 4096;
/// The version need not be there (`VER_FLG_WEAK`).
const WEAK: u16 = 2;

/// A file that begins as a program and does not go on as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ElfError {
    /// Made for another processor.
    #[error("is not a program for x86-64")]
    Machine,
    /// A table that lies outside of the file, or has no end.
    #[error("is a damaged program: {0} cannot be read")]
    Damaged(&'static str),
}

/// A version of a library's symbols that a program needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub(crate) library: String,
    pub(crate) version: String,
}

/// What a program or library says of those that it works with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// The path of its loader; none for libraries and for programs linked statically.
    pub(crate) interpreter: Option<String>,
    /// The libraries that it is linked with, by their sonames.
    pub(crate) libraries: Vec<String>,
    /// Where it looks for them first.
    pub(crate) search: Vec<String>,
    /// The versions that it needs of them.
    pub(crate) needs: Vec<Need>,
    /// The versions that it defines itself.
    pub(crate) defines: BTreeSet<String>,
}

/// Whether a file begins as programs do.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads what a program needs.
pub(crate) fn read(bytes: &[u8]) -> Result<Program, ElfError> {
    let elf = Elf::open(bytes)?;
    let mut program = Program::default();
    let mut dynamic = None;
    for header in &elf.headers {
        match header.kind {
            PT_INTERP => {
                let path = elf.file.text(header.offset).ok_or(ElfError::Damaged("the loader"))?;
                program.interpreter = Some(path.to_owned());
            }
            PT_DYNAMIC => dynamic = Some((header.offset, header.size)),
            _ => {}
        }
    }
    if let Some((offset, size)) = dynamic {
        elf.read_dynamic(offset, size, &mut program)?;
    }
    Ok(program)
}

/// A segment, as the program header has it.
struct Header {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

struct Elf<'a> {
    file: Fields<'a>,
    headers: Vec<Header>,
}

impl<'a> Elf<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, ElfError> {
        let file = Fields(bytes);
        if file.slice(4, 3) != Some(IDENT) || file.u16(18) != Some(X86_64) {
            return Err(ElfError::Machine);
        }
        let headers = program_headers(file).ok_or(ElfError::Damaged("the list of segments"))?;
        Ok(Self { file, headers })
    }

    /// Where in the file an address of the running program is.
    fn offset(&self, address: u64) -> Option<u64> {
        self.headers.iter().filter(|h| h.kind == PT_LOAD).find_map(|h| {
            let within = address.checked_sub(h.address).filter(|within| *within < h.size)?;
            h.offset.checked_add(within)
        })
    }

    fn read_dynamic(&self, at: u64, size: u64, into: &mut Program) -> Result<(), ElfError> {
        let damaged = ElfError::Damaged("the list of libraries");
        let mut entries = Vec::new();
        for n in 0..(size / 16).min(TABLE_MAX) {
            let entry = at.checked_add(n * 16).ok_or(damaged)?;
            let (tag, value) = self.file.u64(entry).zip(self.file.u64(entry + 8)).ok_or(damaged)?;
            if tag == 0 {
                break;
            }
            entries.push((tag, value));
        }
        let address = |tag| entries.iter().find(|(t, _)| *t == tag).map(|(_, value)| *value);
        let Some(strings) = address(DT_STRTAB) else {
            return Ok(());
        };
        let strings = self.offset(strings).ok_or(damaged)?;
        let text = |at: u64| self.file.text(strings.checked_add(at)?);
        for (tag, value) in &entries {
            match *tag {
                DT_NEEDED => into.libraries.push(text(*value).ok_or(damaged)?.to_owned()),
                DT_RPATH | DT_RUNPATH => {
                    let dirs = text(*value).ok_or(damaged)?.split(':');
                    into.search.extend(dirs.map(str::to_owned));
                }
                _ => {}
            }
        }
        let versions = ElfError::Damaged("the list of versions");
        if let Some(at) = address(DT_VERNEED) {
            into.needs = self.needs(at, &text).ok_or(versions)?;
        }
        if let Some(at) = address(DT_VERDEF) {
            into.defines = self.defines(at, &text).ok_or(versions)?;
        }
        Ok(())
    }

    /// The chain of `Elfxx_Verneed`, each with a chain of `Elfxx_Vernaux`.
    fn needs(&self, address: u64, text: &dyn Fn(u64) -> Option<&'a str>) -> Option<Vec<Need>> {
        let mut needs = Vec::new();
        let mut at = self.offset(address)?;
        let mut steps = 0;
        loop {
            let library = text(u64::from(self.file.u32(at.checked_add(4)?)?))?;
            let mut aux = at.checked_add(u64::from(self.file.u32(at.checked_add(8)?)?))?;
            loop {
                steps += 1;
                if steps > TABLE_MAX {
                    return None;
                }
                let flags = self.file.u16(aux.checked_add(4)?)?;
                let version = text(u64::from(self.file.u32(aux.checked_add(8)?)?))?;
                if flags & WEAK == 0 {
                    needs.push(Need { library: library.to_owned(), version: version.to_owned() });
                }
                match self.file.u32(aux.checked_add(12)?)? {
                    0 => break,
                    next => aux = aux.checked_add(u64::from(next))?,
                }
            }
            match self.file.u32(at.checked_add(12)?)? {
                0 => return Some(needs),
                next => at = at.checked_add(u64::from(next))?,
            }
        }
    }

    /// The chain of `Elfxx_Verdef`; the first `Elfxx_Verdaux` of each is its name.
    fn defines(
        &self,
        address: u64,
        text: &dyn Fn(u64) -> Option<&'a str>,
    ) -> Option<BTreeSet<String>> {
        let mut defines = BTreeSet::new();
        let mut at = self.offset(address)?;
        for _ in 0..TABLE_MAX {
            let aux = at.checked_add(u64::from(self.file.u32(at.checked_add(12)?)?))?;
            defines.insert(text(u64::from(self.file.u32(aux)?))?.to_owned());
            match self.file.u32(at.checked_add(16)?)? {
                0 => return Some(defines),
                next => at = at.checked_add(u64::from(next))?,
            }
        }
        None
    }
}

fn program_headers(file: Fields<'_>) -> Option<Vec<Header>> {
    let start = file.u64(32)?;
    let size = u64::from(file.u16(54)?);
    let headers = (0..u64::from(file.u16(56)?)).map(|n| {
        let at = start.checked_add(n * size)?;
        Some(Header {
            kind: file.u32(at)?,
            offset: file.u64(at.checked_add(8)?)?,
            address: file.u64(at.checked_add(16)?)?,
            size: file.u64(at.checked_add(32)?)?,
        })
    });
    headers.collect()
}

/// The section `.modinfo` of a kernel module: texts `key=value`.
pub(crate) fn module_info(bytes: &[u8]) -> Result<Vec<(&str, &str)>, ElfError> {
    let file = Elf::open(bytes)?.file;
    let section = section(file, ".modinfo").ok_or(ElfError::Damaged("the section .modinfo"))?;
    let texts = section.split(|b| *b == 0).filter_map(|text| std::str::from_utf8(text).ok());
    Ok(texts.filter_map(|text| text.split_once('=')).collect())
}

fn section<'a>(file: Fields<'a>, name: &str) -> Option<&'a [u8]> {
    let table = file.u64(40)?;
    let size = u64::from(file.u16(58)?);
    let header = |n: u64| table.checked_add(n.checked_mul(size)?);
    let names = file.u64(header(u64::from(file.u16(62)?))?.checked_add(24)?)?;
    (0..u64::from(file.u16(60)?)).find_map(|n| {
        let at = header(n)?;
        let name_at = names.checked_add(u64::from(file.u32(at)?))?;
        let found = file.text(name_at)? == name;
        found.then(|| file.slice(file.u64(at.checked_add(24)?)?, file.u64(at.checked_add(32)?)?))?
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn own() -> Vec<u8> {
        std::fs::read("/bin/sh").unwrap()
    }

    #[test]
    fn a_program_says_what_it_needs() {
        let program = read(&own()).unwrap();
        assert!(program.interpreter.unwrap().starts_with("/lib"));
        assert!(program.libraries.iter().any(|l| l == "libc.so.6"), "{:?}", program.libraries);
        let libc = program.needs.iter().filter(|n| n.library == "libc.so.6");
        assert!(libc.clone().all(|n| n.version.starts_with("GLIBC_")) && libc.count() > 0);
    }

    #[test]
    fn a_library_says_what_it_defines() {
        let libc = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"];
        let libc = libc.iter().find_map(|path| std::fs::read(path).ok()).unwrap();
        let defines = read(&libc).unwrap().defines;
        assert!(defines.contains("GLIBC_2.2.5") && defines.contains("GLIBC_2.34"), "{defines:?}");
    }

    #[test]
    fn others_are_refused() {
        assert!(!is_elf(b"#!/bin/sh\n"));
        assert_eq!(read(b"\x7fELF"), Err(ElfError::Machine));
        let mut other = own();
        other[18] = 183;
        assert_eq!(read(&other), Err(ElfError::Machine));
        assert!(matches!(read(&own()[..200]), Err(ElfError::Damaged(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn damage_never_panics(
            places in prop::collection::vec((0_usize..4096, any::<u8>()), 1..8),
            cut in 64_usize..130_000,
        ) {
            let mut bytes = own();
            for (at, byte) in places {
                bytes[at] = byte;
            }
            bytes.truncate(cut);
            let _any = read(&bytes);
            let _any = module_info(&bytes);
        }
    }
}
