//! GUIDs as the partition table stores them, and what the types of partitions are called.

use std::fmt;

/// A GUID in the mixed order of bytes that UEFI stores it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// Nothing: an entry that is not used.
    pub const NONE: Self = Self([0; 16]);
    /// Where Linux keeps anything.
    #[cfg(test)]
    pub(crate) const LINUX: Self = Self([
        0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d,
        0xe4,
    ]);
    /// The EFI system partition, which firmware starts from.
    pub const ESP: Self = Self([
        0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9,
        0x3b,
    ]);
    /// Where GRUB puts its core on a GPT disk for a BIOS.
    pub const BIOS_BOOT: Self = Self([
        0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6f, 0x6e, 0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46,
        0x49,
    ]);

    /// What partitions of this type are called.
    #[must_use]
    pub fn type_name(self) -> Option<&'static str> {
        Some(match self.to_string().as_str() {
            "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" => "EFI system",
            "21686148-6449-6E6F-744E-656564454649" => "BIOS boot",
            "0FC63DAF-8483-4772-8E79-3D69D8477DE4" => "Linux",
            "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F" => "Linux swap",
            "E6D6D379-F507-44C2-A23C-238F2A3DF928" => "Linux LVM",
            "A19D880F-05FC-4D3B-A006-743F0F84911E" => "Linux RAID",
            "BC13C2FF-59E6-4262-A352-B275FD6F7172" => "Linux extended boot",
            "933AC7E1-2EB4-4F13-B844-0E14E2AEF915" => "Linux home",
            "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" => "Linux root (x86-64)",
            "B921B045-1DF0-41C3-AF44-4C6F280D3FAE" => "Linux root (arm64)",
            "CA7D7CCB-63ED-4C53-861C-1742536059CC" => "Linux LUKS",
            "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7" => "Microsoft basic data",
            "E3C9E316-0B5C-4DB8-817D-F92DF00215AE" => "Microsoft reserved",
            "DE94BBA4-06D1-4D40-A16A-BFD50179D6AC" => "Windows recovery",
            _ => return None,
        })
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g, h, i, rest @ ..] = self.0;
        let first = u32::from_le_bytes([a, b, c, d]);
        let (second, third) = (u16::from_le_bytes([e, g]), u16::from_le_bytes([h, i]));
        write!(f, "{first:08X}-{second:04X}-{third:04X}-")?;
        for (n, byte) in rest.iter().enumerate() {
            write!(f, "{}{byte:02X}", if n == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_written_as_tools_write_them() {
        assert_eq!(Guid::ESP.to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
        assert_eq!(Guid::ESP.type_name(), Some("EFI system"));
        assert_eq!(Guid::BIOS_BOOT.type_name(), Some("BIOS boot"));
    }
}
