//! Machines with nothing on them, beside servers and controllers that are not ours: what end-to-end scenarios stand on.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use p2pinst_testnet::Lab;
use p2pinst_testnet::os::{self, why_no_image};
use p2pinst_testnet::vm::{
    Bmc, Boot, Bus, Fault, Firmware, ForeignDhcp, Offer, Range, Segment, Spec, Vm, WebServer,
    why_no_machines,
};

use crate::harness::{SOON, scenario, skipped};

/// Firmware, emulated on a busy machine, has done anything within this time.
const BOOT: Duration = Duration::from_secs(150);
/// An image of a small Debian, in MiB.
const IMAGE: u64 = 640;
const DHCP: Ipv4Addr = Ipv4Addr::new(10, 77, 250, 1);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 77, 250, 2);
const CONTROLLER: Ipv4Addr = Ipv4Addr::new(10, 77, 251, 1);
const RANGE: Range =
    Range { first: Ipv4Addr::new(10, 77, 200, 1), last: Ipv4Addr::new(10, 77, 200, 99) };

/// Plays a scenario with machines on a lab of that many hosts.
fn with_machines(hosts: usize, play: impl FnOnce(&Lab, &Segment) -> Result<()>) {
    if let Some(why) = why_no_machines() {
        return skipped(&why);
    }
    scenario(hosts, |lab| play(lab, &Segment::of(lab)?));
}

fn blank(name: &str, firmware: Firmware, last: u8) -> Result<Spec> {
    let mac = format!("52:54:00:77:00:{last:02x}").parse()?;
    Ok(Spec::new(name, firmware, mac).disk(64 << 20, "BLANK1", Bus::Virtio))
}

#[test]
fn a_blank_machine_gets_an_address_and_obeys_its_controller() {
    with_machines(1, |lab, segment| {
        let dhcp = ForeignDhcp::start(segment, "dhcp", DHCP, RANGE, &Offer::Nothing)?;
        let vm = Vm::new(segment, blank("m1", Firmware::Bios, 1)?)?;
        let bmc = Bmc::start(segment, &vm, CONTROLLER)?;
        let n1 = lab.node(1)?.host();
        let power = |word| Ok::<_, anyhow::Error>(bmc.ask(n1, ["power", word]).run()?.ok()?.stdout);

        ensure!(power("status")?.contains("is off") && !vm.is_on());
        power("on")?;
        ensure!(vm.is_on() && power("status")?.contains("is on"), "it is not on: {}", bmc.log());
        let ip = dhcp.wait_for_lease(vm.mac(), BOOT)?;
        ensure!((RANGE.first..=RANGE.last).contains(&ip), "{ip} is not of the server's range");
        vm.wait_for("iPXE", SOON)?;
        vm.wait_for(&ip.to_string(), BOOT)?;

        let first = vm.pid().context("no process")?;
        power("reset")?;
        ensure!(vm.pid().is_some_and(|pid| pid != first), "it was not reset");
        power("off")?;
        ensure!(!vm.is_on() && power("status")?.contains("is off"));
        // switched by another than its controller, which sees it
        vm.power_on()?;
        ensure!(power("status")?.contains("is on"));
        power("cycle")?;
        vm.wait_on()?;
        vm.power_off()?;
        ensure!(power("status")?.contains("is off"));
        ensure!(vm.asked()?.iter().any(|asked| asked == "set power 1"), "{:?}", vm.asked()?);
        Ok(())
    });
}

#[test]
fn a_controller_refuses_strangers_and_misbehaves_when_told_to() {
    with_machines(2, |lab, segment| {
        let vm = Vm::new(segment, blank("m1", Firmware::Bios, 1)?.boot(Boot::Disk))?;
        let bmc = Bmc::start(segment, &vm, CONTROLLER)?;
        let n2 = lab.node(2)?.host();
        let wrong = lab.dir().join("wrong");
        fs::write(&wrong, "wrong").context("cannot write")?;
        let at = ["-I", "lanplus", "-C", "3", "-U", "admin", "-N", "1", "-R", "1", "-H"];
        let stranger = n2.exec("ipmitool").args(at).arg(bmc.ip().to_string());
        let done = stranger.arg("-f").arg(&wrong).args(["power", "on"]).run()?;
        ensure!(done.code != Some(0) && !vm.is_on(), "a stranger has power: {done}");

        let ask = |words: &[&'static str]| bmc.ask(n2, words.iter().copied()).run();
        vm.set_fault(Some(Fault::Idle))?;
        ask(&["power", "on"])?.ok()?;
        ensure!(!vm.is_on(), "it was to do nothing");
        vm.set_fault(Some(Fault::Lies))?;
        ensure!(ask(&["power", "status"])?.ok()?.stdout.contains("is on"), "it was to lie");
        vm.set_fault(Some(Fault::Refuses))?;
        let done = ask(&["power", "on"])?;
        ensure!(done.code != Some(0) && !vm.is_on(), "it was to refuse: {done}");

        vm.set_fault(None)?;
        ask(&["chassis", "bootdev", "pxe"])?.ok()?;
        ask(&["power", "on"])?.ok()?;
        // its own order is its disk first
        vm.wait_for("iPXE", BOOT)?;
        let words = fs::read(format!("/proc/{}/cmdline", vm.pid().context("it is off")?))
            .context("no process")?;
        let words = String::from_utf8_lossy(&words).into_owned();
        ensure!(words.contains("netdev=net,mac=52:54:00:77:00:01,bootindex=1"), "{words}");

        bmc.freeze(true)?;
        let silent = bmc.ask(n2, ["-N", "1", "-R", "1", "power", "off"]).run()?;
        ensure!(silent.code != Some(0) && vm.is_on(), "it was to hang: {silent}");
        bmc.freeze(false)?;
        ask(&["power", "off"])?.ok()?;
        vm.wait_off(SOON)
    });
}

/// A directory of a web server with iPXE and a script, and the words that the script says.
fn files(lab: &Lab) -> Result<(PathBuf, &'static str)> {
    let dir = lab.dir().join("www");
    fs::create_dir_all(&dir).context("cannot make a directory")?;
    let script = "#!ipxe\necho the-script-has ${net0/mac}\nsleep 600\n";
    fs::write(dir.join("boot.ipxe"), script).context("cannot write")?;
    fs::copy("/usr/lib/ipxe/ipxe.efi", dir.join("ipxe.efi")).context("cannot copy iPXE")?;
    Ok((dir, "the-script-has 52:54:00:77:00:"))
}

/// A machine boots by URLs: the files that it must have asked for.
fn boots_by_http(firmware: Firmware, asked: &[&str]) {
    with_machines(1, |lab, segment| {
        let (dir, said) = files(lab)?;
        let web = WebServer::start(segment, "web", WEB, &dir)?;
        let offer = Offer::Http { script: web.url("boot.ipxe"), program: web.url("ipxe.efi") };
        let dhcp = ForeignDhcp::start(segment, "dhcp", DHCP, RANGE, &offer)?;
        let vm = Vm::new(segment, blank("m2", firmware, 2)?)?;
        vm.power_on()?;
        let booted = vm.wait_for(said, BOOT);
        booted.with_context(|| format!("{}\n{}", dhcp.log(), web.log()))?;
        let log = web.log();
        for file in asked {
            ensure!(log.contains(file), "nobody asked for {file}: {log}");
        }
        ensure!(dhcp.leases().iter().any(|l| l.mac == vm.mac()), "no lease: {}", dhcp.log());
        Ok(())
    });
}

#[test]
fn a_bios_machine_boots_by_ipxe_and_http() {
    boots_by_http(Firmware::Bios, &["/boot.ipxe"]);
}

#[test]
fn a_uefi_machine_boots_by_http() {
    boots_by_http(Firmware::Uefi { http: true }, &["/ipxe.efi", "/boot.ipxe"]);
}

#[test]
fn a_uefi_machine_boots_by_pxe_from_a_competing_server() {
    with_machines(1, |lab, segment| {
        let (dir, _) = files(lab)?;
        let offer = Offer::Tftp { root: dir, file: "ipxe.efi".to_owned() };
        let dhcp = ForeignDhcp::start(segment, "dhcp", DHCP, RANGE, &offer)?;
        let vm = Vm::new(segment, blank("m3", Firmware::Uefi { http: false }, 3)?)?;
        vm.power_on()?;
        let booted = vm.wait_for("iPXE initialising devices", BOOT);
        booted.with_context(|| dhcp.log())?;
        ensure!(dhcp.log().contains("ipxe.efi"), "nothing was sent: {}", dhcp.log());
        Ok(())
    });
}

#[test]
fn a_machine_on_a_bridge_of_its_own_hears_nobody() {
    with_machines(1, |lab, segment| {
        let dhcp = ForeignDhcp::start(segment, "dhcp", DHCP, RANGE, &Offer::Nothing)?;
        let apart = Segment::apart(lab)?;
        let vm = Vm::new(&apart, blank("m4", Firmware::Bios, 4)?)?;
        vm.power_on()?;
        vm.wait_for("Configuring (net0", BOOT)?;
        // QEMU's process is of this machine, and its disk takes no room
        ensure!(sparse(&vm.disk(0))?, "an empty disk takes room");
        let pid = vm.pid().context("it is off")?;
        drop(vm);
        ensure!(!Path::new("/proc").join(pid.to_string()).join("fd/0").exists(), "QEMU still runs");
        ensure!(dhcp.leases().is_empty(), "the server gave {:?}", dhcp.leases());
        Ok(())
    });
}

fn sparse(file: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(file).context("no disk")?;
    Ok(metadata.len() == 64 << 20 && metadata.blocks() < 64)
}

/// What others are installed with starts by itself, whatever the firmware.
#[test]
fn the_image_of_a_small_debian_starts_from_its_disk() {
    if let Some(why) = why_no_image() {
        return skipped(&why);
    }
    with_machines(1, |lab, segment| {
        let image = lab.dir().join("debian.raw");
        os::make(&image, IMAGE, "one")?;
        let dhcp = ForeignDhcp::start(segment, "dhcp", DHCP, RANGE, &Offer::Nothing)?;
        for (name, firmware, last) in
            [("m1", Firmware::Bios, 1), ("m2", Firmware::Uefi { http: false }, 2)]
        {
            let mac = format!("52:54:00:77:00:{last:02x}").parse()?;
            let spec = Spec::new(name, firmware, mac).disk(IMAGE << 20, "OS", Bus::Virtio);
            let vm = Vm::new(segment, spec.boot(Boot::Disk))?;
            fs::copy(&image, vm.disk(0)).context("cannot fill the disk")?;
            vm.power_on()?;
            vm.wait_for(&format!("{} one, as image", os::BANNER), BOOT)?;
            dhcp.wait_for_lease(vm.mac(), BOOT)?;
            vm.power_off()?;
        }
        Ok(())
    });
}
