//! The unified kernel image: a kernel, its initrd and its command line as sections of the EFI program that starts them
//! (UAPI Group "Unified Kernel Image"; PE format 2023, sections 3 and 4). Pure: bytes in, bytes out.

use thiserror::Error;

use super::field::Fields;

/// Offset of the address of the PE header, in the DOS header.
const LFANEW: u64 = 0x3c;
const SIGNATURE: &[u8; 4] = b"PE\0\0";
const X86_64: u16 = 0x8664;
const PE32_PLUS: u16 = 0x20b;
/// Length of the file header that follows the signature.
const FILE_HEADER: u64 = 20;
const SECTION_HEADER: u64 = 40;
/// `IMAGE_SCN_CNT_INITIALIZED_DATA | IMAGE_SCN_MEM_READ`.
const DATA: u32 = 0x4000_0040;
/// Firmware that protects memory does so by pages.
const PAGE: u32 = 4096;
/// More than firmware reads well: with the image in memory twice, and the kernel unpacking it.
const IMAGE_MAX: usize = 1 << 30;

/// Why no image can be made of a stub.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UkiError {
    /// Not the program that was expected.
    #[error("the EFI stub is not a program for UEFI on x86-64: {0}")]
    Stub(&'static str),
    /// The header has no place for another section.
    #[error("the EFI stub has no room for the header of the section {0}")]
    Room(String),
    /// A name that sections cannot have, or one that the stub has already.
    #[error("the section {0} cannot be added to the EFI stub")]
    Name(String),
    /// Longer than firmware can be expected to start.
    #[error("the image for UEFI would have more than {max} MiB", max = IMAGE_MAX >> 20)]
    Large,
}

/// Where the fields are that a new section changes.
struct Layout {
    /// The file header.
    file: u64,
    /// The optional header.
    optional: u64,
    /// The first section header.
    table: u64,
    sections: u16,
    file_align: u32,
    section_align: u32,
    /// Where the first section's bytes begin.
    room_end: u64,
}

/// Adds sections behind those of the stub, in this order.
pub(crate) fn assemble(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>, UkiError> {
    let layout = layout(stub)?;
    let mut image = stub.to_vec();
    let (mut address, mut count) = (memory_end(stub, &layout)?, layout.sections);
    let total: usize = sections.iter().map(|(_, content)| content.len()).sum();
    if total > IMAGE_MAX {
        return Err(UkiError::Large);
    }
    for (name, content) in sections {
        if name.len() > 8 || !name.starts_with('.') || has(stub, &layout, name) {
            return Err(UkiError::Name((*name).to_owned()));
        }
        let header = layout.table + u64::from(count) * SECTION_HEADER;
        if header + SECTION_HEADER > layout.room_end {
            return Err(UkiError::Room((*name).to_owned()));
        }
        address = address.next_multiple_of(layout.section_align.max(PAGE));
        let size = u32::try_from(content.len()).map_err(|_| UkiError::Large)?;
        let raw = size.next_multiple_of(layout.file_align);
        image.resize(image.len().next_multiple_of(layout.file_align as usize), 0);
        let offset = u32::try_from(image.len()).map_err(|_| UkiError::Large)?;
        let mut field = [0; SECTION_HEADER as usize];
        for (to, from) in field.iter_mut().zip(name.as_bytes()) {
            *to = *from;
        }
        for (at, value) in [(8, size), (12, address), (16, raw), (20, offset), (36, DATA)] {
            put(&mut field, at, &value.to_le_bytes());
        }
        put(&mut image, header, &field);
        image.extend_from_slice(content);
        image.resize(image.len() + (raw - size) as usize, 0);
        address = address.checked_add(size).ok_or(UkiError::Large)?;
        count += 1;
    }
    put(&mut image, layout.file + 2, &count.to_le_bytes());
    put(
        &mut image,
        layout.optional + 56,
        &address.next_multiple_of(layout.section_align).to_le_bytes(),
    );
    // no checksum: firmware does not look at it, and it would be of the stub alone
    put(&mut image, layout.optional + 64, &[0; 4]);
    Ok(image)
}

/// Writes into a place that was read before, and so is there.
fn put(image: &mut [u8], at: u64, value: &[u8]) {
    let start = usize::try_from(at).unwrap_or(usize::MAX);
    if let Some(place) = image.get_mut(start..start.saturating_add(value.len())) {
        place.copy_from_slice(value);
    }
}

fn layout(stub: &[u8]) -> Result<Layout, UkiError> {
    let file = Fields(stub);
    let short = UkiError::Stub("its header is cut short");
    if file.slice(0, 2) != Some(b"MZ") {
        return Err(UkiError::Stub("it does not begin as one"));
    }
    let signature = u64::from(file.u32(LFANEW).ok_or(short.clone())?);
    if file.slice(signature, 4) != Some(SIGNATURE) {
        return Err(UkiError::Stub("it has no PE header"));
    }
    let header = signature + 4;
    let optional = header + FILE_HEADER;
    if file.u16(header) != Some(X86_64) || file.u16(optional) != Some(PE32_PLUS) {
        return Err(UkiError::Stub("it is for another processor"));
    }
    let read = || -> Option<Layout> {
        let sections = file.u16(header + 2)?;
        let table = optional + u64::from(file.u16(header + 16)?);
        let mut room_end = u64::from(file.u32(optional + 60)?);
        for n in 0..u64::from(sections) {
            let start = file.u32(table + n * SECTION_HEADER + 20)?;
            if start > 0 {
                room_end = room_end.min(u64::from(start));
            }
        }
        let (section_align, file_align) = (file.u32(optional + 32)?, file.u32(optional + 36)?);
        Some(Layout {
            file: header,
            optional,
            table,
            sections,
            file_align,
            section_align,
            room_end,
        })
    };
    let layout = read().ok_or(short)?;
    let aligned = |n: u32| n.is_power_of_two() && n <= 1 << 16;
    if !aligned(layout.file_align) || !aligned(layout.section_align) {
        return Err(UkiError::Stub("its alignment is none"));
    }
    // the certificate table lies behind the sections, where the new ones go
    if file.u32(layout.optional + 144).is_some_and(|certificates| certificates != 0) {
        return Err(UkiError::Stub("it is signed already"));
    }
    if layout.room_end > stub.len() as u64 {
        return Err(UkiError::Stub("it is cut short"));
    }
    Ok(layout)
}

/// The first address behind all sections of the stub.
fn memory_end(stub: &[u8], layout: &Layout) -> Result<u32, UkiError> {
    let file = Fields(stub);
    let mut end = 0;
    for n in 0..u64::from(layout.sections) {
        let at = layout.table + n * SECTION_HEADER;
        let section = file.u32(at + 8).zip(file.u32(at + 12));
        let this = section.and_then(|(size, address)| address.checked_add(size));
        end = end.max(this.ok_or(UkiError::Stub("a section lies nowhere"))?);
    }
    if end > 1 << 30 {
        return Err(UkiError::Stub("a section lies nowhere"));
    }
    Ok(end)
}

fn has(stub: &[u8], layout: &Layout, name: &str) -> bool {
    (0..u64::from(layout.sections)).any(|n| {
        let field = Fields(stub).slice(layout.table + n * SECTION_HEADER, 8).unwrap_or_default();
        field.split(|b| *b == 0).next() == Some(name.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The smallest stub: a header with room for two more, one section.
    fn stub() -> Vec<u8> {
        let mut stub = vec![0; 0x600];
        put(&mut stub, 0, b"MZ");
        put(&mut stub, LFANEW, &[0x40]);
        put(&mut stub, 0x40, SIGNATURE);
        put(&mut stub, 0x44, &X86_64.to_le_bytes());
        put(&mut stub, 0x46, &1_u16.to_le_bytes());
        put(&mut stub, 0x54, &240_u16.to_le_bytes());
        let optional = 0x58;
        put(&mut stub, optional, &PE32_PLUS.to_le_bytes());
        for (at, value) in [(32, 0x200_u32), (36, 0x200), (56, 0x2000), (60, 0x200), (64, 77)] {
            put(&mut stub, optional + at, &value.to_le_bytes());
        }
        let table = optional + 240;
        put(&mut stub, table, b".text");
        for (at, value) in [(8, 0x3f0_u32), (12, 0x1000), (16, 0x400), (20, 0x200)] {
            put(&mut stub, table + at, &value.to_le_bytes());
        }
        stub
    }

    #[test]
    fn sections_go_behind_the_stubs() {
        let image = assemble(&stub(), &[(".cmdline", b"quiet"), (".linux", &[9; 5000])]).unwrap();
        let file = Fields(&image);
        assert_eq!(file.u16(0x46), Some(3));
        let (one, two) = (0x58 + 240 + 40, 0x58 + 240 + 80);
        assert_eq!(file.slice(one, 8), Some(&b".cmdline"[..]));
        assert_eq!((file.u32(one + 8), file.u32(one + 12)), (Some(5), Some(0x2000)));
        assert_eq!((file.u32(two + 8), file.u32(two + 12)), (Some(5000), Some(0x3000)));
        assert_eq!((file.u32(two + 16), file.u32(two + 20)), (Some(5120), Some(0x800)));
        assert_eq!(file.slice(0x600, 6), Some(&b"quiet\0"[..]));
        assert_eq!(file.slice(0x800, 5000), Some(&[9; 5000][..]));
        assert_eq!(file.u32(0x58 + 56), Some(0x4400), "the size of the image in memory");
        assert_eq!((file.u32(0x58 + 64), image.len()), (Some(0), 0x800 + 5120));
    }

    #[test]
    fn no_room_no_image() {
        let four = [(".a", &b"x"[..]), (".b", b"x"), (".c", b"x"), (".d", b"x")];
        assert_eq!(assemble(&stub(), &four), Err(UkiError::Room(".d".into())));
        assert!(assemble(&stub(), &[(".text", b"x")]).is_err(), "is there already");
        assert!(assemble(&stub(), &[(".longname", b"x")]).is_err());
        let mut signed = stub();
        put(&mut signed, 0x58 + 144, &[1]);
        assert!(matches!(assemble(&signed, &four), Err(UkiError::Stub(_))));
        assert!(matches!(assemble(b"MZ", &four), Err(UkiError::Stub(_))));
    }

    proptest! {
        #[test]
        fn no_stub_panics(places in prop::collection::vec((0_usize..0x200, any::<u8>()), 0..9), cut in 0_usize..0x600) {
            let mut bytes = stub();
            for (at, byte) in places {
                bytes[at] = byte;
            }
            bytes.truncate(cut);
            let _any = assemble(&bytes, &[(".linux", b"x")]);
        }
    }
}
