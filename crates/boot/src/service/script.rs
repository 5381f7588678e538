//! Scripts of iPXE, rendered from what is served. Pure.
//!
//! Every address is written out: in a script `${next-server}` is the site's DHCP server. Every peer renders the same but for the
//! order of addresses, so whichever answered first, the next can go on. What is known of iPXE's ends, measured: on UEFI `exit` counts as
//! success and leaves the machine in its setup, `exit 1` goes on to the next boot option; on BIOS the first disk is started at once.

use std::fmt::Write;
use std::net::SocketAddrV4;

use p2pinst_types::Mac;

use super::tables::{Program, Tables};
use crate::dhcp::client::Family;
use crate::dhcp::table::{FILES, Mode, SCRIPTS, Wants};

/// Peers in a script, besides the one that renders it: each that is dead costs the machine a quarter of a minute.
pub const SIBLINGS: usize = 2;
/// How often a machine that is to be installed tries all peers anew, and how long it waits in between.
const AGAIN: (u32, u32) = (60, 10);
/// The file that newer iPXE asks for by TFTP, whatever it was told.
pub const AUTOEXEC: &str = "autoexec.ipxe";

/// Goes on to the machine's disk, or to what its firmware would start next.
const DISK: &str = "\
:disk
iseq ${platform} pcbios && goto bios_disk ||
exit 1
:bios_disk
sanboot --no-describe --drive 0x80 || exit
";

/// Where a peer's HTTP server is, in a script.
fn url(peer: SocketAddrV4, path: &str) -> String {
    match peer.port() {
        80 => format!("http://{}{path}", peer.ip()),
        _ => format!("http://{peer}{path}"),
    }
}

/// The machine that a script's path names: `/boot/script/52-54-00-12-34-56`.
#[must_use]
pub fn machine_of(path: &str) -> Option<Mac> {
    path.strip_prefix(SCRIPTS).filter(|mac| mac.len() == 17)?.parse().ok()
}

/// The script of a machine: `own` is where it called, `siblings` are others that serve the same.
#[must_use]
pub fn script(tables: &Tables, mac: Mac, own: SocketAddrV4, siblings: &[SocketAddrV4]) -> String {
    let mut script = format!("#!ipxe\n# p2pinst: {mac}\n");
    let armed = tables.table.machine(mac).is_some_and(|m| m.wants == Wants::Scout);
    if armed {
        let others = siblings.iter().filter(|s| *s.ip() != *own.ip()).take(SIBLINGS);
        let peers: Vec<SocketAddrV4> = [own].into_iter().chain(others.copied()).collect();
        let known = tables.programs.iter();
        let programs: Vec<_> = known.filter_map(|(f, p)| Some((test(*f)?, p))).collect();
        for (label, (test, _)) in programs.iter().enumerate() {
            line(&mut script, format_args!("iseq {test} && goto program{label} ||"));
        }
        line(&mut script, format_args!("goto disk"));
        for (label, (_, program)) in programs.iter().enumerate() {
            line(&mut script, format_args!(":program{label}"));
            start(&mut script, program, &peers);
        }
        again(&mut script, mac, &peers);
    }
    script + DISK
}

fn line(script: &mut String, line: std::fmt::Arguments<'_>) {
    // writing to a text does not fail
    let _written = writeln!(script, "{line}");
}

/// Where a machine goes on that is to be installed and could not load what it needs: a peer has gone, and another will know of it.
/// After many times it starts from its disk.
fn again(script: &mut String, mac: Mac, peers: &[SocketAddrV4]) {
    let (most, secs) = AGAIN;
    let path = format!("{SCRIPTS}{}", mac.to_string().replace(':', "-"));
    let tries: Vec<String> =
        peers.iter().map(|p| format!("chain --replace {}", url(*p, &path))).collect();
    line(script, format_args!(":again"));
    line(script, format_args!("isset ${{tries}} || set tries:int32 0"));
    line(script, format_args!("inc tries && iseq ${{tries}} {most} && goto disk ||"));
    line(script, format_args!("imgfree ||"));
    line(script, format_args!("sleep {secs} ||"));
    line(script, format_args!("{} || goto again", tries.join(" || ")));
}

/// How iPXE tells what it runs on.
fn test(family: Family) -> Option<&'static str> {
    Some(match family {
        // there it is built for 32 bits or 64
        Family::Bios => "${platform} pcbios",
        Family::EfiIa32 => "${platform}/${buildarch} efi/i386",
        Family::EfiX64 => "${platform}/${buildarch} efi/x86_64",
        Family::EfiArm32 => "${platform}/${buildarch} efi/arm32",
        Family::EfiArm64 => "${platform}/${buildarch} efi/arm64",
        Family::Ppc64 | Family::RaspberryPi => return None,
    })
}

/// The commands that start a program, each tried with one peer after the other.
fn start(script: &mut String, program: &Program, peers: &[SocketAddrV4]) {
    let mut each = |command: &dyn Fn(SocketAddrV4) -> String| {
        let tries: Vec<String> = peers.iter().map(|peer| command(*peer)).collect();
        line(script, format_args!("{} || goto again", tries.join(" || ")));
    };
    match program {
        Program::Uki { file } => {
            let path = format!("{FILES}{}", file.as_str());
            each(&|peer| format!("chain {}", url(peer, &path)));
        }
        Program::Linux { kernel, initrd, arguments } => {
            let (kernel, initrd) = (kernel.as_str(), initrd.as_str());
            each(&|peer| {
                let arguments = arguments.as_str().replace("{peer}", &peer.to_string());
                let kernel = url(peer, &format!("{FILES}{kernel}"));
                // without its name UEFI kernels do not find it
                format!("kernel {kernel} initrd={initrd} {arguments}").trim_end().to_owned()
            });
            each(&|peer| {
                format!("initrd --name {initrd} {}", url(peer, &format!("{FILES}{initrd}")))
            });
            line(script, format_args!("boot || goto again"));
        }
    }
}

/// The script for whoever asks by TFTP, where nothing is known of the machine but that it runs iPXE; none where nobody is
/// answered.
#[must_use]
pub fn autoexec(tables: &Tables, own: SocketAddrV4) -> Option<String> {
    let path = url(own, SCRIPTS);
    let script = format!("#!ipxe\nchain {path}${{netX/mac:hexhyp}} || goto disk\n{DISK}");
    (tables.table.mode != Mode::Off).then_some(script)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::table::{Armed, Style, Table};
    use p2pinst_types::{Hash, NodeId, PublicKey};
    use std::collections::{BTreeMap, BTreeSet};

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    fn tables(mode: Mode, wants: Wants) -> Tables {
        let mut table = Table::off(NodeId(PublicKey([7; 32])));
        table.mode = mode;
        let armed = Armed { assignment: Hash([1; 32]), style: Style::Direct, wants };
        table.machines.insert(MAC, armed);
        let linux = Program::Linux {
            kernel: "vmlinuz".parse().unwrap(),
            initrd: "scout.cpio".parse().unwrap(),
            arguments: "quiet p2pinst.peer={peer}".parse().unwrap(),
        };
        let uki = Program::Uki { file: "scout.efi".parse().unwrap() };
        let programs = BTreeMap::from([(Family::Bios, linux), (Family::EfiX64, uki)]);
        Tables { table, files: BTreeSet::new(), programs, mirrors: BTreeMap::new() }
    }

    fn peer(last: u8) -> SocketAddrV4 {
        SocketAddrV4::new([192, 0, 2, last].into(), if last == 3 { 80 } else { 4080 })
    }

    #[test]
    fn an_armed_machine_starts_the_scout_from_this_peer_or_two_others() {
        let siblings = [peer(1), peer(2), peer(3), peer(4)];
        let script = script(&tables(Mode::Armed, Wants::Scout), MAC, peer(1), &siblings);
        assert_eq!(
            script,
            "\
#!ipxe
# p2pinst: 52:54:00:12:34:56
iseq ${platform} pcbios && goto program0 ||
iseq ${platform}/${buildarch} efi/x86_64 && goto program1 ||
goto disk
:program0
kernel http://192.0.2.1:4080/boot/vmlinuz initrd=scout.cpio quiet p2pinst.peer=192.0.2.1:4080 || kernel http://192.0.2.2:4080/boot/vmlinuz initrd=scout.cpio quiet p2pinst.peer=192.0.2.2:4080 || kernel http://192.0.2.3/boot/vmlinuz initrd=scout.cpio quiet p2pinst.peer=192.0.2.3:80 || goto again
initrd --name scout.cpio http://192.0.2.1:4080/boot/scout.cpio || initrd --name scout.cpio http://192.0.2.2:4080/boot/scout.cpio || initrd --name scout.cpio http://192.0.2.3/boot/scout.cpio || goto again
boot || goto again
:program1
chain http://192.0.2.1:4080/boot/scout.efi || chain http://192.0.2.2:4080/boot/scout.efi || chain http://192.0.2.3/boot/scout.efi || goto again
:again
isset ${tries} || set tries:int32 0
inc tries && iseq ${tries} 60 && goto disk ||
imgfree ||
sleep 10 ||
chain --replace http://192.0.2.1:4080/boot/script/52-54-00-12-34-56 || chain --replace http://192.0.2.2:4080/boot/script/52-54-00-12-34-56 || chain --replace http://192.0.2.3/boot/script/52-54-00-12-34-56 || goto again
:disk
iseq ${platform} pcbios && goto bios_disk ||
exit 1
:bios_disk
sanboot --no-describe --drive 0x80 || exit
"
        );
    }

    #[test]
    fn who_is_not_armed_goes_on_to_the_disk() {
        let disk = |tables: &Tables, mac| {
            let script = script(tables, mac, peer(1), &[peer(2)]);
            assert!(script.starts_with("#!ipxe\n") && script.ends_with(DISK), "{script}");
            !script.contains("http:")
        };
        let stranger = Mac([2; 6]);
        assert!(disk(&tables(Mode::Armed, Wants::Disk), MAC));
        assert!(disk(&tables(Mode::Armed, Wants::Scout), stranger));
        assert!(disk(&tables(Mode::Off, Wants::Scout), MAC));
        assert!(!disk(&tables(Mode::Discover, Wants::Disk), stranger));
    }

    #[test]
    fn paths_name_machines() {
        assert_eq!(machine_of("/boot/script/52-54-00-12-34-56"), Some(MAC));
        for bad in [
            "/boot/script/",
            "/boot/script/525400123456",
            "/boot/52-54-00-12-34-56",
            "/boot/script/../../../../x",
        ] {
            assert_eq!(machine_of(bad), None, "{bad}");
        }
        assert!(autoexec(&tables(Mode::Off, Wants::Scout), peer(1)).is_none());
        let autoexec = autoexec(&tables(Mode::Armed, Wants::Scout), peer(1)).unwrap();
        assert!(
            autoexec.contains("\nchain http://192.0.2.1:4080/boot/script/${netX/mac:hexhyp} ||")
        );
    }
}
