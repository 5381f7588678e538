use p2pinst_types::record::{BootUse, Firmware, Guise, Inventory, Invite, Role};
use p2pinst_types::{AssignmentId, Kind, Mac, MachineId, limits};
use proptest::prelude::*;

use crate::fixture::{Invited, Lab, key, name};
use crate::scout::{ScoutCluster, ScoutError, ScoutHello, Welcome};
use crate::{RootChain, SecretKey};

fn hello(lab: &Lab, key: &SecretKey) -> ScoutHello {
    ScoutHello {
        cluster: *lab.cluster(),
        key: key.public(),
        macs: vec![Mac([2; 6])],
        inventory: Inventory {
            uuid: None,
            vendor: None,
            product: None,
            serial: None,
            firmware: Firmware::Uefi,
            arch: "x86_64".to_owned(),
            cpu: None,
            cpus: 1,
            memory: 1,
            disks: Vec::new(),
            nics: Vec::new(),
            controller: None,
        },
        code: None,
        addrs: Vec::new(),
    }
}

#[test]
fn a_hello_is_its_keys_and_its_clusters() {
    let (lab, scout) = (Lab::default(), key(7));
    let said = hello(&lab, &scout);
    let bytes = said.sign(&scout).unwrap();
    assert_eq!(ScoutHello::verify(&bytes, lab.cluster()).unwrap(), said);
    let other = Lab::new(1);
    assert_eq!(ScoutHello::verify(&bytes, other.cluster()), Err(ScoutError::WrongCluster));
    // signed by another, and with too much in it
    let forged = said.sign(&key(8)).unwrap();
    assert_eq!(ScoutHello::verify(&forged, lab.cluster()), Err(ScoutError::Signature));
    let macs = vec![Mac([2; 6]); limits::HARDWARE_NICS + 1];
    let large = ScoutHello { macs, ..said }.sign(&scout).unwrap();
    assert_eq!(ScoutHello::verify(&large, lab.cluster()), Err(ScoutError::Malformed));
}

/// A welcome of a node with the boot role, and the roots.
fn welcome(roles: &[Role], guise: Guise, by_other: bool) -> (RootChain, Welcome) {
    let mut lab = Lab::default();
    let booter = key(20);
    let grant = lab.grant(booter.public(), "n1", roles);
    let invite_key = key(21);
    let invite = Invite {
        key: invite_key.public(),
        site: name("lab"),
        labels: p2pinst_types::Labels::default(),
        uses: 1,
        not_after: lab.clock,
        replaces: Some(MachineId([1; 16])),
        boot: Some(BootUse { assignment: AssignmentId([2; 16]), guise }),
    };
    let author = if by_other { lab.operator.clone() } else { booter };
    let cell = lab.write(&author, Kind::INVITE, invite.key.as_bytes(), &invite);
    let invited = Invited { key: invite_key, invite, cell };
    let cert = lab.node(&invited, 22, "b1").signed;
    let welcome = Welcome {
        roots: lab.roots.signed().to_vec(),
        grant: grant.bytes().to_vec(),
        invite: invited.cell.bytes().to_vec(),
        cert,
        bootstrap: Vec::new(),
    };
    (lab.roots, welcome)
}

#[test]
fn a_welcome_leads_from_the_root_to_the_key() {
    let own = key(22).public();
    let (roots, good) = welcome(&[Role::Boot], Guise::Scout, false);
    let welcomed = good.verify(&roots, &own, Guise::Scout).unwrap();
    assert_eq!(welcomed.assignment, AssignmentId([2; 16]));
    assert!(good.verify(&roots, &key(23).public(), Guise::Scout).is_err(), "another's key");
    assert!(good.verify(&roots, &own, Guise::System).is_err(), "another guise");
    let other = Lab::new(1).roots;
    assert_eq!(good.verify(&other, &own, Guise::Scout).unwrap_err(), ScoutError::WrongCluster);
    let (roots, no_role) = welcome(&[Role::Power], Guise::Scout, false);
    assert!(no_role.verify(&roots, &own, Guise::Scout).is_err(), "no boot role");
    let (roots, by_other) = welcome(&[Role::Boot], Guise::Scout, true);
    assert!(by_other.verify(&roots, &own, Guise::Scout).is_err(), "not who has the grant");
}

proptest! {
    #[test]
    fn any_bytes_are_a_hello_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let lab = Lab::default();
        prop_assert!(ScoutHello::verify(&bytes, lab.cluster()).is_err());
    }
}

#[test]
fn a_scout_knows_whose_it_is() {
    let lab = Lab::default();
    let made = ScoutCluster {
        cluster: *lab.cluster(),
        roots: lab.roots.signed().to_vec(),
        peers: vec!["/ip4/10.0.0.1/tcp/4001".to_owned()],
    };
    let bytes = made.encode().unwrap();
    let (read, roots) = ScoutCluster::decode(&bytes).unwrap();
    assert_eq!((&read, roots.cluster()), (&made, lab.cluster()));
    let other = ScoutCluster { cluster: *Lab::new(1).cluster(), ..made.clone() };
    let other = ScoutCluster::decode(&other.encode().unwrap());
    assert_eq!(other.unwrap_err(), ScoutError::WrongCluster);
    let many = ScoutCluster { peers: vec![String::new(); limits::ADDRS + 1], ..made };
    let many = ScoutCluster::decode(&many.encode().unwrap());
    assert_eq!(many.unwrap_err(), ScoutError::Malformed);
    assert_eq!(ScoutCluster::decode(b"no").unwrap_err(), ScoutError::Malformed);
}
